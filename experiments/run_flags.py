"""The flags that both tasks' run.py share, and the checks of their values."""

import argparse
import math
from pathlib import Path
from typing import Any

from training_utils import InputError


def add_run_args(parser: argparse.ArgumentParser, defaults: dict[str, Any]) -> None:
    """`defaults`: those of the task; what it does not name has one for both."""
    what = parser.add_argument_group("what is run")
    add = what.add_argument
    add("--config", default="fp32_baseline", help="a configuration, several with commas, or all; see --list")
    add("--seed", type=not_negative, default=0, help="of weights, order and dropout; the first of --seeds")
    add("--seeds", type=positive, default=1, help="so many seeds, from --seed on")
    add(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="I/N",
        help="of a sweep's runs every N-th, from I = 0 on",
    )
    add("--list", action="store_true", help="show the configurations and end")
    add("--data", type=Path, default=defaults["data"], help="folder that prepare_data.py wrote")
    add("--out", type=Path, default=defaults["out"], help="folder of results.jsonl")

    optim = parser.add_argument_group("optimization")
    add = optim.add_argument
    add(
        "--recipe", choices=sorted(defaults["recipes"]), default="spec", help="a set of defaults; see PLAN.md"
    )
    add("--max_steps", type=positive, help="optimizer steps")
    add("--batch_size", type=positive, help="a micro-batch and process")
    add("--gradient_accumulation_steps", type=positive, help="micro-batches a step")
    add("--learning_rate", type=rates, help="the highest; several with commas make a grid")
    add("--weight_decay", type=not_negative_float, help="of matrices; biases and norms have none")
    add("--warmup_ratio", type=share, help="of the steps; then half a cosine")
    add("--grad_clip", type=not_negative_float, help="largest gradient norm (0 = any)")
    add("--dropout", type=share, help="everywhere")

    run = parser.add_argument_group("run")
    add = run.add_argument
    add("--eval_steps", type=positive, help="steps between evaluations on the validation split")
    add(
        "--save_every_steps", type=not_negative, default=500, help="steps between checkpoints (0 = at a stop)"
    )
    add("--resume", default="auto", help="auto: where a stopped run was; none: anew; or a checkpoint-*.pt")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--threads", type=not_negative, default=0, help="CPU threads (0 = PyTorch's choice)")
    add(
        "--compile",
        action="store_true",
        help="compile the layers and a 32-bit loss, where the configuration allows it",
    )
    add("--emulate", action="store_true", help="run formats that this device lacks, for quality only")
    add("--wandb", action="store_true", help="mirror the records to Weights & Biases")


def fill_defaults(args: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Flags that were not given take the recipe's values."""
    for name, value in recipe.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    if isinstance(args.learning_rate, float):
        args.learning_rate = [args.learning_rate]
    if args.out.is_file():
        raise InputError(f"--out {args.out}: is a file; name a folder")


def shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I in 0 .. N - 1")
    return int(number), int(count)


def rates(text: str) -> list[float]:
    return [positive_float(item) for item in text.split(",")]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def not_negative(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 .. 2^63 - 1")
    return value


def not_negative_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value
