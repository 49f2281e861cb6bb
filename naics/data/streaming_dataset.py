"""Batches of triplets for training: drawn from the matrix (default), or streamed from written Parquet files.

    from naics.data.streaming_dataset import Curriculum, MatrixTriplets, ParquetTriplets, TripletBatch

Both give `batch(epoch, step)`, a function of (seed, epoch, step, rank) alone, by the law of curriculum.py.

The files hold rows (anchor, positive, negative, their distances, hardness) in random order, in row groups. A
rank takes every world_size-th group of the epoch's random order. `rows` gives the groups' rows one group at a
time, filtered and shuffled again: memory is bounded by one group. `batch` works in windows of a few groups:
the window's rows say which pairs there are and how far codes are from an anchor, and batches are drawn from
that table as from the whole matrix. A code that the window does not show for an anchor is not drawn for it:
with four groups of 2**20 rows of the 2,125 codes, hardly any of the anchor's sector, half of the others. A
window of R rows serves R / K pairs, so that an epoch draws as many negatives as there are rows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from naics.data.census import Taxonomy
from naics.data.curriculum import EXCLUDED, Curriculum, TripletBatch, audit_line, no_pairs, pairs_allowed
from naics.data.distances import OTHER_SECTOR
from naics.data.matrix_triplets import (
    GROUPS,
    ROWS,
    MatrixTriplets,
    TripletTable,
    excluded_pairs,
    philox,
    shared_pairs,
    sort_keys,
)
from training_utils import InputError

__all__ = [
    "Curriculum",
    "MatrixTriplets",
    "ParquetTriplets",
    "TripletBatch",
    "audit_line",
    "shared_pairs",
]

LIMITS = {  # column -> least and largest value, None for the last code
    "anchor": (0, None),
    "positive": (0, None),
    "negative": (0, None),
    "positive_distance": (1, OTHER_SECTOR - 1),
    "negative_distance": (1, OTHER_SECTOR),
    "hardness": (1, EXCLUDED),
}
AGAIN = "write the triplets again (naics-gemini data triplets)"
Rows = dict[str, np.ndarray]  # column -> (rows,)


class ParquetTriplets:
    def __init__(
        self,
        folder: Path,
        taxonomy: Taxonomy,
        curriculum: Curriculum,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
        split_seed: int = 0,  # the same for both splits, whatever their `seed`
        validation_share: float = 0.05,
        max_fallback: float = 0.0,
        window_groups: int = 4,
    ) -> None:
        self.curriculum, self.batch_size, self.seed = curriculum, batch_size, seed
        self.rank, self.world_size, self.split = rank, world_size, split
        self.max_fallback, self.window_groups = max_fallback, window_groups
        self.codes = len(taxonomy.levels)
        self.allowed = pairs_allowed(taxonomy, curriculum, split, split_seed, validation_share)
        self.excluded = excluded_pairs(taxonomy)
        self.asked = curriculum.requests > 0  # by hardness
        self.paths = sorted(Path(folder).glob("*.parquet"))
        if not self.paths:
            raise InputError(
                f"{folder}: no Parquet files of triplets; naics-gemini data triplets writes them"
            )
        self.files = open_files(self.paths)
        self.groups = [
            (number, group)
            for number, file in enumerate(self.files)
            for group in range(file.num_row_groups)
            if self._may_match(file.metadata.row_group(group))
        ]
        if len(self.groups) < world_size:
            raise InputError(
                f"{folder}: {len(self.groups)} row groups hold triplets of this curriculum, fewer than the "
                f"{world_size} processes; write smaller groups or start fewer processes"
            )
        rows = sum(self.files[n].metadata.row_group(group).num_rows for n, group in self.groups)
        in_window = rows / len(self.groups) * window_groups
        self.steps_per_window = max(1, int(in_window / (curriculum.k_negatives * batch_size)))
        self._window: tuple[tuple[int, int], TripletTable] | None = None

    def _may_match(self, group: pq.RowGroupMetaData) -> bool:
        """Whether a row group's size and statistics allow a row that the curriculum wants."""
        ranges = {}
        for index in range(group.num_columns):
            column = group.column(index)
            if column.is_stats_set and column.statistics.has_min_max:
                ranges[column.path_in_schema] = column.statistics.min, column.statistics.max
        nearest, _ = ranges.get("positive_distance", (0, 0))
        easiest, hardest = ranges.get("hardness", (0, EXCLUDED))
        limit = self.curriculum.positive_distance_max
        wanted = group.num_rows and self.asked[easiest : hardest + 1].any()
        return bool(wanted and (limit is None or nearest <= 2 * limit))

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        """This rank's row groups of an epoch."""
        order = np.random.Generator(philox(self.seed, GROUPS, 0, epoch)).permutation(len(self.groups))
        return [self.groups[place] for place in order[self.rank :: self.world_size]]

    def _read(self, number: int, group: int) -> Rows:
        file, path = self.files[number], self.paths[number]
        try:
            table = file.read_row_group(group, columns=list(LIMITS), use_threads=False)
            rows = {name: table[name].combine_chunks().to_numpy() for name in LIMITS}
        except (OSError, pa.ArrowException) as error:  # nulls too: they have no place in a plain array
            raise InputError(
                f"{path}: row group {group} cannot be read ({first_line(error)}); {AGAIN}"
            ) from None
        for name, (low, high) in LIMITS.items():
            least, most = rows[name].min(), rows[name].max()
            if least < low or most > (high or self.codes - 1):
                wrong = least if least < low else most
                raise InputError(f"{path}: row group {group} has {name} {wrong}, out of range; {AGAIN}")
        return rows

    @property
    def chunks(self) -> int:
        """How many row groups of an epoch are this rank's."""
        return len(range(self.rank, len(self.groups), self.world_size))

    def chunk(self, epoch: int, number: int) -> Rows:
        """The wanted rows of this rank's next row group, shuffled: a function of the arguments and the seed.

        The same rows in the same order, whichever rank of however many it falls to.
        """
        group = self._order(epoch)[number]
        rows = self._read(*group)
        pairs = rows["anchor"].astype(np.int32) * self.codes + rows["positive"]
        wanted = self.allowed.reshape(-1).take(pairs) & self.asked.take(rows["hardness"])
        if self.curriculum.positive_distance_max is not None:
            wanted &= self.curriculum.near(rows["positive_distance"])
        generator = np.random.Generator(philox(self.seed, ROWS, 0, *group, epoch))
        chosen = generator.permutation(np.flatnonzero(wanted).astype(np.int32))
        return {name: column.take(chosen) for name, column in rows.items()}

    def rows(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """Chunk after chunk; a resume starts with the first one it has not had."""
        for number in range(start, self.chunks):
            yield self.chunk(epoch, number)

    def window(self, epoch: int, number: int) -> TripletTable:
        """What the rows of a few row groups say about pairs and distances, as a table to draw from."""
        if self._window is None or self._window[0] != (epoch, number):
            self._window = (epoch, number), self._build(self._order(epoch), number)
        return self._window[1]

    def _build(self, order: list[tuple[int, int]], number: int) -> TripletTable:
        # A rank with fewer windows than another begins again.
        start = number % -(-len(order) // self.window_groups) * self.window_groups
        distances = np.zeros((self.codes, self.codes), dtype=np.int8)
        flat = distances.reshape(-1)
        for group in order[start : start + self.window_groups]:
            rows = self._read(*group)
            anchors = rows["anchor"].astype(np.int32) * self.codes
            flat[anchors + rows["positive"]] = rows["positive_distance"]
            flat[anchors + rows["negative"]] = rows["negative_distance"]
            excluded = self.excluded.reshape(-1).take(anchors + rows["negative"])
            if ((rows["hardness"] == EXCLUDED) != excluded).any():
                raise InputError(
                    f"{self.paths[group[0]]}: row group {group[1]} excludes other codes than this taxonomy "
                    f"under the corrected rule; remove the folder and {AGAIN}"
                )
        pairs = np.nonzero(self.allowed & self.curriculum.near(distances))
        keys = sort_keys(distances, self.excluded)
        table = TripletTable(keys, (*pairs, distances[pairs]), self.curriculum, self.max_fallback)
        if not len(table):
            raise InputError(no_pairs(self.curriculum, self.split))
        return table

    @property
    def steps_per_epoch(self) -> int:
        """The same on every rank: as many steps as the largest share of row groups gives."""
        largest = -(-len(self.groups) // self.world_size)
        return -(-largest // self.window_groups) * self.steps_per_window

    def batch(self, epoch: int, step: int) -> TripletBatch:
        table = self.window(epoch, step // self.steps_per_window)
        rows = range(self.batch_size)
        return table.batch((self.seed, 1 + self.rank), epoch, step, rows, self.batch_size)

    @property
    def table(self) -> TripletTable:
        """Of the first window."""
        return self.window(0, 0)

    def audit(self) -> dict[str, Any]:
        """Of the first window of the first epoch."""
        return self.window(0, 0).audit() | {"row_groups": len(self.groups)}


def open_files(paths: list[Path]) -> list[pq.ParquetFile]:
    """Footers are read and checked, data are not."""
    files = []
    for path in paths:
        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: not a whole Parquet file ({first_line(error)}); {AGAIN}") from None
        for name in LIMITS:
            column = file.schema_arrow.get_field_index(name)
            if column < 0:
                raise InputError(f"{path}: no column {name}; {AGAIN}")
            if not pa.types.is_signed_integer(file.schema_arrow.field(column).type):
                raise InputError(f"{path}: column {name} is no whole number; {AGAIN}")
        files.append(file)
    return files


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
