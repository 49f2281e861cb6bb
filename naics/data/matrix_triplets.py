"""Triplets drawn from the matrix of code distances: codes sorted by distance, so that a draw is one number.

For an anchor, the codes of a hardness stand together in the order of its distances, the excluded ones behind
all others: 9 MB for 2,125 codes hold what 976 million written triplets do. Random numbers come from a counter
that (seed, epoch, step, row) sets, so that a resume, or another number of processes, needs no state.

The rule is the corrected one: under compat, what a negative is depends on the positive too, which an order of
the anchor's codes cannot say.
"""

from typing import Any

import numpy as np

from naics.data.census import Taxonomy
from naics.data.curriculum import (
    DIFFERENCES,
    EXCLUDED,
    UNRELATED,
    Curriculum,
    TripletBatch,
    no_pairs,
    pairs_allowed,
)
from naics.data.distances import OTHER_SECTOR, distance_matrix
from training_utils import InputError

KEYS = 2 * OTHER_SECTOR + 1  # 0 = never drawn, 1..20 = distance, 21..40 = distance of an excluded code + 20
DRAWS, LAPS, GROUPS, ROWS = range(4)  # independent streams of one seed


def philox(seed: int, stream: int, *place: int) -> np.random.Philox:
    """A counter-based generator: up to four numbers say where in the stream of a seed it starts."""
    counter = [*place, 0, 0, 0, 0][:4]
    return np.random.Philox(key=np.array([seed, stream], np.uint64), counter=np.array(counter, np.uint64))


def excluded_pairs(taxonomy: Taxonomy) -> np.ndarray:
    """(n, n) whether either code's text names the other."""
    excluded = np.zeros((len(taxonomy.levels),) * 2, dtype=bool)
    for row, named in enumerate(taxonomy.excluded_codes):
        excluded[row, list(named)] = True
    return excluded | excluded.T


