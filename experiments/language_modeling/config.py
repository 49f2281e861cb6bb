"""Settings of the language modelling study: GPT-2 small as it is usually trained, and flags of its own."""

import argparse
from pathlib import Path
from typing import Any

from experiments.run_flags import add_run_args, fill_defaults, positive
from training_utils import InputError

# 491,520 tokens a step in five micro-batches of eight processes, or 61,440 in one.
SPEC: dict[str, Any] = {
    "batch_size": 12,
    "gradient_accumulation_steps": 5,
    "eval_steps": 500,
    "learning_rate": 6e-4,
    "weight_decay": 0.1,
    "warmup_ratio": 0.1,
    "grad_clip": 1.0,
    "dropout": 0.0,
    "max_steps": 10_000,
}
RECIPES = {"spec": SPEC}
DEFAULTS = {"data": Path("data/lm"), "out": Path("results/language_modeling"), "recipes": RECIPES}


def parse_args(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_args(parser, DEFAULTS)
    own = parser.add_argument_group("language modelling (the defaults are GPT-2 small)")
    add = own.add_argument
    add("--max_iters", dest="max_steps", type=positive, help="the same as --max_steps")
    add("--num_layers", type=positive, default=12)
    add("--hidden_size", type=positive, default=768)
    add("--num_heads", type=positive, default=12)
    add("--block_size", type=positive, default=1024, help="tokens of a window")
    add("--eval_windows", type=positive, default=400, help="of a split, that an evaluation reads")
    args = parser.parse_args()
    fill_defaults(args, RECIPES[args.recipe])
    if args.hidden_size % args.num_heads:
        raise InputError(f"--hidden_size {args.hidden_size}: not a multiple of --num_heads {args.num_heads}")
    return args
