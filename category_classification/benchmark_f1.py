"""Macro-F1 after equal rows: the padded origin beside train_embedding_classifier.py, over seeds.

    python category_classification/benchmark_f1.py --data data/real_titles/dataset \
        --tokenizer data/real_titles/tokenizer --work /tmp/f1 --json f1.json

benchmark.py shows what packed batches and row-wise embedding updates gain in speed; this shows that they
cost no quality. The origin sees the same rows as often, also in random order, padded, with AdamW on the
whole table; both report the test score at their best epoch on validation. Padding changes no answer
(tests/test_benchmark.py), so `--seq_len` may be short.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from category_classification import embedding_classifier
from category_classification.batches import to_device
from category_classification.benchmark_peers import MaterialisedTokens, pad_to
from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig
from category_classification.evaluation import evaluate
from category_classification.lspc import Split, load_splits, load_tokenizer, open_dataset
from category_classification.training_flags import positive, positive_float
from training_utils import (
    ALONE,
    autocast,
    make_lr_scheduler,
    pick_device,
    run_script,
    seed_everything,
    write_json,
)

TRAINER = Path(__file__).with_name("train_embedding_classifier.py")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the trainer's runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--epochs", type=positive, default=3)
    parser.add_argument("--batch_size", type=positive, default=64)
    parser.add_argument("--lr", type=positive_float, default=5e-4)
    parser.add_argument("--num_layers", type=positive, default=2)
    parser.add_argument("--seq_len", type=positive, default=64)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def train_origin(splits: dict[str, Split], vocab_size: int, args: argparse.Namespace, seed: int) -> float:
    """Test macro-F1 of our model as it was first published, at its best epoch on validation."""
    device, train = pick_device(args.device), splits["train"]
    seed_everything(seed)
    config = EncoderConfig(vocab_size=vocab_size, num_layers=args.num_layers)
    model = EmbeddingClassifier(config, len(train.class_names)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01, foreach=True)
    steps = args.epochs * math.ceil(len(train) / args.batch_size)
    scheduler = make_lr_scheduler(optimizer, "cosine", steps // 20, steps, 0.05)
    best, best_test = -1.0, 0.0
    for _ in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(train)).split(args.batch_size):
            batch = pad_to(to_device(train.batch(rows.numpy()), device), args.seq_len)
            with (
                autocast(device, True),
                mock.patch.object(embedding_classifier, "lay_out", MaterialisedTokens),
            ):
                logits = model(batch["input_ids"], batch["attention_mask"])
                loss = F.cross_entropy(logits.float(), batch["labels"])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        validation, test = (
            evaluate(model, splits[name], device, lambda: autocast(device, True)).report["macro_f1"]
            for name in ("validation", "test")
        )
        if validation > best:
            best, best_test = validation, test
    return best_test


def train_ours(args: argparse.Namespace, seed: int, embedding_update: str) -> float:
    """Test macro-F1 that the train script itself reports; a finished run is not repeated."""
    out = args.work / f"{embedding_update}-{seed}"
    flags = dict(
        data=args.data, tokenizer=args.tokenizer, out=out, seed=seed, embedding_update=embedding_update,
        epochs=args.epochs, batch_size=args.batch_size, lr=args.lr, num_layers=args.num_layers,
        seq_len=args.seq_len, device=args.device, resume="auto", save_every=args.epochs,
    )  # fmt: skip
    if not (out / "summary.json").exists():
        command = [sys.executable, str(TRAINER), "--amp"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        if status := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(status)
    return json.loads((out / "summary.json").read_text())["test"]["macro_f1"]


def main() -> None:
    args = parse_args()
    names = ["train", "validation", "test"]
    dataset, tokenizer = open_dataset(args.data, names), load_tokenizer(args.tokenizer)
    splits = load_splits(args.data, names, dataset, tokenizer, args.seq_len, ALONE)
    scores = {"padded origin": [], "ours, dense": [], "ours, rows": []}
    for seed in range(1, args.seeds + 1):
        scores["padded origin"].append(train_origin(splits, len(tokenizer), args, seed))
        scores["ours, dense"].append(train_ours(args, seed, "dense"))
        scores["ours, rows"].append(train_ours(args, seed, "rows"))
        print(
            f"seed {seed}  " + "  ".join(f"{arm} {found[-1]:.4f}" for arm, found in scores.items()),
            flush=True,
        )
    for arm, found in scores.items():
        spread = statistics.stdev(found) if len(found) > 1 else math.nan
        print(f"{arm:15} test macro-F1 {statistics.mean(found):.4f}, standard deviation {spread:.4f}")
    if args.json:
        write_json(args.json, {"scores": scores, "command": " ".join(sys.argv)})


if __name__ == "__main__":
    run_script(main)
