"""How well texts find their six-digit code: ranks, hits, levels and sectors, with intervals over codes.

q queries, n candidate codes. Scores (q, n) are higher where nearer; a distance goes in negated. Equal scores
stand for a random order among them and every measure is the expectation over such orders: a method gains
nothing from ties, nor from the order of the codes.
"""

import numpy as np

LEVELS = (2, 3, 4, 5, 6)
HITS_AT = (1, 5, 10)


def rank_bounds(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes that score above each query's target, and codes that score the same, itself counted: (q), (q)."""
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite cannot be ranked")
    own = scores[np.arange(len(targets)), targets][:, None]
    return (scores > own).sum(1), (scores == own).sum(1)


def hits_at(better: np.ndarray, ties: np.ndarray, k: int) -> np.ndarray:
    """Chance of a rank of k or less."""
    return np.clip((k - better) / ties, 0.0, 1.0)


def reciprocal_rank(better: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Mean of 1 / rank over the ranks that the ties leave open."""
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, int((better + ties).max(initial=0)) + 1))))
    return (harmonic[better + ties] - harmonic[better]) / ties


def query_measures(scores: np.ndarray, targets: np.ndarray, paths: np.ndarray) -> dict[str, np.ndarray]:
    """Each query's measures, by name; `targets` are columns of `scores`, `paths` (n, 5) those of the columns.

    `level_l` is the chance that the first code and the target share their ancestor of level l. `lca_level` is
    the level of their deepest common ancestor, 0 in another sector.
    """
    better, ties = rank_bounds(scores, targets)
    measures = {f"top{k}" if k == 1 else f"hits@{k}": hits_at(better, ties, k) for k in HITS_AT}
    measures["mrr"] = reciprocal_rank(better, ties)
    first = scores == scores.max(1, keepdims=True)
    for column, level in enumerate(LEVELS):
        shared = paths[:, column] == paths[targets, column][:, None]  # (q, n)
        measures[f"level_{level}"] = (first & shared).sum(1) / first.sum(1)
    # A common ancestor of level l is one on every level above, and the first of them is level 2.
    measures["lca_level"] = measures["level_2"] + sum(measures[f"level_{level}"] for level in LEVELS)
    return measures


def bootstrap_over_codes(
    measures: dict[str, np.ndarray], codes: np.ndarray, seed: int = 0, resamples: int = 2000
) -> dict[str, dict[str, float]]:
    """Mean of each measure over queries, with the 95 % interval from resampling whole codes.

    Queries of one code share its text, so they are no independent draws: a resample takes codes with
    replacement, each with all of its queries.
    """
    _, code = np.unique(codes, return_inverse=True)
    count = np.bincount(code)
    sums = np.stack([np.bincount(code, weights=values) for values in measures.values()], axis=1)  # (codes, m)
    even = np.full(len(count), 1 / len(count))
    draws = np.random.default_rng(seed).multinomial(len(count), even, resamples)  # (resamples, codes)
    means = draws @ sums / (draws @ count)[:, None]  # (resamples, m)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return {
        name: {"value": float(values.mean()), "low": float(low[n]), "high": float(high[n])}
        for n, (name, values) in enumerate(measures.items())
    }


def by_sector(measures: dict[str, np.ndarray], sectors: np.ndarray) -> dict[int, dict[str, float]]:
    """Means by the target's sector (q), and how many queries it has."""
    table = {}
    for sector in np.unique(sectors).tolist():
        here = sectors == sector
        means = {name: float(values[here].mean()) for name, values in measures.items()}
        table[sector] = {"queries": int(here.sum()), **means}
    return table


def reference_wins(
    scores: np.ndarray, destinations: np.ndarray, referring: np.ndarray, below: np.ndarray
) -> np.ndarray:
    """For activities that one code refers to another: 1 where the destination scores higher, a half if equal.

    `destinations` and `referring` (q) are taxonomy rows of any level. A code above level 6 has the best score
    of the six-digit codes under it, by `below` (rows, n), so that every method ranks the same candidates.
    """
    wins = np.empty(len(scores))
    for query, (to, origin) in enumerate(zip(destinations, referring, strict=True)):
        there, here = scores[query, below[to]].max(), scores[query, below[origin]].max()
        wins[query] = 0.5 * ((there > here) + 1.0 - (there < here))
    return wins
