"""All triplets (anchor, positive, negative) of a rule: counted by arithmetic, written in a shuffled order.

A positive is of the anchor's sector, a negative farther from the anchor: d(a, n) > d(a, p), all three pairs
being of the rule. How hard a triplet is, by d(a, n) - d(a, p) in steps:

    8  excluded: anchor or negative names the other (corrected); the positive names the negative (compat)
    1  the negative is of another sector than the anchor (corrected) or the positive (compat)
    7, 6, 5, 4, 3, 2   at most .5, 1, 2, 3, 4, and more
"""

import json
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from naics.data.census import Taxonomy
from naics.data.distances import OTHER_SECTOR, distance_matrix
from training_utils import InputError, replacing, write_json

FOLDER, MANIFEST = "naics_training_pairs", "triplets.json"
EXCLUDED, UNRELATED, BY_DIFFERENCE = 8, 1, 2
ROW_GROUP = 2**20
GROUPS_PER_FILE = 16
CHUNK = 2**16  # rows unranked at once: what is gathered for them fits the cache
FEISTEL_ROUNDS = 6
SCHEMA = pa.schema(
    [(name, pa.int16()) for name in ("anchor", "positive", "negative")]
    + [(name, pa.int8()) for name in ("positive_distance", "negative_distance", "hardness")]
)


# Of a difference in half steps; 0 where the negative is no farther than the positive.
HARDNESS_OF_DIFFERENCE = np.array([0, 7, 6, 5, 5, 4, 4, 3, 3, *[2] * (OTHER_SECTOR - 8)], dtype=np.int8)


