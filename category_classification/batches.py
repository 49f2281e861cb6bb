"""Batches of a split.

Their order is a function of (seed, epoch) alone: a resumed run skips by index, and a rank takes its share of
each batch.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from category_classification.lspc import Split
from training_utils import World


class EachRow:
    """An epoch of every row once, in random order. `width` rows belong together."""

    width = 1

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __call__(self, generator: np.random.Generator) -> np.ndarray:
        return generator.permutation(self.count)[:, None]


class TrainingBatches:
    """Training batches in an order given by (seed, epoch).

    `rows` draws an epoch's rows, (N, 1), or (N, 2) for pairs that share a batch; its length is N. They are
    sorted by length inside windows of `length_window` global batches, cut into batches, and the batches
    shuffled: 1 leaves batches random. Large windows save padding, but length goes with class and language,
    and a batch of one kind is a worse step (EXPERIMENTS.md, 2026-11-21). A global batch holds `batch_size`
    rows for each rank; the epoch's last one may be shorter.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        world: World,
        token_dropout: float = 0.0,
        rows: Any = None,
        length_window: int = 1,
    ) -> None:
        self.length_window = length_window
        self.split, self.seed, self.world, self.token_dropout = split, seed, world, token_dropout
        self.global_batch, self.rows = batch_size * world.size, rows or EachRow(len(split))
        self.units = max(1, self.global_batch // self.rows.width)  # of a batch: rows, or pairs

    def __len__(self) -> int:
        return -(-len(self.rows) // self.units)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Every global batch of an epoch, as row numbers."""
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        rows = self.rows(generator)
        lengths = self.split.lengths[rows].max(1)
        window, batches = self.length_window * self.units, []
        for start in range(0, len(rows), window):
            block = np.argsort(lengths[start : start + window], kind="stable") + start
            batches += [rows[block[i : i + self.units]].ravel() for i in range(0, len(block), self.units)]
        return [batches[i] for i in generator.permutation(len(batches))]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """This rank's micro-batches from number `start` on; `global_rows` counts the rows of all ranks.

        A rank that the last batch leaves empty-handed takes one of its rows with `weight` 0, to stay in step.
        """
        rank, size = self.world.rank, self.world.size
        for number, rows in enumerate(self.order(epoch)[start:], start):
            own = rows[rank::size]
            own = own[np.argsort(self.split.lengths[own], kind="stable")]  # for attention in groups of rows
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch, number, rank]))
            batch = self.split.batch(own if len(own) else rows[:1], self.token_dropout, generator)
            yield {**batch, "weight": len(own), "global_rows": len(rows)}


def evaluation_batches(split: Split, world: World, max_tokens: int) -> Iterator[dict[str, Tensor]]:
    """Every row once over all ranks, sorted by length, at most `max_tokens` padded tokens a batch."""
    lengths = split.lengths
    rows = np.argsort(lengths, kind="stable")[world.rank :: world.size]
    start = 0
    while start < len(rows):
        longest = lengths[rows[start : start + max_tokens]]
        fits = int(np.searchsorted(longest * np.arange(1, len(longest) + 1), max_tokens, side="right"))
        yield split.batch(rows[start : start + max(1, fits)])
        start += max(1, fits)


def on_device(batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """The batches on `device`; for a GPU each is made by a thread while the one before is computed."""
    moved = (to_device(batch, device) for batch in batches)
    if device.type != "cuda":
        yield from moved
        return
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(next, moved, None)
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(next, moved, None)
            yield batch


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return batch
    pin = device.type == "cuda"  # page-locked memory is copied while the CPU goes on
    return {
        name: (value.pin_memory() if pin else value).to(device, non_blocking=pin)
        if torch.is_tensor(value)
        else value
        for name, value in batch.items()
    }
