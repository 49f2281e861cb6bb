"""Measures of IDs against direct loops and hand-made cases; baselines; readers of IDs and purchases."""

import gzip
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from semantic_ids import id_metrics
from semantic_ids.id_baselines import BASELINES
from semantic_ids.id_files import read_ids, read_purchases
from training_utils import InputError


@pytest.fixture
def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(4, size=(60, 3))


@pytest.fixture
def unit() -> np.ndarray:
    vectors = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_groups_are_equal_where_prefixes_are(codes):
    for depth, group in enumerate(id_metrics.prefix_groups(codes), 1):
        for a, b in itertools.combinations(range(len(codes)), 2):
            assert (group[a] == group[b]) == (codes[a, :depth] == codes[b, :depth]).all()
        prefixes = [tuple(row) for row in codes[:, :depth].tolist()]
        assert [prefixes[row] for row in np.argsort(group, kind="stable")] == sorted(prefixes)


def test_chance_counts_pairs(codes):
    group = id_metrics.prefix_groups(codes)[0]
    pairs = list(itertools.permutations(range(len(codes)), 2))
    expected = sum(group[a] == group[b] for a, b in pairs) / len(pairs)
    assert id_metrics.chance_of_one_group(group) == pytest.approx(expected, rel=1e-12)


def test_neighbours_are_the_most_alike(unit):
    queries = np.array([0, 7, 59])
    found = id_metrics.nearest_items(unit, queries, 5)
    cosine = unit.astype(np.float64) @ unit.T.astype(np.float64)
    for row, query in enumerate(queries):
        others = np.delete(np.arange(60), query)
        assert set(found[row]) == set(others[np.argsort(-cosine[query, others])[:5]])


def test_an_item_is_not_its_own_neighbour_among_equal_ones():
    same = np.tile(np.float32([[1, 0]]), (9, 1))
    found = id_metrics.nearest_items(same, np.arange(9), 3)
    assert found.shape == (9, 3)
    assert sum(row in found[row] for row in range(9)) <= 5  # some other copy goes instead


def test_agreement_is_a_share_of_neighbours(codes, unit):
    queries = np.arange(60)
    near = id_metrics.nearest_items(unit, queries, 5)
    group = id_metrics.prefix_groups(codes)[1]
    hits = [group[a] == group[b] for a in range(60) for b in near[a]]
    assert id_metrics.prefix_agreement(group, queries, near) == pytest.approx(np.mean(hits), rel=1e-12)


def test_collisions_by_cause():
    groups = np.array([0, 0, 1, 1, 1, 2, 2, 3])
    texts = np.array(list("aabccdef"))
    vectors = np.zeros((8, 2), dtype=np.float32)
    vectors[:, 0] = 1
    vectors[6] = [0, 1]  # unlike its group
    found = id_metrics.collision_causes(groups, texts, vectors)
    assert found == {
        "exact text": {"groups": 1, "items": 2},
        "near": {"groups": 1, "items": 3},
        "semantic": {"groups": 1, "items": 2},
    }


def test_purity_leaves_items_without_label_out():
    groups, labels = np.array([0, 0, 0, 1, 1, 1]), np.array([2, 2, 1, 0, 1, -1])
    assert id_metrics.purity(groups, labels) == pytest.approx(3 / 5)


def test_adjacency_against_counting(codes):
    rng = np.random.default_rng(2)
    pairs = rng.zipf(1.6, size=(400, 2)) % 60
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    group = id_metrics.prefix_groups(codes)[0]
    found = id_metrics.adjacency(group, pairs)
    share = np.mean([group[a] == group[b] for a, b in pairs])
    bought = np.bincount(pairs.ravel(), minlength=60) / pairs.size
    weights = {(a, b): bought[a] * bought[b] for a, b in itertools.permutations(range(60), 2)}
    popular = sum(w for (a, b), w in weights.items() if group[a] == group[b]) / sum(weights.values())
    assert found["share"] == pytest.approx(share)
    assert found["lift"] == pytest.approx(share / id_metrics.chance_of_one_group(group))
    assert found["lift_popular"] == pytest.approx(share / popular)


