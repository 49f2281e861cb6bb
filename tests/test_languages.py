"""Rows of an epoch by language and cluster, weights, and what the language flags refuse."""

import argparse

import numpy as np
import pytest
import torch
from torch import nn

from category_classification.batches import TrainingBatches
from category_classification.languages import (
    MOST_REPEATS,
    ClusterPairs,
    LanguagePlan,
    LanguageRows,
    TunedRows,
    plan_languages,
)
from category_classification.lspc import Split
from training_utils import InputError, World

LANGUAGES = np.repeat([0, 1, 2], [8000, 900, 100])


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("alpha", [1.0, 0.7, 0.5, 0.3, 0.0])
def test_shares_follow_the_power_law_until_rows_repeat_too_often(alpha):
    rows = LanguageRows(LANGUAGES, alpha)
    drawn = rows(generator())[:, 0]
    counts = np.bincount(LANGUAGES[drawn], minlength=3)
    sizes = np.array([8000, 900, 100])
    expected = np.minimum(9000 * sizes**alpha / (sizes**alpha).sum(), MOST_REPEATS * sizes)
    assert len(drawn) == len(rows)
    assert counts == pytest.approx(expected, abs=1)
    repeats = np.bincount(drawn, minlength=9000)
    for code in range(3):  # whole rounds before any row comes once more
        assert np.ptp(repeats[code == LANGUAGES]) <= 1
    assert repeats.max() <= MOST_REPEATS


def test_alpha_one_is_each_row_once():
    assert sorted(LanguageRows(LANGUAGES, 1.0)(generator())[:, 0]) == list(range(9000))


def test_tuned_rows_all_come_with_as_many_others():
    rows = TunedRows(LANGUAGES != 0, replay=1.0)
    drawn = rows(generator())[:, 0]
    assert len(drawn) == len(rows) == 2000 and len(set(drawn)) == 2000
    assert set(np.flatnonzero(LANGUAGES != 0)) <= set(drawn)
    assert set(rows(generator(1))[:, 0]) != set(drawn)
    assert len(TunedRows(LANGUAGES == 0, replay=1.0)) == 9000  # no more others than there are


@pytest.mark.parametrize("count", [1, 2, 7, 50, 501])
def test_cluster_pairs_hold_every_row_and_as_many_pairs_as_there_are(count):
    rng = generator(count)
    clusters, languages = rng.integers(max(1, count // 3), size=count), rng.integers(3, size=count)
    pairs = ClusterPairs(clusters, languages)
    drawn = pairs(generator())
    assert drawn.shape == (len(pairs), 2) == (-(-count // 2), 2)
    assert set(drawn.ravel()) == set(range(count))
    same = (clusters[drawn[:, 0]] == clusters[drawn[:, 1]]) & (drawn[:, 0] != drawn[:, 1])
    assert same.sum() == (np.bincount(clusters) // 2).sum()


@pytest.mark.parametrize(("cluster", "bilingual"), [((0, 0, 1, 1), 2), ((0, 0, 1), 1), ((0, 0, 0, 0, 1), 1)])
def test_pairs_prefer_two_languages(cluster, bilingual):
    """100 clusters alike: so many of each one's pairs are in two languages."""
    clusters, languages = np.repeat(np.arange(100), len(cluster)), np.tile(cluster, 100)
    drawn = ClusterPairs(clusters, languages)(generator())
    in_two = languages[drawn[:, 0]] != languages[drawn[:, 1]]
    same = clusters[drawn[:, 0]] == clusters[drawn[:, 1]]
    assert (in_two & same).sum() == 100 * bilingual


def make_split(languages, seed=0):
    count, rng = len(languages), generator(seed)
    offsets = np.concatenate([[0], rng.integers(2, 40, size=count).cumsum()])
    return Split(
        "train", np.ones(offsets[-1], np.uint32), offsets, np.zeros(count, np.int64), languages,
        rng.integers(count // 3, size=count), np.ones(9, bool), ["a", "b"], ["en", "de", "fr"], "",
    )  # fmt: skip


def test_pairs_stay_in_one_batch_and_ranks_share_it():
    split = make_split(LANGUAGES[::9])
    pairs = ClusterPairs(split.clusters, split.languages)
    batches = TrainingBatches(split, 16, 0, World(), rows=pairs)
    order = batches.order(3)
    assert len(order) == len(batches) and set(map(len, order[:-1])) <= {16, *map(len, order)}
    together = {frozenset(pair) for rows in order for pair in rows.reshape(-1, 2)}
    expected = pairs(np.random.Generator(np.random.PCG64([0, 3])))
    assert together == {frozenset(pair) for pair in expected}
    shares = [TrainingBatches(split, 8, 0, World(rank, 2), rows=pairs) for rank in range(2)]
    for whole, one, two in zip(order, *(loader.epoch(3) for loader in shares), strict=True):
        assert sorted(whole) == sorted([*one["rows"].tolist(), *two["rows"].tolist()])


def flags(**changed):
    given = dict(
        language_alpha=1.0, language_weights={}, finetune_languages=[], init=None, kl_teacher=None,
        kl_weight=1.0, resume=None,
    )  # fmt: skip
    return argparse.Namespace(**given | changed)


def plan(split, **changed):
    return plan_languages(flags(**changed), nn.Linear(1, 1), split, 300, torch.device("cpu"))


def test_without_flags_nothing_changes():
    assert plan(make_split(LANGUAGES)) == LanguagePlan(kl_weight=1.0)


def test_weights_keep_the_size_of_the_loss():
    split = make_split(LANGUAGES)
    found = plan(split, language_weights={"de": 3.0})
    weights = found.weights_of({"languages": torch.from_numpy(LANGUAGES)})
    assert float(weights.mean()) == pytest.approx(1, rel=1e-5)
    assert float(found.weights[1] / found.weights[0]) == pytest.approx(3, rel=1e-5)


def test_wrong_languages_are_named():
    split = make_split(LANGUAGES[:8900])  # without fr
    with pytest.raises(InputError, match="--language_weights fr: not a language"):
        plan(split, language_weights={"fr": 2.0})
    with pytest.raises(InputError, match="--finetune_languages fr: not a language"):
        plan(split, finetune_languages=["fr"], resume="auto")
    with pytest.raises(InputError, match="name the model to tune"):
        plan(split, finetune_languages=["de"])


def test_fine_tuning_counts_only_its_languages():
    found = plan(make_split(LANGUAGES), finetune_languages=["not-en"], resume="auto")
    assert found.weights.tolist() == [0, 1, 1]
    assert len(found.rows) == 1000
