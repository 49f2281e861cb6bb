"""Train a decoder-only GPT from scratch under one number format, or under all of them.

    python experiments/language_modeling/run.py --config amp_bf16 --seed 0
    python experiments/language_modeling/run.py --config all --seeds 3
    python experiments/language_modeling/run.py --config amp_bf16 --max_steps 100

In: --data, written by prepare_data.py. Out, in --out: a line of results.jsonl for each run, predictions/ (the
loss of every test window), weights/ of the fp32 baseline, runs/ with each run's records. report.py reads it
beside the classification's. PLAN.md says what is tested and how each figure is defined.
"""

import argparse
import math
from typing import Any

import numpy as np
from torch.nn import functional as F

from experiments.costs import model_flops
from experiments.language_modeling.config import parse_args
from experiments.language_modeling.data import Text, load_text
from experiments.language_modeling.model import GPT, GPTConfig, cross_entropy, head_flops_share
from experiments.sweep import list_configs, run_all
from experiments.task import Evaluation, Predict, Task, read_metadata
from training_utils import run_script

EVALUATION_BATCH = 8


def window_losses(text: Text, predict: Predict, split: str, windows: int) -> np.ndarray:
    """(windows,) mean cross-entropy of each in nats a token, from logits upcast to float32."""
    losses = []
    for batch in text.evaluation_batches(split, EVALUATION_BATCH, windows):
        logits = predict(batch).float()  # (B, T, V)
        targets = batch.targets[0].to(logits.device)
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        losses.append(each.view(targets.shape).double().mean(1).cpu().numpy())
    return np.concatenate(losses)


def summary(losses: np.ndarray) -> dict[str, Any]:
    loss = float(losses.mean())
    finite = math.isfinite(loss)
    return {
        "loss": loss if finite else None,
        "perplexity": math.exp(min(loss, 700.0)) if finite else None,
        "windows": len(losses),
        "non_finite_windows": int((~np.isfinite(losses)).sum()),
    }


def evaluate(text: Text, predict: Predict, windows: int) -> Evaluation:
    losses = {split: window_losses(text, predict, split, windows) for split in ("validation", "test")}
    metrics = {split: summary(values) for split, values in losses.items()}
    return Evaluation(metrics, {"losses": losses["test"]})


def validate(text: Text, predict: Predict, windows: int) -> dict[str, Any]:
    values = summary(window_losses(text, predict, "validation", windows))
    return {name: values[name] for name in ("loss", "perplexity")}


def make_task(args: argparse.Namespace) -> Task:
    text = load_text(args.data, args.block_size)
    sizes = args.num_layers, args.hidden_size, args.num_heads
    config = GPTConfig(text.vocab_size, args.block_size, *sizes, args.dropout)
    tokens = text.metadata["tokens"]
    return Task(
        name="language_modeling",
        headline=("loss",),
        make_model=lambda: GPT(config),
        step_rows=lambda step, rows: text.step_starts(args.seed, step, rows),
        train_batch=lambda rows: text.batch("train", rows),
        loss=cross_entropy,
        validate=lambda predict: validate(text, predict, args.eval_windows),
        evaluate=lambda predict: evaluate(text, predict, args.eval_windows),
        epoch_rows=max(1, tokens["train"] // args.block_size),
        flops_per_sample=model_flops(
            *sizes[:2], args.block_size, config.vocab_size, causal=True, output_positions=args.block_size
        ),
        head_flops_share=head_flops_share(config),
        betas=(0.9, 0.95),
        min_lr_scale=0.1,
        facts={
            "pretrained": False,
            "block_size": args.block_size,
            "num_heads": args.num_heads,
            "eval_windows": args.eval_windows,
            "model": {
                "name": f"gpt-{args.num_layers}x{args.hidden_size}",
                "layers": sizes[0],
                "hidden_size": sizes[1],
            },
            "data": {"fingerprint": text.metadata["fingerprint"], **tokens, "labels": config.vocab_size},
        },
    )


def main() -> None:
    args = parse_args(__doc__)
    if args.list:
        list_configs("language_modeling")
        return
    metadata = read_metadata(args.data, "tokens", "experiments/language_modeling/prepare_data.py")
    run_all(make_task, "language_modeling", metadata["fingerprint"], args)


if __name__ == "__main__":
    run_script(main)
