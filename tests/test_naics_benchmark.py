"""The benchmark of the data: a tree like the real one, contenders that agree, tiny runs, the JSON."""

import argparse
import json

import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_script

from naics import benchmark_triplets as contenders
from naics.benchmark import CASES, compare
from naics.data.distances import distance_matrix

SCRIPT = ROOT / "naics/benchmark.py"
KEYS = ["case", "metric", "ours", "peer", "peer_value", "ratio", "repeats"]
DATA_CASES = ("sample_triplets", "read_parquet")


def test_the_made_up_tree_has_the_size_and_shape_of_the_real_one():
    taxonomy = contenders.draw_taxonomy()
    assert np.bincount(taxonomy.levels).tolist() == [0, 0, 20, 96, 308, 689, 1012]
    below = taxonomy.parents >= 0
    assert (taxonomy.levels[below] == taxonomy.levels[taxonomy.parents[below]] + 1).all()
    children = np.bincount(taxonomy.parents[below], minlength=len(taxonomy.levels))
    assert (children[taxonomy.levels < 6] > 0).all()
    assert 500 < (children == 1).sum() < 900  # 690 are really alone
    same_sector = (distance_matrix(taxonomy, "corrected") < 20).mean()
    assert 0.05 < same_sector < 0.2  # really 0.12
    assert 4400 < sum(map(len, taxonomy.excluded_codes)) < 4540


def test_both_samplers_draw_the_same_hardness():
    args = argparse.Namespace(data=None, rows=2**17)
    ours, peer = contenders.Matrix(args), contenders.PythonRows(args)
    for contender in (ours, peer):
        contender.run()
    assert args.rows == 2**17
    assert ours.result() == pytest.approx(peer.result(), rel=0.01)
    for example in list(peer.examples())[:200]:
        negatives = {row["negative"] for row in example["negatives"]}
        assert len(negatives) == 16 and not negatives & {example["anchor"], example["positive"]}


def test_ratios_are_medians_of_pairs_and_above_one_where_ours_is_better():
    answers = {
        "ours": [(10.0, 100.0, 7.0), (30.0, 100.0, 7.0), (20.0, 100.0, 7.0)],
        "peer": [(5.0, 150.0, 7.0), (10.0, 150.0, 7.0), (4.0, 150.0, 7.0)],
    }
    speed, memory, kept = compare("read_parquet", answers)
    assert (speed["ours"], speed["peer_value"], speed["ratio"], speed["repeats"]) == (20.0, 5.0, 3.0, 3)
    assert memory["ratio"] == 1.5 and (kept["metric"], kept["ratio"]) == ("rows_kept", 1.0)
    answers = {"ours": [(10.0, 0.0, 2.0)], "peer": [(5.0, 0.0, 1.0)]}  # memory is not known everywhere
    assert [r["metric"] for r in compare("sample_triplets", answers)] == ["rows_per_second", "mean_hardness"]


@pytest.mark.slow
@pytest.mark.parametrize("case", DATA_CASES)
def test_a_tiny_run(tmp_path, case):
    path = tmp_path / "b.json"
    rows = 2**17 if case == "sample_triplets" else 3000
    result = run_script(SCRIPT, "--case", case, "--repeats", 1, "--rows", rows, "--json", path)
    assert result.returncode == 0, result.stderr[-2000:]
    records = json.loads(path.read_text())
    assert all(list(r) == KEYS and r["case"] == case and r["repeats"] == 1 for r in records)
    assert all(r["ours"] > 0 and r["peer_value"] > 0 and r["ratio"] > 0 for r in records)
    assert {r["peer"] for r in records} == set(CASES[case][1]) - {"ours"}
    agreement = [r["ratio"] for r in records if r["metric"] in ("mean_hardness", "rows_kept")]
    assert agreement == pytest.approx([1] * len(agreement), rel=0.01 if case == "sample_triplets" else 0)
    assert len(agreement) == len(CASES[case][1]) - 1


def test_a_wrong_case_or_folder_is_refused(tmp_path):
    assert_refused(run_script(SCRIPT, "--case", "none"), "--case")
    result = run_script(SCRIPT, "--case", "read_parquet", "--rows", 9, "--data", tmp_path)
    assert_refused(result, "naics_descriptions.parquet")