def test_recall_is_the_expectation_over_random_ties(codes):
    rng = np.random.default_rng(3)
    pairs = rng.integers(60, size=(50, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    groups = id_metrics.prefix_groups(codes)
    shared = np.zeros((60, 60), dtype=int)
    for depth, group in enumerate(groups, 1):
        shared[group[:, None] == group] = depth
    hits = np.zeros(len(pairs))
    draws = 3000
    for _ in range(draws):
        noise = rng.random(60)
        for number, (a, b) in enumerate(pairs):
            score = shared[a] + noise
            score[a] = -1
            hits[number] += (score > score[b]).sum() < 10
    assert id_metrics.prefix_recall(groups, pairs, 10) == pytest.approx(hits.mean() / draws, abs=0.004)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_give_codes_and_reconstructions(name):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 10))[rng.integers(40, size=500)] + 0.1 * rng.normal(size=(500, 10))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    codes, found = BASELINES[name](vectors, 3, 16, 0)
    assert codes.shape == (500, 3) and codes.min() >= 0 and codes.max() < 16
    error = ((found - vectors) ** 2).mean() / vectors.var(0).mean()
    assert found.shape == vectors.shape and error <= 1.001
    if name != "random":
        assert error < 0.5
        # Equal codes, equal reconstruction: nothing but the codes decides it.
        for row in range(1, 500):
            if (codes[row] == codes[0]).all():
                assert np.allclose(found[row], found[0], atol=1e-5)
    again, _ = BASELINES[name](vectors, 3, 16, 0)
    assert (again == codes).all()


# ---------------------------------------------------------------- files


def test_id_files_in_all_forms(tmp_path):
    wanted = {"a": [12, 7, 0], "b": [3, 250, 1]}
    columns = {f"semantic_id_{n}": [codes[n] for codes in wanted.values()] for n in range(3)}
    pq.write_table(pa.table({"parent_asin": list(wanted), **columns}), tmp_path / "ids.parquet")
    forms = {
        "text.json": {item: "-".join(map(str, codes)) for item, codes in wanted.items()},
        "numbers.json": wanted,
        "tokens.json": {
            item: [f"<{'abc'[n]}_{code}>" for n, code in enumerate(codes)] for item, codes in wanted.items()
        },
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(json.dumps(content))
    with gzip.open(tmp_path / "packed.json.gz", "wt") as file:
        json.dump(wanted, file)
    for path in sorted(tmp_path.iterdir()):
        ids, codes = read_ids(path)
        assert ids == ["a", "b"] and codes.tolist() == list(wanted.values()), path
        assert read_ids(path, 2)[1].tolist() == [codes[:2] for codes in wanted.values()]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "holds no ID"),
        ('{"a": "1-x"}', "item a: ['1', 'x'] is no semantic ID"),
        ('{"a": [1, -2]}', "no semantic ID"),
        ('{"a": 5}', "no semantic ID"),
        ('{"a": [1], "b": [1, 2]}', "give --levels"),
        ('{"a": [true, null]}', "no semantic ID"),
    ],
)
def test_broken_id_files_are_named(tmp_path, content, says):
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        read_ids(path)
    assert str(path) in str(error.value) and says in str(error.value)


def test_purchases_in_all_forms(tmp_path):
    items = ["1", "2", "3", "4"]
    (tmp_path / "rows.jsonl").write_text(
        '{"user_id": "u", "history": [9, 1], "target": 2}\n{"history": ["3", "4", "4"]}\n'
    )
    (tmp_path / "users.json").write_text('{"u": [1, 2, 9], "v": [3, 4, 4]}')
    (tmp_path / "lines.txt").write_text("7 1 2 9\n8 3 4 4\n")
    for name, unknown in (("rows.jsonl", 0), ("users.json", 1), ("lines.txt", 1)):
        pairs, left_out = read_purchases(tmp_path / name, items)
        assert pairs.tolist() == [[0, 1], [2, 3]] and left_out == unknown, name


@pytest.mark.parametrize(
    "content", ['{"history": 5}\n', '{"history": [], "x": \n', "\n", '{"a": 1}', "1 9 8\n"]
)
def test_broken_purchases_are_named(tmp_path, content):
    path = tmp_path / "purchases.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=str(path)):
        read_purchases(path, ["1", "2"])


def test_a_torch_measure_and_a_numpy_measure_agree(codes):
    share = id_metrics.unique_ids_proportion(torch.from_numpy(codes), 4)
    assert share == len(np.unique(codes, axis=0)) / len(codes)
