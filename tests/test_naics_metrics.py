"""naics/metrics.py and naics/structure_metrics.py against scikit-learn, scipy, and every order of the ties.

python -m pytest tests/test_naics_metrics.py
"""

import itertools
import os

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from naics import metrics, structure_metrics

# Two sectors. 0 > 1, 2; 1 > 3, 4; 3 > 5 > 6; 2 > 7.  8 > 9 > 10 > 11 > 12, 13.
LEVELS = np.array([2, 3, 3, 4, 4, 5, 6, 4, 2, 3, 4, 5, 6, 6], dtype=np.int8)
PARENTS = np.array([-1, 0, 0, 1, 1, 3, 5, 2, -1, 8, 9, 10, 11, 11], dtype=np.int16)


def ancestors(code: int) -> list[int]:
    """The code, its parent, ... its sector."""
    chain = [code]
    while PARENTS[chain[-1]] >= 0:
        chain.append(int(PARENTS[chain[-1]]))
    return chain


def common(a: int, b: int) -> int:
    """Depth of the deepest common ancestor: 0 for none, 1 for the sector."""
    return len(set(ancestors(a)) & set(ancestors(b)))


def path(code: int) -> list[int]:
    """Ancestors on levels 2..6, -1 below the code's own."""
    return (ancestors(code)[::-1] + 5 * [-1])[:5]


SHARED = np.array([[common(a, b) for b in range(14)] for a in range(14)])
TREE = (LEVELS[:, None] + LEVELS - 2 - 2 * SHARED).astype(np.int8)


def orders(values: np.ndarray) -> list[np.ndarray]:
    """Every order, nearest first, that a list with ties can be put in."""
    count = len(values)
    every = np.array(list(itertools.permutations(range(count))))
    ranked = np.take_along_axis(every, np.argsort(values[every], axis=1, kind="stable"), axis=1)
    return list(ranked)


@pytest.fixture(scope="module")
def tied() -> np.ndarray:
    """A symmetric matrix with many ties, a zero distance between two codes among them."""
    rng = np.random.default_rng(0)
    half = np.triu(rng.integers(1, 6, size=(14, 14)), 1).astype(np.float32)
    half[5, 6] = 0
    return half + half.T


# ---------------------------------------------------------------- text to code


def test_query_measures_are_means_over_the_orders_of_ties():
    rng = np.random.default_rng(1)
    codes = ["111111", "111112", "111211", "112111", "121111", "211111"]
    prefixes = sorted({code[:size] for code in codes for size in metrics.LEVELS})
    paths = np.array([[prefixes.index(code[:size]) for size in metrics.LEVELS] for code in codes])
    scores = rng.integers(0, 3, size=(40, 6)).astype(np.float32)
    targets = rng.integers(0, 6, size=40)
    found = metrics.query_measures(scores, targets, paths)
    for query, target in enumerate(targets):
        every = orders(-scores[query])
        ranks = np.array([list(order).index(target) + 1 for order in every])
        lca = np.array([len(os.path.commonprefix([codes[order[0]], codes[target]])) for order in every])
        lca[lca < 2] = 0
        wanted = {"top1": ranks == 1, "hits@5": ranks <= 5, "hits@10": ranks <= 10, "mrr": 1 / ranks}
        wanted |= {f"level_{level}": lca >= level for level in metrics.LEVELS} | {"lca_level": lca}
        assert {name: values[query] for name, values in found.items()} == pytest.approx(
            {name: values.mean() for name, values in wanted.items()}
        )


def test_levels_and_credit_by_hand():
    leaves = np.array([6, 12, 13])
    paths = np.array([path(leaf) for leaf in leaves])
    scores = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    found = metrics.query_measures(scores, np.array([2, 2, 2]), paths)
    assert found["level_5"].tolist() == [1, 0, 1]
    assert found["level_6"].tolist() == [0, 0, 0.5] == found["top1"].tolist()
    assert found["lca_level"].tolist() == [5, 0, 5.5]


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        metrics.rank_bounds(np.array([[0.0, np.nan]]), np.array([0]))


