"""Which triplets a curriculum asks for: the law that both backends draw by.

Distances are in half steps (int8; 20 = another sector). How hard a negative n of (anchor a, positive p) is:

    8  excluded: the text of a names n, or that of n names a    1  another sector
    7, 6, 5, 4, 3, 2  by d(a, n) - d(a, p) in half steps: 1, 2, 3-4, 5-6, 7-8, 9 and more

An epoch is laps over the (anchor, positive) pairs that the curriculum admits, each lap in a new order. A pair
comes with K negatives, all farther from the anchor than the positive: of each hardness the number the
curriculum asks for, drawn evenly and without repeats. What a hardness cannot give is drawn from the next
easier one that can, then from harder ones; only where a pair has fewer than K candidates do they repeat.
Most pairs of a hard curriculum lack some hardness (half of all negatives would fall back at stage 3), so only
pairs with at most `max_fallback` * K such negatives are used, or, if there are none, those with the fewest.

A pair's level is that of its deeper code, and both of its orders are used, so that a pair is held out whole.
Levels and distances are inclusive.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from naics.data.census import Taxonomy
from naics.data.distances import OTHER_SECTOR
from training_utils import InputError

DIFFERENCES = {7: (1, 1), 6: (2, 2), 5: (3, 4), 4: (5, 6), 3: (7, 8), 2: (9, OTHER_SECTOR)}  # half steps
EXCLUDED, UNRELATED = 8, 1


@dataclass(frozen=True)
class Curriculum:
    positive_levels: tuple[int, ...]
    positive_distance_max: float | None  # in steps
    buckets: dict[int, float]  # hardness -> share of the negatives
    k_negatives: int = 16

    def __post_init__(self) -> None:
        if not self.positive_levels or not set(self.positive_levels) <= set(range(2, 7)):
            raise InputError(f"curriculum.positive_levels {self.positive_levels}: name levels from 2 to 6")
        known = set(range(UNRELATED, EXCLUDED + 1))
        if not set(self.buckets) <= known or any(share < 0 for share in self.buckets.values()):
            raise InputError(f"curriculum.buckets {self.buckets}: name hardness 1 to 8, shares of 0 or more")
        if abs(sum(self.buckets.values()) - 1) > 1e-6:
            raise InputError(f"curriculum.buckets: shares sum to {sum(self.buckets.values()):g}; make it 1")
        if self.k_negatives < 1:
            raise InputError(f"curriculum.k_negatives {self.k_negatives}: must be 1 or more")

    @property
    def requests(self) -> np.ndarray:
        """(9,) negatives asked of each hardness: whole parts of the shares, the rest to the hardest first."""
        counts = np.zeros(EXCLUDED + 1, dtype=np.int64)
        named = sorted((bucket for bucket, share in self.buckets.items() if share > 0), reverse=True)
        for bucket in named:
            counts[bucket] = int(self.k_negatives * self.buckets[bucket] + 1e-9)
        for extra in range(self.k_negatives - int(counts.sum())):
            counts[named[extra % len(named)]] += 1
        return counts

    def near(self, half_steps: np.ndarray) -> np.ndarray:
        """Whether codes at these distances from an anchor are its positives."""
        limit = OTHER_SECTOR if self.positive_distance_max is None else 2 * self.positive_distance_max
        return (half_steps > 0) & (half_steps < OTHER_SECTOR) & (half_steps <= limit)

    def count_fallbacks(self, hardness: np.ndarray) -> int:
        """Of (B, K) negatives, those drawn in place of a hardness that had too few."""
        found = np.stack([(hardness == bucket).sum(1) for bucket in range(EXCLUDED + 1)], axis=1)
        return int(np.maximum(self.requests - found, 0).sum())


@dataclass(frozen=True)
class TripletBatch:
    """Rows of the taxonomy."""

    anchors: np.ndarray  # (B,) int64
    positives: np.ndarray  # (B,) int64
    negatives: np.ndarray  # (B, K) int64
    hardness: np.ndarray  # (B, K) int8


def in_validation(first: np.ndarray, second: np.ndarray, seed: int, share: float) -> np.ndarray:
    """Whether pairs of codes are held out: a hash of the unordered pair, the same for every curriculum."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    x = low.astype(np.uint64) << np.uint64(32) | high.astype(np.uint64)
    x += np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        x = (x ^ x >> np.uint64(shift)) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) < share * 2**53


def pairs_allowed(
    taxonomy: Taxonomy, curriculum: Curriculum, split: str, split_seed: int, validation_share: float
) -> np.ndarray:
    """(n, n) whether a pair belongs to the split and has a level of the curriculum, whatever its distance."""
    if split not in ("train", "validation"):
        raise InputError(f"split {split!r}: must be train or validation")
    rows = np.arange(len(taxonomy.levels))
    held_out = np.empty((len(rows), len(rows)), dtype=bool)
    for row in rows:  # all at once would take hundreds of MB for a moment
        held_out[row] = in_validation(row, rows, split_seed, validation_share)
    level_fits = np.isin(np.arange(7), curriculum.positive_levels)
    deeper = np.maximum(taxonomy.levels[:, None], taxonomy.levels[None, :])
    return level_fits[deeper] & (held_out if split == "validation" else ~held_out)


def audit_line(audit: dict[str, Any]) -> str:
    """What a stage prints before it trains."""
    triplets = ", ".join(f"{bucket}: {count:,}" for bucket, count in audit["triplets"].items() if count)
    return (
        f"{audit['pairs']:,} of {audit['pairs_admitted']:,} admitted pairs, {audit['anchors']:,} anchors; "
        f"{sum(audit['triplets'].values()):,} triplets, by hardness {triplets}; {audit['fallback_rate']:.1%} "
        f"of negatives fall back ({audit['fallback_rate_of_admitted']:.1%} if all admitted pairs were used)"
    )


def no_pairs(curriculum: Curriculum, split: str) -> str:
    wanted = f"level in {curriculum.positive_levels}, distance <= {curriculum.positive_distance_max}"
    return f"curriculum: no pair of codes of the {split} split fits ({wanted}); widen one of them"
