"""The report's statistics as pure functions, in float64.

    C  configurations    S  seeds    N  documents (of the language model: windows of the test text)
    R  resamples

Every score is a ratio of two sums over documents, so that an array (N, 2) a run is all that a bootstrap
needs: precision at 5 is hits / 5, micro-F1 is 2 tp / (2 tp + fp + fn), a loss is loss / 1.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

RESOLUTION = 0.002  # 0.2 points of a score; of a loss in nats, 0.2% of perplexity
LEVEL = 0.95
MOST_SEEDS = 10_000


# ---------------------------------------------------------------- pairs of seeds


def paired_deltas(values: Mapping[int, float], base: Mapping[int, float]) -> np.ndarray:
    """(seeds that both have,): value minus base at equal seed. A value that is not finite has no delta."""
    seeds = sorted(set(values) & set(base))
    deltas = np.array([values[seed] - base[seed] for seed in seeds], dtype=np.float64)
    return deltas[np.isfinite(deltas)]


def t_interval(deltas: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """Mean and Student's interval for it; of fewer than two deltas nothing bounds the mean."""
    deltas = np.asarray(deltas, dtype=np.float64)
    mean = float(deltas.mean()) if len(deltas) else math.nan
    if len(deltas) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(deltas) - 1) * deltas.std(ddof=1) / math.sqrt(len(deltas)))
    return mean, mean - half, mean + half


def seeds_needed(deltas: Sequence[float], resolution: float = RESOLUTION, level: float = LEVEL) -> int | None:
    """The least number of seeds whose t interval has a half-width of `resolution`, at the spread seen.

    None where a spread cannot be seen (fewer than two deltas) or more than MOST_SEEDS would be needed.
    """
    if len(deltas) < 2:
        return None
    spread = float(np.std(deltas, ddof=1))

    def half(count: int) -> float:
        return stats.t.ppf(0.5 + level / 2, count - 1) * spread / math.sqrt(count)

    if half(MOST_SEEDS) > resolution:
        return None
    low, high = 1, MOST_SEEDS  # the half-width falls with the count: halve the range
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half(middle) <= resolution else (middle, high)
    return high


def judge(low: float, high: float, resolution: float = RESOLUTION) -> str:
    """What an interval of a gain says: `equal` inside +-resolution, `better`, `worse`, else `open`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "open"
    if -resolution <= low and high <= resolution:
        return "equal"
    return "better" if low > 0 else "worse" if high < 0 else "open"


# ---------------------------------------------------------------- bootstrap


def resample_counts(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(R, count): how often each of `count` things is drawn, with replacement."""
    return np.stack([np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples)])


def resampled_score(parts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Parts (N, 2) and counts (R, N) -> (R,): the score of each resample of the documents."""
    above, below = (counts @ np.asarray(parts, dtype=np.float64)).T
    return above / below


def paired_bootstrap(
    parts: Mapping[int, np.ndarray], base: Mapping[int, np.ndarray], counts: np.ndarray, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile interval of the mean delta over the seeds that both have; both meet the same documents."""
    seeds = sorted(set(parts) & set(base))
    if not seeds:
        return math.nan, math.nan
    deltas = np.mean(
        [resampled_score(parts[seed], counts) - resampled_score(base[seed], counts) for seed in seeds], axis=0
    )
    low, high = np.quantile(deltas, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def resampled_means(
    parts: Sequence[Mapping[int, np.ndarray]], resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """(R, C): mean scores of the configurations under resampled documents and resampled seeds.

    All configurations of a resample meet the same documents and the same seeds, as they did in training. One
    that lacks every seed drawn is NaN there. Few seeds understate their own spread: with S of them the
    variance of a mean comes out (S - 1) / S as large.
    """
    seeds = sorted({seed for runs in parts for seed in runs})
    documents = len(next(iter(next(runs for runs in parts if runs).values())))
    by_document = resample_counts(documents, resamples, rng)
    by_seed = resample_counts(len(seeds), resamples, rng)
    means = np.full((resamples, len(parts)), np.nan)
    for column, runs in enumerate(parts):
        have = [i for i, seed in enumerate(seeds) if seed in runs]
        scores = np.array([resampled_score(runs[seeds[i]], by_document) for i in have]).reshape(-1, resamples)
        weights = by_seed[:, have].T
        total = weights.sum(0)
        found = total > 0
        means[found, column] = (weights * scores).sum(0)[found] / total[found]
    return means


# ---------------------------------------------------------------- two tasks


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; NaN for fewer than three pairs or a constant side."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3:
        return math.nan
    ranks = np.stack([stats.rankdata(side[both]) for side in (a, b)])
    ranks -= ranks.mean(1, keepdims=True)
    norm = math.sqrt(float(np.prod((ranks**2).sum(1))))
    return float(ranks[0] @ ranks[1]) / norm if norm else math.nan


def spearman_interval(a: np.ndarray, b: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval over resampled scores (R, C) of two tasks."""
    found = np.array([spearman(x, y) for x, y in zip(a, b, strict=True)])
    found = found[np.isfinite(found)]
    if not len(found):
        return math.nan, math.nan
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def better_probability(gains: np.ndarray) -> np.ndarray:
    """Resampled gains (R, C), more is better -> (C, C): how often i beats j; a tie is no win."""
    with np.errstate(invalid="ignore"):
        return (gains[:, :, None] > gains[:, None, :]).mean(0)


def flips(a: np.ndarray, b: np.ndarray, least: float = 0.9) -> list[tuple[int, int, float]]:
    """(i, j, probability) of the pairs where i beats j in the first task and j beats i in the second.

    The tasks' resamples are independent, so the probability is a product.
    """
    probability = better_probability(a) * better_probability(b).T
    pairs = np.argwhere(probability > least)
    return sorted(
        ((int(i), int(j), float(probability[i, j])) for i, j in pairs), key=lambda flip: (-flip[2], *flip[:2])
    )


# ---------------------------------------------------------------- predictions, speed


def top_k_jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over documents of |A and B| / |A or B| for top-k ids (N, k) each."""
    k = a.shape[1]
    common = (a[:, :, None] == b[:, None, :]).any(2).sum(1)
    return float((common / (2 * k - common)).mean())


def first_reached(steps: Sequence[float], values: Sequence[float], target: float, sign: int) -> float | None:
    """The step, interpolated, at which a curve first is as good as `target`; `sign` -1 where less is better.

    None where it never is. A value that is not finite is no better than any other.
    """
    gains = sign * np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        good = np.flatnonzero(gains >= sign * target)
    if not len(good):
        return None
    i = int(good[0])
    if i == 0 or not np.isfinite(gains[i - 1]):
        return float(steps[i])
    share = (sign * target - gains[i - 1]) / (gains[i] - gains[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Which points no other beats: none costs as little and gains as much, with one of the two better."""
    points = np.stack([-np.asarray(costs, dtype=np.float64), np.asarray(gains, dtype=np.float64)], 1)
    at_least = (points[None] >= points[:, None]).all(2)
    more = (points[None] > points[:, None]).any(2)
    return [
        bool(np.isfinite(p).all() and not row.any()) for p, row in zip(points, at_least & more, strict=True)
    ]
