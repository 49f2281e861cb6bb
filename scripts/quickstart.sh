#!/usr/bin/env bash
# Sets up, makes sample data and runs each project's main jobs:  bash scripts/quickstart.sh [project ...]
# Results stay in data/quickstart/; run again after deleting a folder there to repeat its job.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
python=.venv/bin/python
samples=data/samples
out=data/quickstart

category_classification() {
  local dir=$out/category_classification
  local sources=$samples/lspc
  [ -f "$sources/lspcV2020.zip" ] || "$python" scripts/make_sample_data.py --out "$samples" --seed 0
  [ -d "$dir/dataset" ] || "$python" category_classification/prepare_lspc.py --zip "$sources/lspcV2020.zip" \
    --labels "$sources/WDC_Corpus_LargeScaleExperiment_MajorityVoting.json.gz" --add_language --out "$dir/dataset"
  [ -f "$dir/linear/metrics.json" ] || "$python" category_classification/baseline_linear.py \
    --data "$dir/dataset" --out "$dir/linear" --lang_min_samples 20
  [ -f "$dir/encoder/summary.json" ] || "$python" category_classification/train_embedding_classifier.py \
    --data "$dir/dataset" --tokenizer "$sources/tokenizer" --out "$dir/encoder" --resume auto \
    --num_layers 3 --seq_len 48 --epochs 2 --batch_size 64 --lr 1e-3 --embedding_update rows --amp --lang_min_samples 20
  [ -f "$dir/encoder/evaluation-test/metrics.json" ] || "$python" category_classification/evaluate_embedding_classifier.py \
    --checkpoint "$dir/encoder/best.pt" --data "$dir/dataset" --lang_min_samples 20
  "$python" category_classification/predict_categories.py --checkpoint "$dir/encoder/best.pt" \
    --input "$sources/products.csv" --text_column title,description --output "$dir/predictions.csv"
  "$python" - "$dir" <<'PYTHON'
import json, sys
from pathlib import Path

folder = Path(sys.argv[1])
linear = json.loads((folder / "linear/metrics.json").read_text())["test"]
encoder = json.loads((folder / "encoder/summary.json").read_text())["test"]
print(f"\n{'test split of the sample corpus':34}{'macro-F1':>10}{'accuracy':>10}")
for name, scores in (("linear model on character n-grams", linear), ("compact encoder, 3 layers", encoder)):
    print(f"{name:34}{scores['macro_f1']:10.4f}{scores['accuracy']:10.4f}")
print(f"\ntrained model   {folder}/encoder/best.pt")
print(f"report          {folder}/encoder/evaluation-test/report.md")
print(f"predictions     {folder}/predictions.csv")
PYTHON
}

projects=("$@")
[ $# -gt 0 ] || projects=(category_classification)
for project in "${projects[@]}"; do
  declare -F "$project" >/dev/null || { echo "quickstart.sh: no project $project (there is: category_classification)" >&2; exit 2; }
  started=$SECONDS
  "$project"
  echo "$project took $((SECONDS - started)) s"
done
