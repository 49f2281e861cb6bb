"""Train the compact encoder with its v1 head.

    poetry run python category_classification/train_embedding_classifier.py --data DIR --out DIR --amp

In: a dataset written by prepare_lspc.py. Out: config.json, metrics.jsonl, checkpoint-epochN.pt, best.pt
(highest validation macro-F1), summary.json with the test metrics, learning_curve.png, and tokenizer/, which
best.pt needs.
"""

import argparse
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from category_classification.embedding_classifier import EmbeddingClassifier
from category_classification.lspc import load_splits, load_tokenizer, open_dataset
from category_classification.training import end_epoch, finish, start_run, train_one_epoch
from category_classification.training_flags import add_training_args, encoder_config, rate
from training_utils import init_distributed, pick_device, run_script, seed_everything


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_training_args(parser)
    parser.add_argument("--classifier_dropout", type=rate, default=0.1, help="in the head")
    return parser.parse_args()


def compute_loss(model: nn.Module, batch: dict[str, Any], args: argparse.Namespace) -> tuple[Tensor, dict]:
    logits = model(batch["input_ids"], batch["attention_mask"])
    return F.cross_entropy(logits.float(), batch["labels"]), {}


def main() -> None:
    args = parse_args()
    world = init_distributed()
    device = pick_device(args.device, world.local_rank)
    seed_everything(args.seed + world.rank)

    # Data
    names = [args.train_split, "validation", "test"]
    dataset = open_dataset(args.data, names)
    tokenizer = load_tokenizer(args.tokenizer)
    splits = load_splits(args.data, names, dataset, tokenizer, args.seq_len, world)
    train, class_names = splits[args.train_split].sample(args.max_rows, args.seed), splits["test"].class_names

    # Model
    config = encoder_config(args, len(tokenizer))
    model = EmbeddingClassifier(config, len(class_names), args.classifier_dropout).to(device)
    model.encoder.silence_unseen(torch.from_numpy(train.seen))
    settings = {"config": asdict(config), "num_classes": len(class_names), "dropout": args.classifier_dropout}
    info = {"model": "EmbeddingClassifier", "model_settings": settings, "class_names": class_names}

    # Optimizer, schedule, resume
    run = start_run(args, world, device, model, train, info, tokenizer)

    # Train
    while not run.finished:
        train_one_epoch(run, compute_loss)
        end_epoch(run, splits["validation"])

    # Test
    finish(run, splits["test"])


if __name__ == "__main__":
    run_script(main)
