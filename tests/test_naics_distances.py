"""Distances between codes against breadth-first search and the published table's steps; real histograms."""

from collections import deque

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_census import make_taxonomy, real_taxonomy

from naics.data import census
from naics.data.distances import RULES, distance_matrix, tree_distances, write_distances
from training_utils import InputError

CODES = """11 111 1111 11111 111110 11112 111121 111122 1112 11121 111210 112 1121 11211 112110
31 311 3111 31111 311111 311119 321 3211 32111 321110 332 3321 33211 332111 332112 33212 332120
44 441 4411 44111 441110 457 4571 45711 457110 81 811 8111 81111 811110""".split()


@pytest.fixture(scope="module")
def taxonomy() -> census.Taxonomy:
    return make_taxonomy(CODES)


def join(code: str) -> str:
    return {"32": "31", "33": "31", "45": "44", "49": "48"}.get(code[:2], code[:2])


def chain(code: str) -> list[str]:
    """From the root to the code."""
    return ["root", join(code), *(code[:length] for length in range(3, len(code) + 1))]


def walk(start: str) -> dict[str, int]:
    """Steps from a code to every code, by breadth-first search."""
    edges: dict[str, set[str]] = {}
    for code in CODES:
        for a, b in zip(chain(code), chain(code)[1:], strict=False):
            edges.setdefault(a, set()).add(b)
            edges.setdefault(b, set()).add(a)
    steps, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for there in edges[here] - steps.keys():
            steps[there] = steps[here] + 1
            queue.append(there)
    return steps


def test_tree_distances_are_path_lengths(taxonomy):
    found = tree_distances(taxonomy)
    for row, code in enumerate(CODES):
        steps = walk(code)
        assert found[row].tolist() == [steps[other] for other in CODES], code
    assert found.max() == 10


def test_corrected_distances(taxonomy):
    found = distance_matrix(taxonomy, "corrected")
    assert found.dtype == np.int8
    for row, code in enumerate(CODES):
        steps = walk(code)
        for column, other in enumerate(CODES):
            if join(code) != join(other):
                expected = 10.0
            else:
                lineal = code != other and (code in chain(other) or other in chain(code))
                expected = steps[other] - 0.5 * lineal
            assert found[row, column] == 2 * expected, (code, other)


def test_compat_distances_follow_the_published_steps(taxonomy):
    """A table of pairs within sectors, keyed by the lower number first, joined to the pairs that are kept."""
    steps = {code: walk(code) for code in CODES}
    inside = {
        (i, j): steps[i][j] - 0.5 * (i in chain(j))
        for i in CODES
        for j in CODES
        if int(i) < int(j) and join(i) == join(j)
    }
    expected = {}
    for i in CODES:
        for j in CODES:
            same = i[:2] == j[:2]
            if len(i) <= len(j) and (not same or int(i) < int(j)):
                expected[i, j] = inside.get((i, j), 10.0)
    found = distance_matrix(taxonomy, "compat")
    rows, columns = np.nonzero(found)
    assert {(CODES[i], CODES[j]): found[i, j] / 2 for i, j in zip(rows, columns, strict=True)} == expected
    assert expected["321", "311"] == 10 and expected["311", "321"] == 2  # the wrong rows
    assert ("112", "111") not in expected and ("441", "311") in expected


def test_the_written_table(taxonomy, tmp_path):
    for rule in RULES:
        count = write_distances(taxonomy, tmp_path, rule)
        table = pq.read_table(tmp_path / "naics_distances.parquet")
        assert [str(field.type) for field in table.schema] == [
            "uint32",
            "uint32",
            "string",
            "string",
            "float",
        ]
        rows = table.to_pydict()
        order = list(zip(rows["idx_i"], rows["idx_j"], strict=True))
        assert order == sorted(order) and len(order) == count
        matrix = distance_matrix(taxonomy, rule)
        assert all(matrix[i, j] == 2 * d for (i, j), d in zip(order, rows["distance"], strict=True))
        assert [CODES[i] for i in rows["idx_i"]] == rows["code_i"]


def test_an_unknown_rule(taxonomy, tmp_path):
    with pytest.raises(InputError, match="rule 'seed': must be compat or corrected"):
        write_distances(taxonomy, tmp_path, "seed")
    assert not list(tmp_path.iterdir())


WITHIN = {0.5: 2_105, 1.5: 2_009, 2.0: 2_394, 2.5: 1_701, 3.0: 7_413, 3.5: 1_012, 4.0: 19_144, 5.0: 38_841}
WITHIN |= {6.0: 62_241, 7.0: 70_835, 8.0: 64_408}


@pytest.mark.real_data
def test_real_histograms(real_data, tmp_path):
    taxonomy = real_taxonomy(real_data)
    upper = np.triu_indices(len(taxonomy), 1)
    tree = np.bincount(tree_distances(taxonomy)[upper]).tolist()
    assert tree == [0, 2_105, 4_593, 10_938, 30_175, 78_544, 183_454, 347_006, 549_103, 613_307, 437_525]
    corrected = distance_matrix(taxonomy, "corrected")
    values, counts = np.unique(corrected[upper], return_counts=True)
    assert dict(zip((values / 2).tolist(), counts.tolist(), strict=True)) == WITHIN | {10.0: 1_984_647}
    assert (corrected == corrected.T).all()
    assert write_distances(taxonomy, tmp_path) == 3_004_420
    values, counts = np.unique(
        pq.read_table(tmp_path / "naics_distances.parquet")["distance"], return_counts=True
    )
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == WITHIN | {10.0: 2_732_317}
    compat = distance_matrix(taxonomy, "compat")
    assert ((compat > 0) & (compat != corrected)).sum() == 51_252