def test_a_constant_score_ranks_at_random():
    found = metrics.query_measures(np.zeros((1, 3)), np.array([1]), np.arange(15).reshape(3, 5))
    assert found["top1"][0] == pytest.approx(1 / 3)
    assert found["mrr"][0] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_bootstrap_is_a_resampling_of_whole_codes():
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(100, 150), rng.integers(1, 9, size=50))
    values = rng.random(len(codes)) + 0.5 * rng.normal(size=200)[codes]
    found = metrics.bootstrap_over_codes({"a": values, "b": -values}, codes, seed=3, resamples=4000)
    by_code = [values[codes == code] for code in range(100, 150)]
    means = []
    for _ in range(4000):
        drawn = [by_code[code] for code in rng.integers(50, size=50)]
        means.append(np.concatenate(drawn).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert found["a"]["value"] == pytest.approx(values.mean())
    assert found["a"]["low"] == pytest.approx(low, abs=0.02)
    assert found["a"]["high"] == pytest.approx(high, abs=0.02)
    assert found["b"]["low"] == pytest.approx(-found["a"]["high"])
    # Rows drawn one by one would promise far more than the codes hold.
    assert found["a"]["high"] - found["a"]["low"] > 1.5 * 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert found == metrics.bootstrap_over_codes({"a": values, "b": -values}, codes, seed=3, resamples=4000)


def test_sector_table():
    table = metrics.by_sector({"mrr": np.array([1.0, 0.5, 0.0])}, np.array([8, 0, 8]))
    assert table == {0: {"queries": 1, "mrr": 0.5}, 8: {"queries": 2, "mrr": 0.5}}


def test_references_compare_the_best_code_under_each_side():
    leaves = np.array([6, 12, 13])
    below = np.array([[code in ancestors(leaf) for leaf in leaves] for code in range(14)])
    scores = np.array([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [2.0, 0.0, 2.0]])
    wins = metrics.reference_wins(scores, np.array([9, 9, 9]), np.array([5, 5, 5]), below)
    assert wins.tolist() == [1, 0, 0.5]


# ---------------------------------------------------------------- structure


def test_pairs_against_scipy_and_sklearn(tied):
    found = structure_metrics.structure_measures(tied, TREE, LEVELS, PARENTS)
    pairs = np.triu_indices(14, 1)
    d, t, same = tied[pairs], TREE[pairs], SHARED[pairs] > 0
    assert found["spearman"] == pytest.approx(stats.spearmanr(d, t).statistic)
    assert found["spearman_within_sector"] == pytest.approx(stats.spearmanr(d[same], t[same]).statistic)
    assert found["spearman_across_sectors"] == pytest.approx(stats.spearmanr(d[~same], t[~same]).statistic)
    assert found["kendall"] == pytest.approx(stats.kendalltau(d, t).statistic)
    assert found["sector_auc"] == pytest.approx(roc_auc_score(same, -d))


def test_distortion_by_least_squares(tied):
    pairs = np.triu_indices(14, 1)
    ratio = tied[pairs] / TREE[pairs]
    scale = np.linalg.lstsq(ratio[:, None].astype(float), np.ones(len(ratio)))[0][0]
    found = structure_metrics.distortion(tied[pairs], TREE[pairs])
    assert found["scale"] == pytest.approx(scale)
    assert found["distortion"] == pytest.approx(np.abs(scale * ratio - 1).mean())
    assert found["distortion_worst"] == pytest.approx(np.abs(scale * ratio - 1).max())
    assert structure_metrics.distortion(3 * TREE[pairs], TREE[pairs])["distortion"] == pytest.approx(0)


@pytest.mark.parametrize("ties", [True, False])
def test_neighbours_against_sklearn(tied, ties):
    rng = np.random.default_rng(4)
    distances = tied if ties else tied + np.triu(rng.random((14, 14)), 1) + np.tril(rng.random((14, 14)), -1)
    found = structure_metrics.structure_measures(distances, TREE, LEVELS, PARENTS)
    ndcg, precision = [], []
    for code in range(14):
        others = np.delete(np.arange(14), code)
        near = -distances[code, others][None]
        if SHARED[code, others].any():
            ndcg.append(ndcg_score(SHARED[code, others][None], near, k=10))
        is_above = np.isin(others, ancestors(code)[1:])
        if is_above.any() and not ties:  # scikit-learn puts equal scores at one threshold
            precision.append(average_precision_score(is_above, near[0]))
    assert found["ndcg@10"] == pytest.approx(np.mean(ndcg))
    if not ties:
        assert found["map_ancestors"] == pytest.approx(np.mean(precision))


def test_ancestor_precision_and_families_over_all_orders():
    """Eight codes, so that every order of the seven others can be gone through."""
    rng = np.random.default_rng(5)
    levels = np.array([2, 3, 3, 4, 4, 4, 2, 3])
    parents = np.array([-1, 0, 0, 1, 1, 2, -1, 6])
    family = [[], [0], [0], [1, 0], [1, 0], [2, 0], [], [6]]
    shared = np.array([[len({a, *family[a]} & {b, *family[b]}) for b in range(8)] for a in range(8)])
    tree = levels[:, None] + levels - 2 - 2 * shared
    half = np.triu(rng.integers(1, 4, size=(8, 8)), 1)
    distances = (half + half.T).astype(float)
    found = structure_metrics.structure_measures(distances, tree, levels, parents)
    precision, parent, in_level, sibling = [], [], [], []
    for code in np.flatnonzero(parents >= 0):
        others = np.delete(np.arange(8), code)
        every = others[np.array(orders(distances[code, others]))]  # (5040, 7)
        hit = np.isin(every, family[code])
        precision.append(((np.cumsum(hit, 1) / np.arange(1, 8)) * hit).sum(1).mean() / len(family[code]))
        brothers = [b for b in others if parents[b] == parents[code]]
        if brothers:
            parent.append([(every[:, :k] == parents[code]).any(1).mean() for k in (1, 5)])
            of_level = [[b for b in order if levels[b] == levels[parents[code]]] for order in every]
            in_level.append(np.mean([order[0] == parents[code] for order in of_level]))
            own_level = [[b for b in order if levels[b] == levels[code]] for order in every]
            sibling.append(
                [
                    np.mean([len(set(order[:k]) & set(brothers)) for order in own_level])
                    / min(k, len(brothers))
                    for k in (1, 5)
                ]
            )
    assert found["map_ancestors"] == pytest.approx(np.mean(precision))
    assert [found["parent@1"], found["parent@5"]] == pytest.approx(np.mean(parent, 0))
    assert found["parent@1_in_level"] == pytest.approx(np.mean(in_level))
    assert [found["sibling@1"], found["sibling@5"]] == pytest.approx(np.mean(sibling, 0))


def test_the_order_of_the_codes_changes_nothing(tied):
    """Ties are many, so a measure that broke them by position would change."""
    order = np.random.default_rng(6).permutation(14)
    place = np.append(np.argsort(order), -1)  # -1 stays -1
    moved = structure_metrics.structure_measures(
        tied[order][:, order], TREE[order][:, order], LEVELS[order], place[PARENTS[order]]
    )
    assert moved == pytest.approx(structure_metrics.structure_measures(tied, TREE, LEVELS, PARENTS))


def test_the_tree_is_its_own_ceiling():
    found = structure_metrics.structure_measures(TREE, TREE, LEVELS, PARENTS)
    for name in ("spearman", "kendall", "spearman_within_sector", "spearman_across_sectors", "sibling@1"):
        assert found[name] == pytest.approx(1), name
    assert found["distortion"] == pytest.approx(0) and found["parent@1_in_level"] == 1
    # 1 and 2 (two children), 3 (one) and 12, 13, 4 (none) have siblings; 7 and 5 are only children.
    one_of = [1 / 3, 1 / 2, 1 / 2, 1, 1, 1]
    assert found["parent@1"] == pytest.approx(np.mean(one_of))


def test_points_in_one_place_are_measured_not_crashed_on():
    found = structure_metrics.structure_measures(np.zeros((14, 14)), TREE, LEVELS, PARENTS)
    assert found["spearman"] == found["kendall"] == 0
    assert found["sector_auc"] == pytest.approx(0.5)
    assert found["distortion"] == 1
    assert structure_metrics.collapse_measures(np.zeros((14, 3)), 8.0)["effective_rank"] == 0
    with pytest.raises(ValueError, match="not finite"):
        structure_metrics.structure_measures(np.full((14, 14), np.nan), TREE, LEVELS, PARENTS)


# ---------------------------------------------------------------- radii, collapse, experts


def test_radii():
    found = structure_metrics.radius_measures(LEVELS.astype(float), LEVELS, PARENTS)
    assert found["radius_level_spearman"] == pytest.approx(1) and found["child_outside_parent"] == 1
    radii = np.array([5.0, 1, 6, *LEVELS[3:]])
    found = structure_metrics.radius_measures(radii, LEVELS, PARENTS)
    assert found["radius_level_spearman"] == pytest.approx(stats.spearmanr(radii, LEVELS).statistic)
    assert found["child_outside_parent"] == pytest.approx(10 / 12)  # 1 inside 0, 7 inside 2
    assert found["radius_level_2"] == pytest.approx((5 + 2) / 2)


def test_collapse():
    rng = np.random.default_rng(7)
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    line = np.outer(np.linspace(-1, 1, 50), turned[0]) + 3
    assert structure_metrics.collapse_measures(line)["effective_rank"] == pytest.approx(1, abs=1e-4)
    full = np.concatenate((turned, -turned))
    found = structure_metrics.collapse_measures(full, max_radius=1.0)
    assert found["effective_rank"] == pytest.approx(6)
    assert found["norm_variation"] == pytest.approx(0, abs=1e-7)
    assert found["at_radius_bound"] == 1
    assert structure_metrics.collapse_measures(full, max_radius=2.0)["at_radius_bound"] == 0
    # scipy's entropy of the same spectrum
    points = rng.normal(size=(50, 6)) * [5, 3, 1, 1, 0.5, 0.1]
    values = np.linalg.svd(points - points.mean(0), compute_uv=False)
    found = structure_metrics.collapse_measures(points)
    assert found["effective_rank"] == pytest.approx(np.exp(stats.entropy(values)))


def test_experts():
    even = structure_metrics.expert_measures(np.full((5, 4), 0.25))
    assert even["usage_entropy"] == pytest.approx(1) and even["entropy_of_a_code"] == pytest.approx(1)
    split = structure_metrics.expert_measures(np.eye(4)[[0, 1, 2, 3, 3]])
    assert split["entropy_of_a_code"] == pytest.approx(0, abs=1e-12)
    assert split["usage_entropy"] == pytest.approx(stats.entropy([0.2, 0.2, 0.2, 0.4]) / np.log(4))
    assert split["share_3"] == pytest.approx(0.4)
