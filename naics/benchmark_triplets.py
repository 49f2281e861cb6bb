"""What benchmark.py times of the data: a class a contender, built in a process of its own, then `run()`.

`result()` is what the runs found, where contenders have to agree.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from naics.data.census import Taxonomy, load_taxonomy
from naics.data.curriculum import EXCLUDED, UNRELATED
from naics.data.distances import OTHER_SECTOR
from naics.data.streaming_dataset import Curriculum, MatrixTriplets, ParquetTriplets
from training_utils import keep_freed_memory

# Of conf/curriculum/03_stage_hard.yaml: every hardness but 7, all levels.
HARD = Curriculum((2, 3, 4, 5, 6), None, {1: 0.4, 2: 0.2, 3: 0.1, 4: 0.1, 5: 0.1, 6: 0.05, 8: 0.05})
BATCH = 4096
LEVELS = (20, 96, 308, 689, 1012)  # codes of NAICS 2022 by level, 2 to 6
EXCLUSIONS = 4539
SHUFFLE_BUFFER = 10_000  # rows


def draw_taxonomy() -> Taxonomy:
    """A random tree with as many codes a level as NAICS 2022, every code above level 6 with a child."""
    rng = np.random.default_rng(0)
    starts = np.cumsum((0, *LEVELS))
    parents = [np.full(LEVELS[0], -1)]
    for depth, (above, count) in enumerate(zip(LEVELS, LEVELS[1:], strict=False)):
        # A few parents have many children, most have one.
        weights = rng.exponential(size=above) ** 2
        more = rng.choice(above, size=count - above, p=weights / weights.sum())
        parents.append(starts[depth] + np.sort(np.concatenate((np.arange(above), more))))
    n = int(starts[-1])
    pairs = rng.integers(n, size=(EXCLUSIONS, 2))
    excluded: list[list[int]] = [[] for _ in range(n)]
    for row, other in pairs[pairs[:, 0] != pairs[:, 1]].tolist():
        excluded[row].append(other)
    return Taxonomy(
        tuple(str(row) for row in range(n)),
        np.repeat(np.arange(2, 7), LEVELS).astype(np.int8),
        np.concatenate(parents).astype(np.int16),
        *[("",) * n] * 4,
        excluded_codes=tuple(map(tuple, excluded)),
    )


def taxonomy_of(args: argparse.Namespace) -> Taxonomy:
    return load_taxonomy(args.data_dir) if args.data_dir else draw_taxonomy()


# ---------------------------------------------------------------- sample_triplets


class Matrix:
    def __init__(self, args: argparse.Namespace) -> None:
        keep_freed_memory()
        self.sampler = MatrixTriplets(taxonomy_of(args), HARD, BATCH, seed=0, max_fallback=0.25)
        self.steps = max(1, round(args.rows / (BATCH * HARD.k_negatives)))
        args.rows = self.steps * BATCH * HARD.k_negatives
        self.epoch = 0

    def run(self) -> None:
        self.epoch += 1
        self.hardness = 0.0
        for step in range(self.steps):
            self.hardness += float(self.sampler.batch(self.epoch, step).hardness.mean()) / self.steps

    def result(self) -> float:
        """Mean hardness of the negatives."""
        return self.hardness


class PythonRows:
    """A dict a row and Python's own sampling: the same pairs and allocation, candidates already in lists."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.table = MatrixTriplets(taxonomy_of(args), HARD, BATCH, seed=0, max_fallback=0.25).table
        self.requests = HARD.requests.tolist()
        self.random = random.Random(0)
        first, size = self.table.slices()
        self.candidates = {
            cell: {
                bucket: self.table.order[cell // OTHER_SECTOR, first[cell, bucket] :][
                    : size[cell, bucket]
                ].tolist()
                for bucket in range(UNRELATED, EXCLUDED + 1)
            }
            for cell in np.unique(self.table.cells).tolist()
        }
        columns = self.table.anchors.tolist(), self.table.positives.tolist(), self.table.cells.tolist()
        self.pairs = [
            {"anchor": anchor, "positive": positive, "negatives": self.candidates[cell]}
            for anchor, positive, cell in zip(*columns, strict=True)
        ]
        self.count = args.rows // HARD.k_negatives

    def examples(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.count):
            pair = self.random.choice(self.pairs)
            negatives, missing = [], 0
            for bucket in range(EXCLUDED, 0, -1):
                pool, wanted = pair["negatives"][bucket], self.requests[bucket] + missing
                chosen = self.random.sample(pool, min(wanted, len(pool)))
                missing = wanted - len(chosen)
                negatives += [{"negative": code, "hardness": bucket} for code in chosen]
            yield {"anchor": pair["anchor"], "positive": pair["positive"], "negatives": negatives}

    def run(self) -> None:
        total = 0
        for example in self.examples():
            total += sum(negative["hardness"] for negative in example["negatives"])
        self.hardness = total / (self.count * HARD.k_negatives)

    def result(self) -> float:
        return self.hardness


# ---------------------------------------------------------------- read_parquet


class Reader:
    def __init__(self, args: argparse.Namespace) -> None:
        keep_freed_memory()
        taxonomy = taxonomy_of(args)
        self.reader = ParquetTriplets(args.folder, taxonomy, HARD, BATCH, seed=0, validation_share=0)
        self.epoch = 0

    def run(self) -> None:
        self.epoch += 1
        self.kept = sum(len(rows["anchor"]) for rows in self.reader.rows(self.epoch))

    def result(self) -> float:
        """Rows that pass the filter."""
        return float(self.kept)


class DatasetsStreaming:
    """The `datasets` package over the same files: Arrow batches, a batched filter, and its shuffle buffer."""

    def __init__(self, args: argparse.Namespace, shuffle: bool) -> None:
        from datasets import load_dataset

        files = sorted(str(path) for path in Path(args.folder).glob("*.parquet"))
        levels = taxonomy_of(args).levels
        fits = np.isin(np.arange(7), HARD.positive_levels)
        asked = HARD.requests > 0

        def wanted(table: Any) -> list[bool]:
            anchors, positives, hardness = (
                table[name].to_numpy() for name in ("anchor", "positive", "hardness")
            )
            return (fits[np.maximum(levels[anchors], levels[positives])] & asked[hardness]).tolist()

        rows = load_dataset("parquet", data_files=files, split="train", streaming=True).with_format("arrow")
        self.rows = rows.filter(wanted, batched=True, batch_size=2**16)
        if shuffle:
            self.rows = self.rows.shuffle(seed=0, buffer_size=SHUFFLE_BUFFER)

    def run(self) -> None:
        self.kept = sum(len(batch["anchor"]) for batch in self.rows.iter(batch_size=BATCH))

    def result(self) -> float:
        return float(self.kept)
