"""How much of the tree a set of points holds: distances against the tree's own, radii, collapse, experts.

n codes. Distances are (n, n), `tree` is the path length D* with a virtual root over the sectors (0..10).
Depth is level - 1: 1 for a sector, 0 for the root. Equal distances stand for a random order and the measures
are the expectations, so that the tree's own metric, which ties a lot, has exact scores: the ceilings.
"""

import numpy as np
from scipy.stats import kendalltau, rankdata

from naics.metrics import hits_at

NEIGHBOURS = 10
NEAR_BOUND = 0.99  # a norm above this share of the largest possible one counts as at the bound


def structure_measures(
    distances: np.ndarray, tree: np.ndarray, levels: np.ndarray, parents: np.ndarray
) -> dict[str, float]:
    """All measures of a distance matrix, by name."""
    if not np.isfinite(distances).all():
        raise ValueError("distances that are not finite cannot be measured")
    depth = levels.astype(np.int64) - 1
    shared = (depth[:, None] + depth - tree) // 2  # depth of the deepest common ancestor, 0 across sectors
    pairs = np.triu_indices(len(tree), 1)
    d, t, same = distances[pairs], tree[pairs], shared[pairs] > 0
    return {
        **pair_measures(d, t, same),
        **distortion(d, t),
        **neighbour_measures(distances, shared, depth),
        **family_measures(distances, levels, parents),
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation with average ranks; 0 where one side does not vary."""
    a, b = rankdata(a), rankdata(b)
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-300))


def pair_measures(d: np.ndarray, t: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """Correlations over all pairs, and the chance that a pair in one sector is nearer than one in two."""
    ranks = rankdata(d)
    inside, outside = int(same.sum()), int((~same).sum())
    farther = ranks[same].sum() - inside * (inside + 1) / 2  # times that it is not, ties half
    return {
        "spearman": spearman(ranks, t),
        "spearman_within_sector": spearman(d[same], t[same]),
        "spearman_across_sectors": spearman(d[~same], t[~same]),
        "kendall": float(np.nan_to_num(kendalltau(d, t).statistic)),
        "sector_auc": float(1 - farther / max(1, inside * outside)),
    }


def distortion(d: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Mean and worst |scale * d / t - 1|, with the scale of least squares in these relative errors."""
    ratio = d.astype(np.float64) / t
    scale = float(ratio.sum() / max(ratio @ ratio, 1e-300))
    error = np.abs(scale * ratio - 1)
    return {"distortion": float(error.mean()), "distortion_worst": float(error.max()), "scale": scale}


def neighbour_measures(distances: np.ndarray, shared: np.ndarray, depth: np.ndarray) -> dict[str, float]:
    """NDCG@10 with the depth of the common ancestor as gain, and the mean average precision of ancestors."""
    above = shared == depth  # [i, j]: j is an ancestor of i, or i itself, which falls away below
    near = others_infinite(distances)
    order = np.argsort(near, axis=1)[:, :-1]  # all but itself, which is last
    near, gains, above = (np.take_along_axis(each, order, 1) for each in (near, shared, above))
    starts = np.ones(near.shape, dtype=bool)
    starts[:, 1:] = near[:, 1:] != near[:, :-1]
    first = np.flatnonzero(starts)  # of each group of equals, rows end to end
    size = np.diff(np.append(first, starts.size))

    discount = 1 / np.log2(np.arange(2, NEIGHBOURS + 2))[: near.shape[1]]
    expected = np.repeat(np.add.reduceat(gains.ravel(), first) / size, size).reshape(gains.shape)
    ideal = -np.sort(-gains, axis=1)[:, :NEIGHBOURS] @ discount
    ndcg = (expected[:, :NEIGHBOURS] @ discount)[ideal > 0] / ideal[ideal > 0]

    # McSherry and Najork 2008, section 3: at the j-th place of a group of s with r relevant ones, R of them
    # before the group, the expected precision where one is found is (R + 1 + (j - 1)(r - 1)/(s - 1)) / rank.
    wanted = above.sum(1)
    r = np.add.reduceat(above.ravel(), first, dtype=np.int64)
    before = np.cumsum(r) - r - (np.cumsum(wanted) - wanted)[first // near.shape[1]]
    j_less_one = np.arange(starts.size) - np.repeat(first, size)
    found = np.repeat(before + 1.0, size) + np.repeat((r - 1) / np.maximum(size - 1, 1), size) * j_less_one
    found *= np.repeat(r / size, size)
    precision = found.reshape(near.shape) / np.arange(1, near.shape[1] + 1)
    average = precision.sum(1)[wanted > 0] / wanted[wanted > 0]
    return {"ndcg@10": float(ndcg.mean()), "map_ancestors": float(average.mean())}


def others_infinite(distances: np.ndarray) -> np.ndarray:
    """A copy in which no code is near itself."""
    near = distances.astype(np.float64)
    np.fill_diagonal(near, np.inf)
    return near


def family_measures(distances: np.ndarray, levels: np.ndarray, parents: np.ndarray) -> dict[str, float]:
    """Parents and siblings among the nearest codes, over the codes that have siblings.

    An only child is left out: its text is its parent's, more often than not. `parent@k` ranks all codes,
    `parent@1_in_level` those of the parent's level, `sibling@k` those of the own level: the share of the k
    nearest that are siblings, of as many as there are.
    """
    children = np.bincount(parents[parents >= 0], minlength=len(parents))
    codes = np.flatnonzero((parents >= 0) & (children[parents] > 1))
    near, parent = others_infinite(distances)[codes], parents[codes]
    own = near[np.arange(len(codes)), parent][:, None]
    in_level = levels == levels[parent][:, None]
    better, ties = (near < own).sum(1), (near == own).sum(1)
    measures = {f"parent@{k}": float(hits_at(better, ties, k).mean()) for k in (1, 5)}
    better, ties = ((near < own) & in_level).sum(1), ((near == own) & in_level).sum(1)
    measures["parent@1_in_level"] = float(hits_at(better, ties, 1).mean())

    near[levels != levels[codes][:, None]] = np.inf
    sibling = parents == parent[:, None]
    order = np.sort(near, axis=1)
    for k in (1, 5):
        kth = order[:, min(k, near.shape[1]) - 1][:, None]
        inside, at = near < kth, near == kth
        chance = (k - inside.sum(1)) / at.sum(1)  # of each code that ties at the k-th place
        found = (inside & sibling).sum(1) + chance * (at & sibling & np.isfinite(near)).sum(1)
        measures[f"sibling@{k}"] = float((found / np.minimum(k, children[parent] - 1)).mean())
    return measures


def radius_measures(radii: np.ndarray, levels: np.ndarray, parents: np.ndarray) -> dict[str, float]:
    """Do deeper codes lie farther out? `radii` (n) are distances from the origin."""
    child = parents >= 0
    return {
        "radius_level_spearman": spearman(radii, levels),
        "child_outside_parent": float((radii[child] > radii[parents[child]]).mean()),
        **{f"radius_level_{level}": float(radii[levels == level].mean()) for level in np.unique(levels)},
    }


def collapse_measures(points: np.ndarray, max_radius: float | None = None) -> dict[str, float]:
    """Signs that the points (n, d) use little of their space: equal norms, few directions, a full rim.

    The effective rank is exp of the entropy of the normalised singular values (Roy and Vetterli 2007).
    """
    norms = np.linalg.norm(points.astype(np.float64), axis=1)
    values = np.linalg.svd(points.astype(np.float64) - points.mean(0, dtype=np.float64), compute_uv=False)
    share = values / max(values.sum(), 1e-300)
    share = share[share > 0]
    measures = {
        "norm_variation": float(norms.std() / max(norms.mean(), 1e-300)),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0,
    }
    if max_radius is not None:
        measures["at_radius_bound"] = float((norms > NEAR_BOUND * max_radius).mean())
    return measures


def expert_measures(router: np.ndarray) -> dict[str, float]:
    """Use of a mixture of experts from each code's router probabilities (n, experts).

    Entropies are in units of log(experts): 1 is even use, and for one code no choice at all.
    """
    shares = router.astype(np.float64).mean(0)
    scale = np.log(max(2, router.shape[1]))
    entropy = -(router * np.log(np.maximum(router, 1e-30))).sum(1)
    return {
        "usage_entropy": float(-(shares * np.log(np.maximum(shares, 1e-30))).sum() / scale),
        "entropy_of_a_code": float(entropy.mean() / scale),
        **{f"share_{expert}": float(share) for expert, share in enumerate(shares)},
    }
