"""What benchmark.py times: a class a contender, built in a process of its own, then `run()` again and again.

`run()` returns rows a second; `result()` is what contenders have to agree on. All contenders of a case see
the same rows, drawn in each process from one seed.

    N documents    B of a batch    T tokens    L labels
"""

import argparse
import math
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.classification.data import EurLex, Split
from experiments.classification.metrics import MultiLabelMetrics
from experiments.classification.model import DocumentClassifier, binary_cross_entropy, make_classifier
from experiments.dtype_configs import get_config
from experiments.task import EpochOrder, Task
from experiments.training import Run, train
from training_utils import ALONE, RunLog, keep_freed_memory, pick_device

LABELS, MAX_LENGTH, VOCABULARY, PAD = 4_271, 512, 50_265, 1
LABELS_PER_DOCUMENT = 5.07
MEDIAN_LENGTH, LENGTH_SPREAD = 560, 0.48  # tokens, of the log-normal; cut at 512 as real ones are
BATCH, ACCUMULATION = 8, 4
SETTINGS = dict(learning_rate=2e-5, weight_decay=0.01, max_grad_norm=1.0)
STARTED = 1000  # steps done before ours, so that no probe of a run's first steps falls into the timing


def draw_documents(count: int) -> EurLex:
    """A training split with the lengths and label counts of EURLEX57K, and a long tail of labels."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(math.log(MEDIAN_LENGTH), LENGTH_SPREAD, count).round().clip(20, MAX_LENGTH)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    tokens = rng.integers(4, VOCABULARY, offsets[-1]).astype(np.uint16)
    labels = draw_labels(count, rng)
    label_offsets = np.cumsum([0, *map(len, labels)])
    split = Split(tokens, offsets, np.concatenate(labels).astype(np.int32), label_offsets)
    return EurLex({"train": split}, LABELS, {}, MAX_LENGTH, PAD)


def draw_labels(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Ascending label indices of each document, frequent ones first in number."""
    weights = 1 / (np.arange(LABELS) + 10.0)
    weights /= weights.sum()
    sizes = rng.poisson(LABELS_PER_DOCUMENT - 1, count) + 1
    return [np.sort(rng.choice(LABELS, size, replace=False, p=weights)) for size in sizes]


def make_model(args: argparse.Namespace) -> DocumentClassifier:
    """A RoBERTa with random weights and the spec's linear head."""
    from transformers import RobertaConfig

    config = RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=args.hidden_size, num_hidden_layers=args.num_layers,
        num_attention_heads=max(1, args.hidden_size // 64), intermediate_size=4 * args.hidden_size,
        max_position_embeddings=MAX_LENGTH + PAD + 1, type_vocab_size=1, pad_token_id=PAD,
    )  # fmt: skip
    torch.manual_seed(0)
    return make_classifier("tiny-random", config, LABELS, 0.1)


# ---------------------------------------------------------------- training steps


