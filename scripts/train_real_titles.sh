#!/usr/bin/env bash
# The published result on real titles: WDC 2017 offers in many languages and book titles, five classes.
#   REAL_DATA_DIR=... bash scripts/train_real_titles.sh [OUT]       (about an hour on two cores)
# REAL_DATA_DIR holds lspc/wdc2017_titles.jsonl.gz, lspc/goodbooks10k_titles.tsv.gz and tokenizers/qwen/.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
real=${REAL_DATA_DIR:-../shared/data}
out=${1:-data/real_titles}
python=.venv/bin/python
mkdir -p "$out/tokenizer"

gunzip -c "$real/tokenizers/qwen/tokenizer.json.gz" >"$out/tokenizer/tokenizer.json"
cp "$real/tokenizers/qwen/tokenizer_config.json" "$out/tokenizer/"
[ -f "$out/titles.jsonl" ] || "$python" - "$real/lspc" "$out/titles.jsonl" <<'PYTHON'
import csv, gzip, json, sys

folder, target = sys.argv[1:]
with open(target, "w") as out:
    for line in gzip.open(f"{folder}/wdc2017_titles.jsonl.gz", "rt"):
        row = json.loads(line)
        out.write(json.dumps({"title": row["text"], "category": row["category"]}) + "\n")
    books = csv.DictReader(gzip.open(f"{folder}/goodbooks10k_titles.tsv.gz", "rt"), delimiter="\t")
    for number, row in enumerate(books):
        if number % 5 < 2:  # 4,000 of 10,000, so that the classes are of like size
            out.write(json.dumps({"title": row["original_title"] or row["title"], "category": "Books"}) + "\n")
PYTHON

[ -d "$out/dataset" ] || "$python" category_classification/prepare_lspc.py --table "$out/titles.jsonl" \
  --text_column title --label_column category --add_language --val_size .10 --test_size .15 --out "$out/dataset"

[ -f "$out/linear/metrics.json" ] || "$python" category_classification/baseline_linear.py --data "$out/dataset" \
  --out "$out/linear" --lang_min_samples 20 --lang_top_k 8
for seed in 1 2 3; do
  [ -f "$out/encoder-$seed/summary.json" ] || "$python" category_classification/train_embedding_classifier.py \
    --data "$out/dataset" --tokenizer "$out/tokenizer" --out "$out/encoder-$seed" --resume auto --seed "$seed" \
    --epochs 8 --batch_size 64 --lr 5e-4 --lr_schedule cosine --lr_min_scale 0.05 --token_dropout 0.2 --seq_len 64 \
    --embedding_update rows --amp --compile --save_every 8 --lang_min_samples 20 --lang_top_k 8
done
