"""The report's statistics against scipy and direct formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from experiments.report_statistics import (
    better_probability,
    first_reached,
    flips,
    judge,
    paired_bootstrap,
    paired_deltas,
    pareto_front,
    resample_counts,
    resampled_means,
    resampled_score,
    seeds_needed,
    spearman,
    spearman_interval,
    t_interval,
    top_k_jaccard,
)


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------- pairs of seeds


def test_deltas_are_by_seed_whatever_their_order():
    values, base = {2: 0.7, 0: 0.5, 5: 0.9}, {0: 0.4, 2: 0.4, 3: 0.1}
    np.testing.assert_allclose(paired_deltas(values, base), [0.1, 0.3], atol=1e-15)
    assert len(paired_deltas({0: math.nan}, {0: 1.0})) == len(paired_deltas({0: 1.0}, {1: 1.0})) == 0


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_the_interval_is_that_of_a_paired_t_test(count):
    a, b = rng().normal(0.6, 0.01, (2, count))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    mean, low, high = t_interval(a - b)
    assert mean == pytest.approx((a - b).mean(), abs=1e-15)
    np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=1e-14)


def test_one_delta_has_no_interval():
    assert t_interval([0.25])[0] == 0.25 and all(map(math.isnan, t_interval([0.25])[1:]))
    assert all(map(math.isnan, t_interval([])))


@pytest.mark.parametrize("spread", [0.0002, 0.001, 0.003, 0.02])
def test_seeds_needed_is_the_first_count_that_is_narrow_enough(spread):
    deltas = np.array([-1.0, 0.0, 1.0]) * spread  # its standard deviation is `spread`
    count = next(
        n for n in range(2, 10_000) if stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) <= 0.002
    )  # fmt: skip
    assert seeds_needed(deltas) == count
    assert seeds_needed(deltas, resolution=1e-9) is None and seeds_needed(deltas[:1]) is None


def test_a_coverage_of_95_in_100():
    """The interval holds the true mean as often as it says."""
    draws = rng().normal(0.3, 1, (2000, 3))
    hits = [low <= 0.3 <= high for _, low, high in map(t_interval, draws)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_what_an_interval_is_read_as():
    assert judge(-0.002, 0.0019) == judge(0.0001, 0.0015) == "equal"
    assert judge(0.001, 0.003) == "better" and judge(-0.01, -0.0001) == "worse"
    assert judge(-0.01, 0.01) == judge(math.nan, math.nan) == judge(-0.003, 0.001) == "open"


# ---------------------------------------------------------------- bootstrap


def test_counts_draw_as_many_as_there_are():
    counts = resample_counts(50, 400, rng())
    assert counts.shape == (400, 50) and (counts.sum(1) == 50).all()
    assert counts.mean() == 1 and counts.var() == pytest.approx(1 - 1 / 50, rel=0.05)


def test_a_resampled_score_is_that_of_the_documents_drawn():
    parts, counts = rng(1).integers(1, 9, (20, 2)).astype(float), resample_counts(20, 5, rng(2))
    for found, count in zip(resampled_score(parts, counts), counts, strict=True):
        drawn = np.repeat(parts, count, axis=0)
        assert found == pytest.approx(drawn[:, 0].sum() / drawn[:, 1].sum(), abs=1e-15)


def test_the_paired_interval_agrees_with_theory_and_with_scipy():
    """The pairs share documents, so their own spread, which is large, must not show."""
    hard = rng(3).normal(0, 1, 500)
    a = np.stack([hard + rng(4).normal(0.05, 0.1, 500), np.ones(500)], 1)
    b = np.stack([hard, np.ones(500)], 1)
    low, high = paired_bootstrap({0: a}, {0: b}, resample_counts(500, 4000, rng(5)))
    difference = a[:, 0] - b[:, 0]
    half = 1.96 * difference.std() / math.sqrt(500)
    np.testing.assert_allclose([low, high], difference.mean() + np.array([-half, half]), atol=0.1 * half)
    draws = stats.bootstrap((difference,), np.mean, n_resamples=4000, method="percentile", rng=rng(6))
    np.testing.assert_allclose([low, high], draws.confidence_interval, atol=0.1 * half)


def test_the_paired_interval_takes_common_seeds_alone():
    parts = {seed: np.stack([rng(seed).random(30), np.ones(30)], 1) for seed in range(4)}
    counts = resample_counts(30, 200, rng())
    base = {1: parts[0], 2: parts[0]}
    both = {seed: parts[seed] for seed in (1, 2)}
    assert paired_bootstrap(parts, base, counts) == paired_bootstrap(both, base, counts)
    assert all(map(math.isnan, paired_bootstrap(parts, {9: parts[0]}, counts)))
    assert paired_bootstrap(parts, parts, counts) == (0.0, 0.0)


def test_resampled_means_hold_both_spreads():
    """Variance over documents plus (S - 1) / S of that of a mean of S seeds, about."""
    documents, seeds = 400, 8
    parts = {
        seed: np.stack(
            [rng(seed).normal(rng(100 + seed).normal(0, 0.5), 1, documents), np.ones(documents)], 1
        )
        for seed in range(seeds)
    }
    means = resampled_means([parts], 4000, rng(9))[:, 0]
    by_seed = np.array([part[:, 0].mean() for part in parts.values()])
    by_document = np.mean([part[:, 0] for part in parts.values()], axis=0)
    expected = by_seed.var() / seeds + by_document.var() / documents
    # documents are drawn once for all seeds, seeds once for all documents
    assert means.mean() == pytest.approx(by_seed.mean(), abs=0.02)
    assert means.var() == pytest.approx(expected, rel=0.25)


def test_configurations_of_a_resample_share_documents_and_seeds():
    parts = {seed: np.stack([rng(seed).random(50), np.ones(50)], 1) for seed in range(3)}
    shifted = {seed: part + [0.25, 0] for seed, part in parts.items()}
    means = resampled_means([parts, shifted, {2: parts[2]}], 300, rng(1))
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.25, atol=1e-12)
    assert 0.2 < np.isnan(means[:, 2]).mean() < 0.4  # (2/3)^3 of the draws lack seed 2


# ---------------------------------------------------------------- two tasks


@given(some.lists(some.tuples(some.integers(0, 5), some.integers(0, 5)), min_size=3, max_size=12))
def test_spearman_is_scipys(pairs):
    a, b = zip(*pairs, strict=True)
    found = spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_leaves_out_what_has_no_score():
    a, b = [1.0, 2.0, 3.0, math.nan, 9.0], [1.0, 3.0, 2.0, 5.0, -math.inf]
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a[:3], b[:3]).statistic)
    assert math.isnan(spearman([1, 2], [1, 2]))


def test_the_correlations_interval():
    a = np.tile(np.arange(6.0), (100, 1))
    assert spearman_interval(a, a) == (1.0, 1.0)
    low, high = spearman_interval(a, np.stack([rng(i).permutation(6) for i in range(100)]))
    assert -1 <= low < -0.5 and 0.5 < high <= 1
    assert all(map(math.isnan, spearman_interval(np.zeros((4, 6)), a[:4])))


def test_flips_are_pairs_whose_order_reverses():
    first = np.array([[1.0, 2.0, 3.0, 3.0]] * 9 + [[2.0, 1.0, 3.0, 3.0]])  # 1 beats 0 in 9 of 10
    second = np.array([[5.0, 4.0, 6.0, 6.0]] * 10)  # 0 beats 1 in all
    assert better_probability(first)[1, 0] == 0.9 and better_probability(first)[2, 3] == 0
    assert flips(first, second, least=0.85) == [(1, 0, pytest.approx(0.9))]
    assert flips(first, second, least=0.9) == []
    lost = np.where(np.arange(10)[:, None] < 4, np.nan, second)
    assert better_probability(lost)[0, 1] == 0.6  # a missing score never wins


# ---------------------------------------------------------------- predictions, speed


def test_jaccard_is_that_of_sets():
    a, b = (np.stack([rng(seed * 100 + i).permutation(12)[:5] for i in range(200)]) for seed in (1, 2))
    expected = [len({*x} & {*y}) / len({*x} | {*y}) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert top_k_jaccard(a, b) == pytest.approx(np.mean(expected), abs=1e-15)
    assert top_k_jaccard(a, a[:, ::-1]) == 1 and top_k_jaccard(a, a + 50) == 0


def test_the_step_at_which_a_curve_gets_there():
    steps, losses = [10, 20, 30], [4.0, 2.0, 1.0]
    assert first_reached(steps, losses, 3.0, -1) == 15 and first_reached(steps, losses, 1.5, -1) == 25
    assert first_reached(steps, losses, 5.0, -1) == 10 and first_reached(steps, losses, 0.5, -1) is None
    assert first_reached(steps, [0.1, 0.5, 0.3], 0.3, 1) == 15  # the first time counts
    assert first_reached(steps, [math.nan, 2.0, 1.0], 2.0, -1) == 20
    assert first_reached([], [], 1.0, -1) is None


def test_the_front_is_what_no_other_beats():
    costs, gains = rng(1).integers(0, 6, 40).astype(float), rng(2).integers(0, 6, 40).astype(float)
    costs[0] = math.nan
    for i, found in enumerate(pareto_front(costs, gains)):
        beaten = any(
            costs[j] <= costs[i] and gains[j] >= gains[i] and (costs[j] < costs[i] or gains[j] > gains[i])
            for j in range(40)
        )
        assert found == (not beaten and i != 0)