class Ours:
    """The study's own engine: `train` on one configuration."""

    def __init__(self, args: argparse.Namespace, config: str) -> None:
        keep_freed_memory()  # as run_script does for every script
        self.data, self.config = draw_documents(args.rows), get_config(config)
        self.device, self.model_args = pick_device(args.device), args
        self.steps = max(1, args.rows // (BATCH * ACCUMULATION))

    def task(self) -> Task:
        rows = self.data.splits["train"]
        return Task(
            name="classification", headline=(), make_model=lambda: make_model(self.model_args),
            step_rows=EpochOrder(len(rows), 0, np.diff(rows.offsets)).rows,
            train_batch=lambda rows: self.data.batch("train", rows),
            loss=binary_cross_entropy, validate=lambda _: {"loss": 0.0}, evaluate=lambda _: None,
            epoch_rows=len(rows), flops_per_sample=1.0, head_flops_share=0.0,
            betas=(0.9, 0.999), min_lr_scale=0.0, facts={},
        )  # fmt: skip

    def run(self) -> float:
        """The last step carries a probe and an evaluation, and is none of those counted."""
        args = argparse.Namespace(
            batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION, max_steps=STARTED + self.steps + 1,
            warmup_ratio=0.0, seed=0, learning_rate=SETTINGS["learning_rate"], eval_steps=10**6,
            weight_decay=SETTINGS["weight_decay"], grad_clip=SETTINGS["max_grad_norm"], save_every_steps=0,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            run = Run(self.task(), self.config, args, ALONE, self.device)
            run.say, run.log = lambda line: None, RunLog(Path(folder), {})
            run.progress["step"] = STARTED
            for number in (signal.SIGTERM, signal.SIGINT):  # a run would save itself; a contender just ends
                signal.signal(number, signal.SIG_DFL)
            train(run)
        seconds = sum(run.clock.milliseconds()[: self.steps]) / 1000
        return self.steps * run.rows / seconds

    def result(self) -> None: ...


class TrainerModel(nn.Module):
    """Our model in the form that transformers' Trainer calls."""

    def __init__(self, model: DocumentClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(input_ids, attention_mask)
        return {"loss": F.binary_cross_entropy_with_logits(logits.float(), labels), "logits": logits}


class HuggingFaceTrainer:
    """transformers' Trainer, as it comes or with its fast options; both pad a batch to its longest row."""

    def __init__(self, args: argparse.Namespace, fastest: bool) -> None:
        self.device, self.args, self.fastest = pick_device(args.device), args, fastest
        data = draw_documents(args.rows)
        split = data.splits["train"]
        steps = max(1, args.rows // (BATCH * ACCUMULATION))
        self.rows = [
            {"input_ids": split.ids(i, MAX_LENGTH).tolist(), "length": int(np.diff(split.offsets)[i])}
            | {"labels": split.labels[split.label_offsets[i] : split.label_offsets[i + 1]].tolist()}
            for i in range(min(args.rows, steps * BATCH * ACCUMULATION))
        ]

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), PAD)
        labels = torch.zeros(len(rows), LABELS)
        for number, row in enumerate(rows):
            ids[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            labels[number, row["labels"]] = 1
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}

    def settings(self, folder: str) -> dict[str, Any]:
        common = dict(
            output_dir=folder, per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION,
            num_train_epochs=1, use_cpu=self.device.type == "cpu", learning_rate=SETTINGS["learning_rate"],
            weight_decay=SETTINGS["weight_decay"], max_grad_norm=SETTINGS["max_grad_norm"],
            remove_unused_columns=False, save_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        if not self.fastest:
            return common
        return common | dict(
            bf16=True, optim="adamw_torch_fused", train_sampling_strategy="group_by_length",
            length_column_name="length", logging_strategy="no",
            dataloader_pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def run(self) -> float:
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        marks = []

        class Clock(TrainerCallback):
            def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
                marks.append(time.perf_counter())

            on_step_end = on_step_begin

        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=TrainerModel(make_model(self.args)), args=TrainingArguments(**self.settings(folder)),
                train_dataset=self.rows, data_collator=self.collate, callbacks=[Clock()],
            )  # fmt: skip
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            marks[-1] = time.perf_counter()
        return len(self.rows) / (marks[-1] - marks[0])

    def result(self) -> None: ...


# ---------------------------------------------------------------- metrics

METRIC_BATCH, TUNED = 64, -1.0
THRESHOLDS = {"": 0.0, "_tuned": TUNED}  # on the logit
F1_NAMES = [f"{average}_f1{suffix}" for average in ("micro", "macro") for suffix in THRESHOLDS]


class Documents:
    """(N, L) logits as of a trained model, in batches, with their labels as (row, label) pairs."""

    def __init__(self, args: argparse.Namespace) -> None:
        rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(1)
        self.labels = draw_labels(args.rows, rng)
        self.logits = torch.randn(args.rows, LABELS, generator=generator).sub_(7)
        for row, labels in enumerate(self.labels):
            hits = rng.random(len(labels)) < 0.7
            self.logits[row, labels[hits]] = torch.from_numpy(rng.normal(2, 1.5, hits.sum())).float()

    def batches(self) -> Any:
        """(logits (B, L), rows, labels)."""
        for start in range(0, len(self.labels), METRIC_BATCH):
            own = self.labels[start : start + METRIC_BATCH]
            rows = np.repeat(np.arange(len(own)), [len(labels) for labels in own])
            pairs = torch.from_numpy(rows), torch.from_numpy(np.concatenate(own))
            yield self.logits[start : start + METRIC_BATCH], *pairs

    def dense(self) -> Any:
        """(logits (B, L), labels (B, L) int8): what libraries take."""
        for logits, rows, labels in self.batches():
            truth = torch.zeros(logits.shape, dtype=torch.int8)
            truth[rows, labels] = 1
            yield logits, truth


class StreamingMetrics:
    """All of the study's metrics: F1 at two thresholds, P@1/3/5, RP@5, nDCG@5, ties, groups of labels."""

    def __init__(self, args: argparse.Namespace) -> None:
        keep_freed_memory()
        self.documents = Documents(args)

    def run(self) -> float:
        started = time.perf_counter()
        metrics = MultiLabelMetrics(LABELS, np.ones(LABELS), tuned=TUNED)
        for logits, rows, labels in self.documents.batches():
            metrics.add(logits, rows, labels)
        found = metrics.result()
        self.scores = {name: found[name] for name in (*F1_NAMES, "ndcg_at_5")}
        return len(self.documents.labels) / (time.perf_counter() - started)

    def result(self) -> dict[str, float]:
        return self.scores


class ScikitLearnMetrics(StreamingMetrics):
    """f1_score, micro and macro at both thresholds, and ndcg_score, on whole matrices; it has no P@k."""

    def run(self) -> float:
        from sklearn.metrics import f1_score, ndcg_score

        started = time.perf_counter()
        logits, truth = (torch.cat(side).numpy() for side in zip(*self.documents.dense(), strict=True))
        self.scores = {"ndcg_at_5": ndcg_score(truth, logits, k=5, ignore_ties=True)}
        for suffix, threshold in THRESHOLDS.items():
            predicted = (logits > threshold).astype(np.int8)
            for average in ("micro", "macro"):
                score = f1_score(truth, predicted, average=average, zero_division=0)
                self.scores[f"{average}_f1{suffix}"] = float(score)
        return len(truth) / (time.perf_counter() - started)


class TorchMetrics(StreamingMetrics):
    """MultilabelF1Score, micro and macro at both thresholds in one collection, batch by batch."""

    def run(self) -> float:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MultilabelF1Score

        started = time.perf_counter()
        collection = MetricCollection({
            f"{average}_f1{suffix}": MultilabelF1Score(
                LABELS, average=average, threshold=1 / (1 + math.exp(-threshold))
            )
            for suffix, threshold in THRESHOLDS.items()
            for average in ("micro", "macro")
        })  # fmt: skip
        for logits, truth in self.documents.dense():
            collection.update(logits.sigmoid(), truth.int())  # logits would be squashed batch by batch
        self.scores = {name: float(score) for name, score in collection.compute().items()}
        return len(self.documents.labels) / (time.perf_counter() - started)
