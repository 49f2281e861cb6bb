"""benchmark_f1.py on tiny data: a score for each arm and seed, and bad data refused in one line."""

import json
import math

import pytest
from conftest import assert_refused, run_main

from category_classification import benchmark_f1


@pytest.mark.slow
def test_every_arm_has_a_score_a_seed(tiny_data, tiny_tokenizer, tmp_path):
    flags = ["--data", tiny_data, "--tokenizer", tiny_tokenizer, "--work", tmp_path / "work"]
    flags += "--seeds 1 --epochs 1 --lr 2e-3 --num_layers 1 --seq_len 24 --device cpu".split()
    result = run_main(benchmark_f1.main, *flags, "--json", tmp_path / "f1.json")
    assert result.returncode == 0, result.stderr[-2000:]
    scores = json.loads((tmp_path / "f1.json").read_text())["scores"]
    assert scores.keys() == {"padded origin", "ours, dense", "ours, rows"}
    for found in scores.values():
        assert len(found) == 1 and math.isfinite(found[0]) and 0 < found[0] <= 1


def test_bad_data_is_refused(tiny_tokenizer, tmp_path):
    flags = ["--data", tmp_path / "none", "--tokenizer", tiny_tokenizer, "--work", tmp_path / "work"]
    assert_refused(run_main(benchmark_f1.main, *flags), "no such folder")
    assert not (tmp_path / "work").exists()
