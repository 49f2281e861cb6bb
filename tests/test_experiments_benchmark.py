"""The dtype study's benchmark: rows like real ones, ratios, a tiny run of each case, the JSON's form."""

import argparse
import json

import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_script

from experiments.benchmark import CASES, compare, installed
from experiments.benchmark_peers import (
    LABELS,
    MAX_LENGTH,
    HuggingFaceTrainer,
    ScikitLearnMetrics,
    StreamingMetrics,
    draw_documents,
)

SCRIPT = ROOT / "experiments/benchmark.py"
KEYS = ["case", "metric", "ours", "peer", "peer_value", "ratio", "repeats"]
SIZES = argparse.Namespace(rows=70, num_layers=1, hidden_size=64, device="cpu")


def test_documents_have_the_lengths_and_labels_of_real_ones():
    split = draw_documents(3000).splits["train"]
    lengths, labels = np.diff(split.offsets), np.diff(split.label_offsets)
    assert (lengths == MAX_LENGTH).mean() == pytest.approx(0.58, abs=0.04)  # 54 to 62% of 300 real ones
    assert lengths.mean() == pytest.approx(455, abs=15)  # 444 to 466
    assert labels.mean() == pytest.approx(5.07, abs=0.15) and labels.min() >= 1
    counts = np.bincount(split.labels, minlength=LABELS)
    assert counts[:10].min() > 100 and (counts == 0).mean() > 0.05  # a long tail


def test_ratios_are_medians_of_pairs_and_above_one_where_ours_is_better():
    scores = {"macro_f1": 0.5, "ndcg_at_5": 0.8}
    answers = {
        "ours": [(10.0, 100.0, scores), (30.0, 100.0, scores), (20.0, 100.0, scores)],
        "peer": [
            (5.0, 150.0, {"macro_f1": 0.25}),
            (10.0, 150.0, {"macro_f1": 0.25}),
            (4.0, 150.0, {"macro_f1": 0.25}),
        ],
    }
    speed, memory, agreement = compare("metrics", answers)
    assert (speed["ours"], speed["peer_value"], speed["ratio"], speed["repeats"]) == (20.0, 5.0, 3.0, 3)
    assert memory["metric"] == "peak_memory_mb" and memory["ratio"] == 1.5
    assert agreement["metric"] == "macro_f1" and agreement["ratio"] == 2.0
    answers = {"ours": [(10.0, 0.0, None)], "trainer": [(5.0, 7.0, None)]}
    assert [r["metric"] for r in compare("train_step", answers)] == ["rows_per_second"]


def test_contenders_train_on_the_same_documents():
    split = draw_documents(SIZES.rows).splits["train"]
    trainer = HuggingFaceTrainer(SIZES, fastest=True)
    assert len(trainer.rows) == 64  # whole steps
    batch = trainer.collate(trainer.rows[:3])
    for number in range(3):
        ids = split.ids(number, MAX_LENGTH)
        assert batch["input_ids"][number][batch["attention_mask"][number] == 1].tolist() == ids.tolist()
        labels = split.labels[split.label_offsets[number] : split.label_offsets[number + 1]]
        assert batch["labels"][number].nonzero()[:, 0].tolist() == labels.tolist()
    assert batch["input_ids"].shape[1] == max(len(split.ids(i, MAX_LENGTH)) for i in range(3))


def test_metrics_agree_to_the_last_digit():
    found = [contender(SIZES) for contender in (StreamingMetrics, ScikitLearnMetrics)]
    for contender in found:
        assert contender.run() > 0
    ours, theirs = (contender.result() for contender in found)
    assert set(theirs) == set(ours) and 0.3 < ours["micro_f1"] < 0.95
    for name, score in ours.items():
        assert score == pytest.approx(theirs[name], abs=1e-12), name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_tiny_run(tmp_path, case):
    path = tmp_path / "b.json"
    rows, sizes = (70 if case == "metrics" else 32), ["--num_layers", 1, "--hidden_size", 64]
    result = run_script(
        SCRIPT, "--case", case, "--repeats", 1, "--rows", rows, *sizes, "--device", "cpu", "--json", path
    )
    assert result.returncode == 0, result.stderr[-2000:]
    records = json.loads(path.read_text())
    assert all(list(r) == KEYS and r["case"] == case and r["repeats"] == 1 for r in records)
    assert all(r["ours"] > 0 and r["peer_value"] > 0 and r["ratio"] > 0 for r in records)
    assert {r["peer"] for r in records} == {name for name in CASES[case][1] if installed(name)} - {"ours"}
    for r in records:
        if "f1" in r["metric"] or "ndcg" in r["metric"]:
            assert r["ratio"] == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_bad_flags_are_refused():
    assert_refused(run_script(SCRIPT, "--case", "none"), "--case")
    assert_refused(run_script(SCRIPT, "--hidden_size", 65), "multiple of 64")
    assert_refused(run_script(SCRIPT, "--repeats", 0), "--repeats")
