#!/usr/bin/env bash
# Test macro-F1 over training rows, 1k to 1M of the sample corpus, for the linear model and a two-layer encoder.
#   bash scripts/learning_curve.sh [OUT]       (an hour and a half on one core; run again to go on)
# Both see the first 100 characters of a text. Ends in OUT/rows.png and OUT/rows.json.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || bash scripts/setup.sh
out=${1:-data/learning_curve}
python=.venv/bin/python
mkdir -p "$out"

[ -f "$out/samples/lspc/lspcV2020.zip" ] || "$python" scripts/make_sample_data.py --out "$out/samples" --lspc_rows 1400000 --seed 0
[ -d "$out/whole" ] || "$python" category_classification/prepare_lspc.py --zip "$out/samples/lspc/lspcV2020.zip" \
  --labels "$out/samples/lspc/WDC_Corpus_LargeScaleExperiment_MajorityVoting.json.gz" --add_language \
  --val_size .005 --test_size .01 --out "$out/whole"
[ -d "$out/dataset" ] || "$python" - "$out" <<'PYTHON'
import sys
from datasets import load_from_disk

splits = load_from_disk(f"{sys.argv[1]}/whole")
del splits["full"]
splits = splits.map(lambda rows: {"text": [text[:100] for text in rows["text"]]}, batched=True)
splits.save_to_disk(f"{sys.argv[1]}/dataset")
PYTHON

seed=1
while read -r rows epochs; do
  linear=$out/linear-$rows-$seed
  encoder=$out/encoder-$rows-$seed
  [ -f "$linear/metrics.json" ] || "$python" category_classification/baseline_linear.py --data "$out/dataset" \
    --out "$linear" --max_rows "$rows" --seed "$seed"
  [ -f "$encoder/summary.json" ] || "$python" category_classification/train_embedding_classifier.py \
    --data "$out/dataset" --tokenizer "$out/samples/lspc/tokenizer" --out "$encoder" --resume auto --max_rows "$rows" \
    --seed "$seed" --epochs "$epochs" --num_layers 2 --seq_len 48 --batch_size 64 --lr 1e-3 --token_dropout 0.1 \
    --embedding_update rows --amp --compile --save_every "$epochs" --keep_last 1 --log_every 500
done <<'SIZES'
1000 15
3000 12
10000 8
30000 4
100000 2
300000 1
1000000 1
SIZES

"$python" - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
from category_classification.report import plot_rows_curve

out, points = Path(sys.argv[1]), []
files = {"linear": ("linear model, character n-grams", "metrics.json"), "encoder": ("encoder, two layers", "summary.json")}
for kind, (name, file) in files.items():
    for folder in sorted(out.glob(f"{kind}-*-*")):
        rows, seed = map(int, folder.name.split("-")[1:])
        score = json.loads((folder / file).read_text())["test"]["macro_f1"]
        points.append({"model": name, "rows": rows, "seed": seed, "macro_f1": score})
points.sort(key=lambda p: (p["rows"], p["model"], p["seed"]))
(out / "rows.json").write_text(json.dumps(points, indent=1) + "\n")
plot_rows_curve(points, out / "rows.png")
for p in points:
    print(f"{p['rows']:>9,} rows  {p['model']:34} {p['macro_f1']:.4f}")
PYTHON