def sort_keys(distances: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """(n, n) int8 place of each code in an anchor's order: by distance, excluded codes after all others."""
    return distances + OTHER_SECTOR * (excluded & (distances > 0)).astype(np.int8)


def sort_codes(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, n) int16 codes by key, and (n, KEYS + 1) int16 places where each key starts in an anchor's row."""
    count = len(keys)
    order = np.empty(keys.shape, dtype=np.int16)
    starts = np.zeros((count, KEYS + 1), dtype=np.int16)
    for row, of_anchor in enumerate(keys):  # all at once would take 8 bytes a pair for a moment
        order[row] = np.argsort(of_anchor, kind="stable")
        starts[row, 1:] = np.cumsum(np.bincount(of_anchor, minlength=KEYS))
    return order, starts


class TripletTable:
    """Pairs, and per anchor all codes sorted by key: every hardness of every pair is a slice of that order.

    M pairs, n codes, K negatives. What to draw for a pair depends on its anchor and distance alone, so it is
    worked out once for each of the n * 20 such cells.
    """

    def __init__(
        self,
        keys: np.ndarray,  # (n, n) int8
        pairs: tuple[np.ndarray, np.ndarray, np.ndarray],  # anchors, positives, half steps: (M,)
        curriculum: Curriculum,
        max_fallback: float,
    ) -> None:
        self.codes, self.curriculum = len(keys), curriculum
        self.order, self.starts = sort_codes(keys)
        self._plan(*self.slices())
        anchors, positives, distances = pairs
        cells = anchors.astype(np.int32) * OTHER_SECTOR + distances
        self.admitted, shortage = len(cells), self.shortage[cells]
        self.fallback_of_admitted = mean(shortage) / curriculum.k_negatives
        usable = self.size[cells].any(1)  # at least one negative
        if usable.any():
            least = max(max_fallback * curriculum.k_negatives, int(shortage[usable].min()))
            usable &= shortage <= least
        self.anchors, self.positives = anchors[usable].astype(np.int16), positives[usable].astype(np.int16)
        self.cells = cells[usable]
        self._laps: dict[tuple[int, ...], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.anchors)

    def slices(self) -> tuple[np.ndarray, np.ndarray]:
        """First place and size of each hardness: two (n * 20, 9) arrays, a row for (anchor, distance)."""
        first = np.zeros((self.codes, OTHER_SECTOR, EXCLUDED + 1), dtype=np.int16)
        size = np.zeros_like(first)
        for distance in range(1, OTHER_SECTOR):
            farther_excluded = OTHER_SECTOR + distance + 1, KEYS - 1
            edges = {UNRELATED: (OTHER_SECTOR, OTHER_SECTOR), EXCLUDED: farther_excluded}
            for bucket, (near, far) in DIFFERENCES.items():
                within = min(distance + far, OTHER_SECTOR - 1)
                edges[bucket] = (min(distance + near, within + 1), within)
            for bucket, (low, high) in edges.items():
                first[:, distance, bucket] = self.starts[:, low]
                size[:, distance, bucket] = self.starts[:, high + 1] - self.starts[:, low]
        return first.reshape(-1, EXCLUDED + 1), size.reshape(-1, EXCLUDED + 1)

    def _plan(self, first: np.ndarray, size: np.ndarray) -> None:
        """For each cell (R = n * 20) and slot: its hardness, the slice it draws from, what may be drawn."""
        requests, slots = self.curriculum.requests, self.curriculum.k_negatives
        take, missing = np.zeros_like(size), np.zeros(len(size), dtype=np.int16)
        for bucket in range(EXCLUDED, 0, -1):  # a shortage goes down to the next easier one
            wanted = missing + requests[bucket]
            take[:, bucket] = np.minimum(wanted, size[:, bucket])
            missing = wanted - take[:, bucket]
        for bucket in range(2, EXCLUDED + 1):  # nothing easier is left: up again
            more = np.minimum(missing, size[:, bucket] - take[:, bucket])
            take[:, bucket] += more.astype(np.int16)
            missing = missing - more
        self.shortage = np.maximum(requests - size, 0).sum(1).astype(np.int16)  # (R,) slots that fall back
        self.size = size
        self.repeat_from = (slots - missing).astype(np.int16)  # the first slot that may repeat a code
        fullest = size.argmax(1)
        ends = np.cumsum(take[:, :0:-1], axis=1)  # (R, 8), the hardest first
        self.hardness = np.empty((len(size), slots), dtype=np.int8)
        self.first, self.span = (np.empty((len(size), slots), dtype=np.int16) for _ in range(2))
        rows = np.arange(len(size))
        for slot in range(slots):
            place = (ends <= slot).sum(1)  # 8 where all candidates are used up
            bucket = np.where(place < EXCLUDED, EXCLUDED - place, fullest)
            begin = ends[rows, np.minimum(place, EXCLUDED - 1)] - take[rows, bucket]
            # Floyd's sampling: draw m of s by drawing below s - m + 1, ..., s
            without_repeat = size[rows, bucket] - take[rows, bucket] + 1 + slot - begin
            self.hardness[:, slot], self.first[:, slot] = bucket, first[rows, bucket]
            self.span[:, slot] = np.where(place < EXCLUDED, without_repeat, size[rows, bucket])

    def batch(self, seed: tuple[int, int], epoch: int, step: int, rows: range, of: int) -> TripletBatch:
        """Rows `rows` of the `of` rows of a step: a function of its arguments alone."""
        chosen = self._pairs_at(seed, epoch, np.arange(rows.start, rows.stop) + step * of)
        blocks = -(-self.curriculum.k_negatives // 8)  # a block of the generator is eight 32-bit numbers
        generator = philox(seed[0], DRAWS + (seed[1] << 8), rows.start * blocks, step, epoch)
        words = generator.random_raw(len(rows) * blocks * 4).view(np.uint32).reshape(len(rows), -1)
        anchors = self.anchors[chosen]
        negatives, hardness = self._draw(anchors, self.cells[chosen], words)
        positives = self.positives[chosen].astype(np.int64)
        return TripletBatch(anchors.astype(np.int64), positives, negatives, hardness)

    def _draw(
        self, anchors: np.ndarray, cells: np.ndarray, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(B,) pairs and (B, >= K) random words -> negatives and their hardness (B, K)."""
        slots = self.curriculum.k_negatives
        span, first = (
            np.ascontiguousarray(table.take(cells, axis=0).T)  # (K, B): the loop below reads slot by slot
            for table in (self.span, self.first)
        )
        drawn = words.T[:slots] * span.astype(np.uint64) >> np.uint64(32)
        places = np.add(drawn, first, dtype=np.int16, casting="unsafe", order="C")
        last, repeat_from = first + (span - 1), self.repeat_from[cells]
        for slot in range(1, slots):  # slices do not overlap, so that equal places are repeats
            repeated = (places[:slot] == places[slot]).any(0) & (slot < repeat_from)
            np.copyto(places[slot], last[slot], where=repeated)
        negatives = self.order.reshape(-1).take(places + anchors.astype(np.int64) * self.codes)
        return np.ascontiguousarray(negatives.T, dtype=np.int64), self.hardness.take(cells, axis=0)

    def _pairs_at(self, seed: tuple[int, int], epoch: int, positions: np.ndarray) -> np.ndarray:
        """Which pairs stand at these positions of an epoch: lap after lap, each in its own order."""
        laps, places = np.divmod(positions, len(self))
        chosen = np.empty(len(positions), dtype=np.int32)
        for lap in np.unique(laps).tolist():
            within = laps == lap
            chosen[within] = self._lap(*seed, epoch, lap)[places[within]]
        return chosen

    def _lap(self, seed: int, stream: int, epoch: int, lap: int) -> np.ndarray:
        name = (seed, stream, epoch, lap)
        if name not in self._laps:
            generator = np.random.Generator(philox(seed, LAPS + (stream << 8), 0, lap, epoch))
            order = generator.permutation(np.arange(len(self), dtype=np.int32))
            self._laps = dict([*self._laps.items()][-1:]) | {name: order}  # a batch spans two at most, mostly
        return self._laps[name]

    def audit(self) -> dict[str, Any]:
        """Exact: pairs, triplets by hardness of the pairs in use, share of the slots that fall back."""
        triplets = self.size[self.cells].sum(0, dtype=np.int64).tolist()
        return {
            "pairs_admitted": self.admitted,
            "pairs": len(self),
            "anchors": len(np.unique(self.anchors)),
            "triplets": {bucket: triplets[bucket] for bucket in range(1, EXCLUDED + 1)},
            "negatives": {bucket: int(self.curriculum.requests[bucket]) for bucket in range(1, EXCLUDED + 1)},
            "fallback_rate": mean(self.shortage[self.cells]) / self.curriculum.k_negatives,
            "fallback_rate_of_admitted": self.fallback_of_admitted,
        }


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def shared_pairs(first: TripletTable, second: TripletTable) -> int:
    """Pairs of codes, in either order, that two tables both use: 0 for a split without a leak."""
    seen = np.zeros((first.codes, first.codes), dtype=bool)
    seen[first.anchors, first.positives] = seen[first.positives, first.anchors] = True
    return int(seen[second.anchors, second.positives].sum())


class MatrixTriplets:
    """Batches straight from the distance matrix: nothing is read, nothing has to be stored for a resume.

    Ranks take their rows of one global batch, so that W processes of batch size B see what one of W * B does.
    """

    def __init__(
        self,
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
    ) -> None:
        self.curriculum, self.seed = curriculum, seed
        self.rows = range(rank * batch_size, (rank + 1) * batch_size)
        self.global_batch = world_size * batch_size
        distances = distance_matrix(taxonomy, "corrected")
        allowed = pairs_allowed(taxonomy, curriculum, split, split_seed, validation_share)
        anchors, positives = np.nonzero(allowed & curriculum.near(distances))
        pairs = anchors, positives, distances[anchors, positives]
        keys = sort_keys(distances, excluded_pairs(taxonomy))
        self.table = TripletTable(keys, pairs, curriculum, max_fallback)
        if not len(self.table):
            raise InputError(no_pairs(curriculum, split))

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every pair is an anchor and its positive once; the last batch begins a new lap."""
        return -(-len(self.table) // self.global_batch)

    def batch(self, epoch: int, step: int) -> TripletBatch:
        return self.table.batch((self.seed, 0), epoch, step, self.rows, self.global_batch)

    def audit(self) -> dict[str, Any]:
        return self.table.audit()
