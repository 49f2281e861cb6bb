"""Prepared text as memory-mapped ids, and windows of it.

B windows    T tokens of a window
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.task import Batch, check_vocabulary, load_ids, read_metadata
from training_utils import InputError

SPLITS = ("train", "validation", "test")
MULTIPLE = 64  # that the vocabulary is rounded up to: 50,257 and 50,265 become 50,304


@dataclass(frozen=True)
class Text:
    """All splits of one prepared folder, in windows of `block_size` tokens."""

    splits: dict[str, np.ndarray]  # (tokens) uint16 or uint32, memory-mapped
    metadata: dict[str, Any]
    block_size: int

    @property
    def vocab_size(self) -> int:
        size = self.metadata["tokenizer"]["vocab_size"]
        return -(-size // MULTIPLE) * MULTIPLE

    def step_starts(self, seed: int, step: int, count: int) -> np.ndarray:
        """Where the windows of a training step begin: any place, by (seed, step) alone."""
        places = len(self.splits["train"]) - self.block_size
        return np.random.default_rng([seed, step]).integers(0, places, size=count)

    def batch(self, split: str, starts: np.ndarray) -> Batch:
        """Windows and, as targets, the tokens one place on."""
        tokens = self.splits[split]
        windows = np.stack([tokens[start : start + self.block_size + 1] for start in starts]).astype(np.int64)
        ids = torch.from_numpy(windows)  # (B, T + 1)
        count = len(starts) * self.block_size
        return Batch((ids[:, :-1].contiguous(),), (ids[:, 1:].contiguous(),), len(starts), count, count)

    def evaluation_batches(self, split: str, batch_size: int, windows: int) -> Iterator[Batch]:
        """At most `windows` windows without overlap, evenly spread over the split."""
        whole = (len(self.splits[split]) - 1) // self.block_size
        numbers = np.linspace(0, whole - 1, min(windows, whole)).round().astype(np.int64)
        for start in range(0, len(numbers), batch_size):
            yield self.batch(split, numbers[start : start + batch_size] * self.block_size)


def load_text(folder: Path, block_size: int) -> Text:
    metadata = read_metadata(folder, "tokens", "experiments/language_modeling/prepare_data.py")
    splits = {}
    for name in SPLITS:
        path = folder / f"{name}.tokens.npy"
        splits[name] = load_ids(path, mmap=True)
        if len(splits[name]) != metadata["tokens"][name]:
            raise InputError(f"{path}: holds other tokens than metadata.json says; run prepare_data.py again")
        if len(splits[name]) < block_size + 1:
            raise InputError(
                f"{path}: {len(splits[name]):,} tokens do not fill a window; "
                f"a --block_size of {len(splits[name]) - 1} at most, or more text"
            )
        check_vocabulary(path, splits[name], metadata)
    return Text(splits, metadata, block_size)