@dataclass(frozen=True)
class TripletLaw:
    """n codes; distances in half steps, 0 where the rule has no pair."""

    rule: str
    distances: np.ndarray  # (n, n) int8
    classes: np.ndarray  # (n, n) int8 of (judge, negative): 0 no pair, 1 other sector, 8 excluded, else 2

    @classmethod
    def of(cls, taxonomy: Taxonomy, rule: str) -> "TripletLaw":
        distances = distance_matrix(taxonomy, rule)
        excluded = np.zeros(distances.shape, dtype=bool)
        for row, named in enumerate(taxonomy.excluded_codes):
            excluded[row, list(named)] = True
        if rule == "corrected":
            excluded |= excluded.T
        classes = np.where(distances == OTHER_SECTOR, UNRELATED, BY_DIFFERENCE).astype(np.int8)
        classes[excluded] = EXCLUDED
        classes[distances == 0] = 0
        return cls(rule, distances, classes)

    def positives(self, anchor: int) -> np.ndarray:
        """Rows of the codes of the anchor's sector."""
        return np.flatnonzero((self.distances[anchor] > 0) & (self.distances[anchor] < OTHER_SECTOR))

    def negatives(self, anchor: int, positives: np.ndarray) -> np.ndarray:
        """(P, n) whether a code is a negative of the anchor and each of its positives."""
        distances = self.distances[anchor]
        return (distances[None, :] > distances[positives, None]) & (self.distances[positives] > 0)

    def hardness(self, anchors: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        """(N,) int8, of triplets of this law."""
        classes = self.classes[anchors if self.rule == "corrected" else positives, negatives]
        difference = self.distances[anchors, negatives] - self.distances[anchors, positives]
        return np.where(classes == BY_DIFFERENCE, HARDNESS_OF_DIFFERENCE[difference], classes)


def count_triplets(taxonomy: Taxonomy, rule: str) -> dict[int, int]:
    """Hardness 1..8 -> how many triplets of the rule there are."""
    law = TripletLaw.of(taxonomy, rule)
    masks = {
        which: (law.classes == which).astype(np.float32) for which in (UNRELATED, BY_DIFFERENCE, EXCLUDED)
    }
    counts = np.zeros(EXCLUDED + 1, dtype=np.int64)
    for anchor, distances in enumerate(law.distances):
        positives = law.positives(anchor)
        values, group = np.unique(distances[positives], return_inverse=True)
        members = (group == np.arange(len(values))[:, None]).astype(np.float32)  # (V, P)
        difference = np.maximum(distances[None, :] - values[:, None], 0)  # (V, n)
        for which, mask in masks.items():
            if rule == "corrected":
                pairs = members.sum(1)[:, None] * mask[anchor]
            else:
                pairs = members @ mask[positives]  # (V, n): of positives at a distance, how many judge n so
            if which == BY_DIFFERENCE:
                hardness = HARDNESS_OF_DIFFERENCE[difference].reshape(-1)
                counts += np.bincount(hardness, pairs.reshape(-1), len(counts)).astype(np.int64)
            else:
                counts[which] += int(pairs.sum(where=difference > 0, dtype=np.float64))
    return {hardness: int(counts[hardness]) for hardness in range(1, EXCLUDED + 1)}


# ---------------------------------------------------------------- all of them, in a shuffled order


class Permutation:
    """A seeded bijection of 0..size-1 without a table: a Feistel network, walked until it lands inside."""

    def __init__(self, size: int, seed: int) -> None:
        bits = max(2, (size - 1).bit_length())
        self.size, self.low_bits, self.high_bits = size, bits // 2, bits - bits // 2
        self.keys = np.random.SeedSequence(seed).generate_state(FEISTEL_ROUNDS, np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        values = self.once(places.astype(np.uint64))
        while (outside := np.flatnonzero(values >= self.size)).size:
            values[outside] = self.once(values[outside])
        return values.astype(np.int64)

    def once(self, values: np.ndarray) -> np.ndarray:
        low_bits, high_bits = self.low_bits, self.high_bits
        low, high = values & np.uint64(2**low_bits - 1), values >> np.uint64(low_bits)
        for key in self.keys:  # an even number of rounds, so that the two widths end where they began
            mixed = (low ^ key) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ mixed >> np.uint64(32)) * np.uint64(0x94D049BB133111EB)
            low, high = (high + (mixed >> np.uint64(32))) & np.uint64(2**high_bits - 1), low
            low_bits, high_bits = high_bits, low_bits
        return high << np.uint64(low_bits) | low


class TripletList:
    """All triplets of a law in a fixed order, by number, without listing them.

    A pair's negatives are a bitmap of n bits in W words of 64; pairs with the same negatives share one.
    """

    def __init__(self, law: TripletLaw) -> None:
        anchors, positives, bitmaps, bitmap_of, bitmap_count = [], [], [], [], 0
        for anchor in range(len(law.distances)):
            found = law.positives(anchor)
            packed = np.packbits(law.negatives(anchor, found), axis=1, bitorder="little")
            packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
            different, which = np.unique(packed.view("<u8"), axis=0, return_inverse=True)
            anchors.append(np.full(len(found), anchor, dtype=np.int16))
            positives.append(found.astype(np.int16))
            bitmaps.append(different)
            bitmap_of.append((which.reshape(-1) + bitmap_count).astype(np.int32))
            bitmap_count += len(different)
        self.law = law
        self.anchors, self.positives = np.concatenate(anchors), np.concatenate(positives)
        self.bitmaps, self.bitmap_of = np.concatenate(bitmaps), np.concatenate(bitmap_of)
        # (B, W) negatives up to and with each word
        self.up_to = np.bitwise_count(self.bitmaps).cumsum(1, dtype=np.int16)
        counts = self.up_to[self.bitmap_of, -1].astype(np.int64)
        self.ends = counts.cumsum()  # (pairs,) triplets up to and with each pair

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N,) triplet numbers -> anchors, positives, negatives, (N,) int16 each."""
        pair = np.searchsorted(self.ends, numbers, side="right")
        bitmap = self.bitmap_of[pair]
        rank = (numbers - self.ends[pair] + self.up_to[bitmap, -1]).astype(np.int16)  # among the negatives
        word = (self.up_to[bitmap] <= rank[:, None]).sum(1, dtype=np.int16)
        bits = self.bitmaps[bitmap, word]
        rank -= self.up_to[bitmap, word] - np.bitwise_count(bits)
        return self.anchors[pair], self.positives[pair], 64 * word + nth_bit(bits, rank)


def nth_bit(bits: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(N,) place of the rank-th set bit, from 0, of each 64-bit word."""
    place = np.zeros(len(bits), dtype=np.int16)
    for width in (32, 16, 8, 4, 2, 1):
        below = np.bitwise_count(bits & np.uint64(2**width - 1)).astype(np.int16)
        higher = rank >= below
        rank = rank - below * higher
        bits = bits >> (higher * np.uint64(width))
        place += higher * np.int16(width)
    return place


