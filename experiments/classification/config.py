"""Settings of the classification study: the spec's YAML, and flags of its own."""

import argparse
from pathlib import Path
from typing import Any

from experiments.classification.model import TINY_MAX_LENGTH
from experiments.run_flags import add_run_args, fill_defaults, positive
from training_utils import InputError

MAX_LENGTH = 512
# The spec's figures. `strong` is the recipe of the best published plain BERT (15 epochs, batches of 8).
SPEC: dict[str, Any] = {
    "batch_size": 8,
    "gradient_accumulation_steps": 4,
    "eval_steps": 500,
    "learning_rate": 2e-5,
    "weight_decay": 0.01,
    "warmup_ratio": 0.1,
    "grad_clip": 1.0,
    "dropout": 0.1,
    "max_steps": 5000,
    "head_bias_init": "zero",
}
STRONG = SPEC | {
    "gradient_accumulation_steps": 1,
    "eval_steps": 5625,
    "learning_rate": 5e-5,
    "max_steps": None,
    "max_epochs": 15,
    "head_bias_init": "prior",
}
RECIPES = {"spec": SPEC, "strong": STRONG}
DEFAULTS = {"data": Path("data/eurlex"), "out": Path("results/classification"), "recipes": RECIPES}


def parse_args(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_args(parser, DEFAULTS)
    own = parser.add_argument_group("classification")
    add = own.add_argument
    add("--max_epochs", type=positive, help="in place of --max_steps, or the smaller of the two")
    add(
        "--encoder",
        default="roberta-base",
        help="hub name, folder (config.json alone: random weights) or tiny-random",
    )
    add(
        "--max_length",
        type=positive,
        help=f"tokens a document ({MAX_LENGTH}; tiny-random: {TINY_MAX_LENGTH})",
    )
    add(
        "--head_bias_init",
        choices=("prior", "zero"),
        help="prior: each label's log-odds in the training split",
    )
    args = parser.parse_args()
    recipe = dict(RECIPES[args.recipe])
    if args.max_epochs and args.max_steps is None:
        recipe["max_steps"] = None
    fill_defaults(args, recipe)
    if args.max_length is None:
        args.max_length = TINY_MAX_LENGTH if args.encoder == "tiny-random" else MAX_LENGTH
    if args.max_length < 3:
        raise InputError(f"--max_length {args.max_length}: a document needs 3 or more")
    return args
