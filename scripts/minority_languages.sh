#!/usr/bin/env bash
# What lifts minority languages: v1, v2, v3 and the language flags over three seeds, on any prepared dataset.
#   bash scripts/minority_languages.sh DATA TOKENIZER OUT [recipe ...]     (a run that is done is not repeated)
# Ends in a table of test macro-F1: all rows, English, and the mean of the other languages of 20 rows or more,
# each without and with the per-language logit bias.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || bash scripts/setup.sh
data=$1
tokenizer=$2
out=$3
shift 3
python=.venv/bin/python

v2="v2 --label_smoothing 0.05 --focal_gamma 1.5 --classifier_hidden 384 --classifier_dropout 0.1"
v3="v3 --label_smoothing 0.05 --classifier_hidden 512 --classifier_dropout 0.2 --contrastive_weight 0.1 --contrastive_temp 0.05"
declare -A recipes=(
  [v1]=""
  [v2]="$v2"
  [v2-smoothing]="v2 --label_smoothing 0.05"
  [v3-label]="$v3"
  [v3-cross]="$v3 --contrastive_positives cross_language"
  [v3-cluster]="$v3 --contrastive_positives cluster"
  [alpha-0.7]="v2 --label_smoothing 0.05 --language_alpha 0.7"
  [alpha-0.5]="v2 --label_smoothing 0.05 --language_alpha 0.5"
  [alpha-0.3]="v2 --label_smoothing 0.05 --language_alpha 0.3"
  [v2-alpha-0.3]="$v2 --language_alpha 0.3"
  [kl-tune]="v2 --label_smoothing 0.05 --finetune_languages not-en --kl_weight 1 --epochs 2 --lr 1e-4 --kl_teacher"
)
order=(v1 v2 v2-smoothing v3-label v3-cross v3-cluster alpha-0.7 alpha-0.5 alpha-0.3 v2-alpha-0.3 kl-tune)
[ $# -gt 0 ] && order=("$@")

for seed in 1 2 3; do
  for name in "${order[@]}"; do
    run=$out/$name-$seed
    [ -f "$run/summary.json" ] && continue
    read -r version flags <<<"${recipes[$name]:-v1}"
    suffix=${version#v1}
    [ "$name" = kl-tune ] && flags="$flags $out/v2-smoothing-$seed/best.pt"
    # shellcheck disable=SC2086
    "$python" "category_classification/train_embedding_classifier${suffix:+_$suffix}.py" --data "$data" \
      --tokenizer "$tokenizer" --out "$run" --resume auto --seed "$seed" --epochs 8 --batch_size 64 --lr 1e-3 \
      --num_layers 2 --seq_len 48 --token_dropout 0.2 --embedding_update rows --amp --compile --save_every 8 \
      --lang_min_samples 20 --lang_top_k 0 $flags
  done
done

"$python" - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
from statistics import mean, stdev

scores = {}
for path in sorted(Path(sys.argv[1]).glob("*/summary.json")):
    summary = json.loads(path.read_text())
    for kind, column in (("test", ""), ("test_with_language_bias", " + bias")):
        languages = {name: of["macro_f1"] for name, of in summary[kind]["languages"].items()}
        english = languages.pop("en")
        row = summary[kind]["macro_f1"], english, mean(languages.values())
        scores.setdefault(path.parent.name.rpartition("-")[0] + column, []).append(row)
print(f"{'recipe':24}{'seeds':>5}{'all':>16}{'English':>16}{'others':>16}")
for name, rows in scores.items():
    cells = [f"{mean(c):.4f} ±{stdev(c) if len(c) > 1 else 0:.4f}" for c in zip(*rows)]
    print(f"{name:24}{len(rows):5}" + "".join(f"{cell:>16}" for cell in cells))
PYTHON
