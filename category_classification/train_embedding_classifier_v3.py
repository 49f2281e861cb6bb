"""Train the compact encoder with v2's head and a contrastive loss beside it.

    poetry run python category_classification/train_embedding_classifier_v3.py --data DIR --out DIR --amp

In: a dataset written by prepare_lspc.py. Out: config.json, metrics.jsonl, checkpoint-epochN.pt, best.pt
(highest validation macro-F1), summary.json with the test metrics, learning_curve.png, and tokenizer/, which
best.pt needs.
"""

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from category_classification.embedding_classifier_v3 import EmbeddingClassifierV3
from category_classification.languages import ClusterPairs, LanguagePlan, plan_languages
from category_classification.losses import POSITIVES, classification_loss, contrastive_loss
from category_classification.lspc import load_splits, load_tokenizer, open_dataset
from category_classification.training import end_epoch, finish, start_run, train_one_epoch
from category_classification.training_flags import (
    add_head_args,
    add_language_args,
    add_training_args,
    encoder_config,
    not_negative_float,
    positive,
    positive_float,
)
from training_utils import InputError, World, init_distributed, pick_device, run_script, seed_everything


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_training_args(parser)
    add_head_args(parser)
    add = parser.add_argument_group("contrast").add_argument
    add("--contrastive_dim", type=positive, default=256, help="size of the projected vectors")
    add("--contrastive_weight", type=not_negative_float, default=0.1, help="of the contrastive loss")
    add("--contrastive_temp", type=positive_float, default=0.05, help="temperature")
    add("--contrastive_positives", choices=POSITIVES, default="label", help="see losses.py")
    add_language_args(parser)
    return parser.parse_args()


def compute_loss(
    model: nn.Module, batch: dict[str, Any], args: argparse.Namespace, plan: LanguagePlan, world: World
) -> tuple[Tensor, dict]:
    logits, features = model(batch["input_ids"], batch["attention_mask"])
    weights = plan.weights_of(batch)
    loss = classification_loss(logits, batch["labels"], args.label_smoothing, args.focal_gamma, weights)
    settings = args.contrastive_temp, args.contrastive_positives
    contrast = contrastive_loss(features, batch, *settings, world)
    parts = {"classification_loss": loss.detach(), "contrastive_loss": contrast.detach()}
    return loss + args.contrastive_weight * contrast + plan.anchor(logits, batch), parts


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
    head = dict(
        bottleneck=args.classifier_hidden, dropout=args.classifier_dropout, residual=args.classifier_residual
    )
    model = EmbeddingClassifierV3(config, len(class_names), **head, contrastive_dim=args.contrastive_dim).to(
        device
    )
    model.encoder.silence_unseen(torch.from_numpy(train.seen))
    plan = plan_languages(args, model, train, len(tokenizer), device)
    if args.contrastive_positives == "cluster":
        if plan.rows is not None:
            raise InputError(
                "--contrastive_positives cluster: chooses the rows itself, as the language flags do"
            )
        plan.rows = ClusterPairs(train.clusters, train.languages)
    settings = {
        "config": asdict(config),
        "num_classes": len(class_names),
        **head,
        "contrastive_dim": args.contrastive_dim,
    }
    info = {"model": "EmbeddingClassifierV3", "model_settings": settings, "class_names": class_names}

    # Optimizer, schedule, resume
    run = start_run(args, world, device, model, train, info, tokenizer, plan.rows)

    # Train
    while not run.finished:
        train_one_epoch(run, partial(compute_loss, plan=plan, world=world))
        end_epoch(run, splits["validation"])

    # Test
    finish(run, splits["test"])


if __name__ == "__main__":
    run_script(main)