def write_triplets(
    taxonomy: Taxonomy,
    out: Path,
    rule: str = "corrected",
    seed: int = 42,
    limit: int | None = None,
    row_group: int = ROW_GROUP,
    groups_per_file: int = GROUPS_PER_FILE,
) -> dict:
    """Write a rule's triplets, or the first `limit` of them, to Parquet files in the folder `out`.

    Their order is a seeded shuffle of all, so that any stretch is a fair sample. A run that was stopped goes
    on with the first file that is not whole.
    """
    start, out = time.perf_counter(), Path(out)
    triplets = TripletList(TripletLaw.of(taxonomy, rule))
    rows = len(triplets) if limit is None else min(limit, len(triplets))
    if rows < 1:
        raise InputError(f"{out}: no triplets to write; give a positive limit and a taxonomy with siblings")
    law = zlib.crc32(triplets.law.classes.tobytes(), zlib.crc32(triplets.law.distances.tobytes()))
    per_file = row_group * groups_per_file
    plan = {"rule": rule, "seed": seed, "triplets": len(triplets), "rows": rows, "row_group": row_group}
    plan |= {"rows_per_file": per_file, "files": -(-rows // per_file), "law_crc32": law}
    check_plan(out, plan)
    order, written = Permutation(len(triplets), seed), 0
    for number in tqdm(range(plan["files"]), desc="triplets", unit="file", disable=None):
        path = out / f"triplets-{number:05d}.parquet"
        first, last = number * per_file, min(rows, (number + 1) * per_file)
        if not is_whole(path, last - first):
            write_file(path, triplets, order, first, last, row_group)
            written += last - first
    seconds = time.perf_counter() - start
    return plan | {"rows_written": written, "seconds": seconds, "rows_per_second": written / seconds}


def check_plan(out: Path, plan: dict) -> None:
    """Begin a folder, or go on with one of the same plan."""
    path = out / MANIFEST
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise InputError(f"{path}: damaged; remove the folder and write the triplets again") from None
        for name, value in plan.items():
            if found.get(name) != value:
                was = found.get(name)
                raise InputError(f"{path}: written with {name} {was}, not {value}; remove the folder first")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)


def is_whole(path: Path, rows: int) -> bool:
    try:
        return pq.read_metadata(path).num_rows == rows
    except (OSError, pa.ArrowException):
        return False


def write_file(
    path: Path, triplets: TripletList, order: Permutation, first: int, last: int, row_group: int
) -> None:
    """Triplets first..last-1 of the shuffled order."""
    with replacing(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for begin in range(first, last, row_group):
            end = min(last, begin + row_group)
            chunks = [
                triplet_columns(triplets, order(np.arange(at, min(at + CHUNK, end))))
                for at in range(begin, end, CHUNK)
            ]
            columns = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
            writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=row_group)


def triplet_columns(triplets: TripletList, numbers: np.ndarray) -> tuple[np.ndarray, ...]:
    """The columns of SCHEMA for triplets of these numbers."""
    anchors, positives, negatives = triplets[numbers]
    law = triplets.law
    distances = law.distances[anchors, positives], law.distances[anchors, negatives]
    return anchors, positives, negatives, *distances, law.hardness(anchors, positives, negatives)
