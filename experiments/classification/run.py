"""Fine-tune an encoder on EUR-Lex under one number format, or under all of them.

    python experiments/classification/run.py --config amp_bf16 --seed 0
    python experiments/classification/run.py --config all --seeds 3
    python experiments/classification/run.py --config amp_bf16 --max_steps 100

In: --data, written by prepare_data.py. Out, in --out: a line of results.jsonl for each run, predictions/ of
the test split, weights/ of the fp32 baseline, runs/ with each run's records. report.py reads it. PLAN.md says
what is tested and how each figure is defined.
"""

import argparse
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from experiments.classification.config import parse_args
from experiments.classification.data import EurLex, load_eurlex
from experiments.classification.metrics import MultiLabelMetrics
from experiments.classification.model import (
    binary_cross_entropy,
    encoder_config,
    head_flops_share,
    make_classifier,
    pretrained,
)
from experiments.costs import model_flops
from experiments.sweep import list_configs, run_all
from experiments.task import EpochOrder, Evaluation, Predict, Task, read_metadata
from training_utils import run_script

EVALUATION_BATCH = 64
CURVE = ("loss", "micro_f1", "micro_f1_tuned", "precision_at_1", "precision_at_5")


def score(
    data: EurLex, predict: Predict, split: str, tuned: float | None = None
) -> tuple[MultiLabelMetrics, dict[str, Any]]:
    """Metrics of one split, and the mean of its cells' cross-entropies, from logits upcast to float32."""
    metrics = MultiLabelMetrics(data.num_labels, data.train_documents, tuned)
    loss, cells = 0.0, 0
    for _, batch in data.evaluation_batches(split, EVALUATION_BATCH):
        logits = predict(batch).float()
        rows, labels = (target.to(logits.device) for target in batch.targets)
        metrics.add(logits, rows, labels)
        # -log sigmoid of each cell: softplus(z), less z where the label is true
        loss += float(
            F.softplus(logits).sum(dtype=torch.float64) - logits[rows, labels].sum(dtype=torch.float64)
        )
        cells += logits.numel()
    return metrics, {"loss": loss / cells, **metrics.result()}


def validate(data: EurLex, predict: Predict) -> dict[str, Any]:
    """A point of the curve. Its tuned micro-F1 is that of the threshold tuned on these very documents."""
    metrics, values = score(data, predict, "validation")
    _, values["micro_f1_tuned"] = metrics.best_threshold()
    return {name: values[name] for name in CURVE}


def evaluate(data: EurLex, predict: Predict) -> Evaluation:
    """The threshold comes from the validation split and holds for both."""
    tuned, _ = score(data, predict, "validation")[0].best_threshold()
    _, validation = score(data, predict, "validation", tuned)
    metrics, test = score(data, predict, "test", tuned)
    split = data.splits["test"]
    hits, predicted, gold = (metrics.column(name) for name in ("hits", "predicted", "gold"))
    predictions = {
        "top5": metrics.column("best"),
        "gold": split.labels,
        "gold_offsets": split.label_offsets,
        "tp": hits.astype(np.int32),
        "fp": (predicted - hits).astype(np.int32),
        "fn": (gold - hits).astype(np.int32),
    }
    return Evaluation({"validation": validation, "test": test}, predictions)


def make_task(args: argparse.Namespace) -> Task:
    data = load_eurlex(args.data, args.max_length)
    config = encoder_config(args.encoder, data.metadata["tokenizer"], args.max_length, args.dropout)
    documents = len(data.splits["train"])

    def make_model() -> nn.Module:
        model = make_classifier(args.encoder, config, data.num_labels, args.dropout)
        if args.head_bias_init == "prior":
            model.set_bias_to_prior(data.train_documents, documents)
        return model

    sizes = config.num_hidden_layers, config.hidden_size, args.max_length, data.num_labels
    width = config.intermediate_size
    pad_to = args.max_length if args.compile else None  # one shape, so one graph
    counts = {name: len(split) for name, split in data.splits.items()}
    return Task(
        name="classification",
        headline=("micro_f1_tuned", "precision_at_5"),
        make_model=make_model,
        step_rows=EpochOrder(documents, args.seed, np.diff(data.splits["train"].offsets)).rows,
        train_batch=lambda rows: data.batch("train", rows, pad_to),
        loss=binary_cross_entropy,
        validate=lambda predict: validate(data, predict),
        evaluate=lambda predict: evaluate(data, predict),
        epoch_rows=documents,
        flops_per_sample=model_flops(*sizes, width),
        head_flops_share=head_flops_share(
            args.max_length, config.hidden_size, sizes[0], width, data.num_labels
        ),
        betas=(0.9, 0.999),
        min_lr_scale=0.0,
        facts={
            "pretrained": pretrained(args.encoder),
            "head_bias_init": args.head_bias_init,
            "max_length": args.max_length,
            "max_epochs": args.max_epochs,
            "model": {"name": args.encoder, "layers": sizes[0], "hidden_size": config.hidden_size},
            "data": {"fingerprint": data.metadata["fingerprint"], **counts, "labels": data.num_labels},
        },
    )


def main() -> None:
    args = parse_args(__doc__)
    if args.list:
        list_configs("classification")
        return
    metadata = read_metadata(args.data, "labels", "experiments/classification/prepare_data.py")
    run_all(make_task, "classification", metadata["fingerprint"], args)


if __name__ == "__main__":
    run_script(main)
