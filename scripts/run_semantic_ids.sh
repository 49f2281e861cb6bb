#!/usr/bin/env bash
# Items to evaluated semantic IDs: [prepare ->] tokenize -> embed -> train -> export -> evaluate.
#   bash scripts/run_semantic_ids.sh                                        (prepared items in data/output)
#   bash scripts/run_semantic_ids.sh --input meta_Video_Games.jsonl.gz --sequences purchases.jsonl
#   bash scripts/run_semantic_ids.sh --input shop.csv --category shop --model FOLDER --pooling mean --dim 384 \
#     --prepare_flags "--id_column sku" --train_flags "--max_lr 1e-3 --amp"
#
# --input FILE           raw metadata, prepared first (default: none)
# --category NAME        names the files (Video_Games)      --data_dir FOLDER        holds output/ (data)
# --model NAME           hub name or folder (Qwen/Qwen3-Embedding-0.6B)
# --pooling last|mean    of its last layer (last)           --dim N                  numbers kept of it (1024)
# --max_length N         tokens of a text (2048)            --instruction TEXT       before each text ("" = none)
# --checkpoint_dir DIR   of training (checkpoints/rqvae)    --sequences FILE         purchases, to evaluate with
# --checkpoint FILE      trained model to use: no training (none)
# --processes N          GPUs of embed and train (1)        --STAGE_flags "..."      any other flags of a stage
#
# A stage runs again only if its command, or the content of a file that the command names, has changed. A stage
# that was stopped is repeated; embed and train go on where they were. DATA_DIR/output/.CATEGORY-stages keeps,
# by stage, a hash of both.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}

fail() {
  echo "run_semantic_ids.sh: error: $*" >&2
  exit 2
}

input='' category=Video_Games data_dir=data checkpoint_dir=checkpoints/rqvae checkpoint='' sequences='' processes=1
model=Qwen/Qwen3-Embedding-0.6B pooling=last dim=1024 max_length=2048
prepare_flags='' tokenize_flags='' embed_flags='' train_flags='' export_flags='' evaluate_flags=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --input | --category | --data_dir | --model | --pooling | --dim | --max_length | --instruction | \
      --checkpoint_dir | --checkpoint | --sequences | --processes | --prepare_flags | --tokenize_flags | --embed_flags | \
      --train_flags | --export_flags | --evaluate_flags)
      [ $# -ge 2 ] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift 2 ;;
    *) fail "unknown argument $1; --help lists the flags" ;;
  esac
done
[[ $dim =~ ^[1-9][0-9]*$ && $max_length =~ ^[1-9][0-9]*$ && $processes =~ ^[1-9][0-9]*$ ]] ||
  fail "--dim, --max_length and --processes are whole numbers above 0"
for flag in input sequences checkpoint; do # what a late stage needs is missed early
  [ -z "${!flag}" ] || [ -f "${!flag}" ] || fail "--$flag ${!flag}: no such file"
done
command -v "$python" >/dev/null || bash "$root/scripts/setup.sh"

output=$data_dir/output
stages=$output/.$category-stages
items=$output/${category}_items_updated.parquet
tokens=$output/${category}_tokenized.npz
embeddings=$output/${category}_items_with_embeddings.parquet
ids=$output/${category}_semantic_ids.parquet
evaluation=$output/${category}_evaluation
mkdir -p "$stages" 2>/dev/null || fail "--data_dir $data_dir: cannot be written"
if command -v flock >/dev/null; then # stages inherit the lock, and keep it if only this shell is killed
  exec 9>"$stages/lock"
  flock -n 9 || fail "another run is at work on $output ($category)"
fi

# key MADE... -- COMMAND...: a hash of the command's words, and of the content of files and folders among them
key() {
  local made='' word file
  while [ "$1" != -- ]; do made+=$'\n'$1; shift; done
  shift
  for word in "$@"; do
    printf '%s\n' "$word"
    if [ -e "$word" ] && ! grep -qxF -- "$word" <<<"$made"; then
      find -L "$word" -type f | LC_ALL=C sort | while read -r file; do sha256sum <"$file"; done
    fi
  done | sha256sum | cut -d' ' -f1
}

# stage NAME MADE... -- SCRIPT ARGUMENT...: runs a script, unless what it made is there and nothing has changed
stage() {
  local name=$1 made=() now started=$SECONDS path launch=("$python")
  shift
  while [ "$1" != -- ]; do made+=("$1"); shift; done
  shift
  now=$(key "${made[@]}" -- "$@")
  if [ "$(cat "$stages/$name" 2>/dev/null)" = "$now" ] && ls -d "${made[@]}" >/dev/null 2>&1; then
    echo "$name: nothing has changed"
    return
  fi
  echo "$name ..."
  rm -f "$stages/$name"
  [ "$name" != train ] || make_way_for "$now"
  if [ "$processes" -gt 1 ] && [[ $name = embed || $name = train ]]; then
    launch=("$python" -m torch.distributed.run --standalone --nproc_per_node "$processes")
  fi
  "${launch[@]}" "$root/semantic_ids/$1" "${@:2}"
  echo "$now" >"$stages/$name"
  echo "$name took $((SECONDS - started)) s"
}

# Training goes on from a checkpoint only if that is of the same command and items; another run is kept aside
make_way_for() {
  local mark=$checkpoint_dir/.started_as aside
  if compgen -G "$checkpoint_dir/*.pth" >/dev/null && [ "$(cat "$mark" 2>/dev/null)" != "$1" ]; then
    aside=$checkpoint_dir-before-$(date +%Y%m%d-%H%M%S)
    mv "$checkpoint_dir" "$aside"
    echo "train: $checkpoint_dir was of other items or settings; it is now $aside"
  fi
  mkdir -p "$checkpoint_dir"
  echo "$1" >"$mark"
}

# The stages; ..._flags are split into words on purpose
[ -z "$input" ] || stage prepare "$items" -- prepare_items.py --input "$input" --output "$items" $prepare_flags
stage tokenize "$tokens" "${tokens%.npz}.ragged.npz" -- tokenize_items.py --input "$items" --output "$tokens" \
  --model "$model" --max_length "$max_length" ${instruction+--instruction "$instruction"} $tokenize_flags
stage embed "$embeddings" -- embed_items.py --tokenized "$tokens" --items "$items" --output "$embeddings" \
  --model "$model" --pooling "$pooling" --dim "$dim" $embed_flags
[ -n "$checkpoint" ] || stage train "$checkpoint_dir" "$checkpoint_dir/best_model.pth" -- train_rqvae.py \
  --category "$category" --embeddings_path "$embeddings" --checkpoint_dir "$checkpoint_dir" \
  --item_embedding_dim "$dim" --resume auto $train_flags
checkpoint=${checkpoint:-$checkpoint_dir/best_model.pth}
stage export "$ids" "${ids%.parquet}.trie.npz" -- export_semantic_ids.py --embeddings "$embeddings" \
  --checkpoint "$checkpoint" --output "$ids" $export_flags
stage evaluate "$evaluation" "$evaluation/metrics.json" "$evaluation/ids.html" -- evaluate_semantic_ids.py \
  --ids "$ids" --embeddings "$embeddings" --checkpoint "$checkpoint" --out "$evaluation" \
  ${sequences:+--sequences "$sequences"} $evaluate_flags
