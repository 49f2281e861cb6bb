"""The peers of benchmark.py: our model as it was first published, and transformers' Trainer on a BERT."""

import argparse
import math
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from category_classification import embedding_classifier
from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig
from category_classification.evaluation import to_device
from category_classification.lspc import Split
from category_classification.token_layout import PaddedTokens
from training_utils import autocast, pick_device

PADDED_LENGTH, NUM_CLASSES, BATCH = 256, 6, 64


class MaterialisedTokens(PaddedTokens):
    """Padded rows whose attention writes out its scores, with a key-value head a query head."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[2] // k.shape[2]
        q, k, v = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~self.mask[:, None, None, :], float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2)


def pad_to(batch: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """The batch with its texts (B, T) padded to (B, length)."""
    missing = length - batch["input_ids"].shape[1]
    return batch | {name: F.pad(batch[name], (0, missing)) for name in ("input_ids", "attention_mask")}


class PaddedOrigin:
    """Every row padded to 256 tokens, materialised attention, foreach AdamW on the whole table."""

    def __init__(self, args: argparse.Namespace, split: Split) -> None:
        embedding_classifier.lay_out = MaterialisedTokens  # in this process only
        self.split, self.device = split, pick_device(args.device)
        config = EncoderConfig(vocab_size=args.vocab_size, num_layers=args.num_layers)
        self.model = EmbeddingClassifier(config, NUM_CLASSES).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-4, foreach=True)
        self.rows = np.arange(min(BATCH, len(split)))
        self.amp = False
        speeds = {}
        for self.amp in (False, True):
            self.train()
            speeds[self.amp] = max(self.train() for _ in range(2))  # a disturbed run must not decide
        self.amp = max(speeds, key=speeds.get)

    def _batch(self) -> dict[str, Tensor]:
        return pad_to(to_device(self.split.batch(self.rows), self.device), PADDED_LENGTH)

    def train(self) -> float:
        self.model.train()
        started, batch = time.perf_counter(), self._batch()
        with autocast(self.device, self.amp):
            loss = F.cross_entropy(self.model(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()
        return len(self.rows) / (time.perf_counter() - started)

    def predict(self) -> float:
        self.model.eval()
        started, batch = time.perf_counter(), self._batch()
        with torch.inference_mode(), autocast(self.device, self.amp):
            self.model(batch["input_ids"], batch["attention_mask"]).argmax(-1).cpu()
        return len(self.rows) / (time.perf_counter() - started)


class HuggingFaceTrainer:
    """transformers' Trainer with its documented fast options."""

    def __init__(self, args: argparse.Namespace, split: Split, grouped: bool) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        self.grouped, self.device, self.compile = grouped, pick_device(args.device), args.compile_peers
        # Padded to 256 all batches cost the same, so one (after a first that is not timed) will do.
        count = len(split) if grouped else min(2 * BATCH, len(split))
        self.rows = [self._row(split, i) for i in range(count)]
        config = BertConfig(
            vocab_size=args.vocab_size, hidden_size=384, num_hidden_layers=args.num_layers,
            num_attention_heads=6, intermediate_size=1536, num_labels=NUM_CLASSES,
        )  # fmt: skip
        self.model = BertForSequenceClassification(config)

    @staticmethod
    def _row(split: Split, i: int) -> dict[str, Any]:
        ids = split.tokens[split.offsets[i] : split.offsets[i + 1]].astype(np.int64).tolist()
        return {"input_ids": ids, "labels": int(split.labels[i]), "length": len(ids)}

    def _collate(self, rows: list[dict]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows) if self.grouped else PADDED_LENGTH
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    def _trainer(self, folder: str, clock: Any) -> Any:
        from transformers import PrinterCallback, Trainer, TrainingArguments

        settings = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH,
            num_train_epochs=1, optim="adamw_torch_fused", bf16=True, use_cpu=self.device.type == "cpu",
            train_sampling_strategy="group_by_length" if self.grouped else "random",
            length_column_name="length", remove_unused_columns=False, save_strategy="no",
            logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
            torch_compile=self.compile,
        )  # fmt: skip
        trainer = Trainer(
            model=self.model, args=settings, train_dataset=self.rows,
            data_collator=self._collate, callbacks=[clock],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        return trainer

    def train(self) -> float:
        from transformers import TrainerCallback

        ends = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_args, **_kwargs) -> None:
                ends.append(time.perf_counter())

        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            self._trainer(folder, Clock()).train()
        if len(ends) < 2:  # tiny test runs
            return len(self.rows) / (ends[-1] - started)
        if self.grouped:  # the first batch holds the longest rows: count all of it, but not the start-up
            return len(self.rows) / (ends[-1] - ends[0]) * (len(ends) - 1) / len(ends)
        return (len(self.rows) - BATCH) / (ends[-1] - ends[0])

    def predict(self) -> float:
        """Batches in order of length for the grouped one; the Trainer's own prediction has no such order."""
        rows = sorted(self.rows, key=lambda row: row["length"]) if self.grouped else self.rows
        model = self.model.to(self.device).eval()
        started = time.perf_counter()
        for start in range(0, len(rows), BATCH):
            batch = to_device(self._collate(rows[start : start + BATCH]), self.device)
            with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16):
                model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1).cpu()
        return len(rows) / (time.perf_counter() - started)
