"""What the report pairs, and what it says where runs failed: a divergence is worse than any score."""

import json

import pytest
from experiment_rows import make_row, write_results

from experiments.dtype_configs import get_config
from experiments.report import _ranks
from experiments.report_analysis import UNTRAINED, make_chapters, verdict_of
from experiments.report_comparison import decide
from experiments.report_data import make_settings
from experiments.report_verdicts import verdicts

CLASSIFICATION, LANGUAGE = "classification", "language_modeling"


def rows_of(folder, task, *names, seeds=3):
    rows = write_results(folder / task, task, seeds, grid=False, configs=[get_config(name) for name in names])
    return [row | {"folder": str(folder / task)} for row in rows]


def diverge(row):
    row |= {"status": "diverged", "reason": "the loss is nan", "metrics": None, "predictions": None}


def chapters_of(rows):
    return make_chapters(make_settings(rows), 0)


def verdict(rows, start):
    return next(row for row in verdicts(chapters_of(rows)) if row["hypothesis"].startswith(start))


@pytest.mark.parametrize(
    ("judged", "diverged", "other_diverged", "expected"),
    [
        ("equal", 0, 0, "equal"),
        ("better", 2, 0, "worse"),
        ("open", 0, 1, "better"),
        ("worse", 0, 1, "open"),
        ("equal", 1, 1, "open"),
    ],
)
def test_a_seed_that_diverges_rules_the_verdict(judged, diverged, other_diverged, expected):
    assert verdict_of(judged, diverged, other_diverged) == expected


def test_a_configuration_that_diverged_on_some_seeds_is_not_recommended(tmp_path):
    """Its other seeds are as good as fp32's and cheaper."""
    rows = rows_of(tmp_path, CLASSIFICATION, "fp32_baseline", "bf16_kahan", seeds=5)
    kept = {row["seed"]: row for row in rows if row["config"] == "fp32_baseline"}
    kahan = [row for row in rows if row["config"] == "bf16_kahan"]
    for row in kahan:
        row |= {name: kept[row["seed"]][name] for name in ("metrics", "predictions")}

    def take():
        return {row["situation"]: row for row in decide(chapters_of(rows))}["memory is short"]

    assert take()["take"] == "bf16_kahan"
    for row in kahan[2:]:
        diverge(row)
    assert take()["take"] == "fp32_baseline" and "n=2, 3 diverged" in take()["because"]


def test_a_pair_of_which_one_always_diverged_counts(tmp_path):
    names = ("fp32_baseline", "amp_bf16", "amp_fp16", "amp_bf16_8bit_adam", "amp_fp16_8bit_adam")
    rows = rows_of(tmp_path, CLASSIFICATION, *names)
    kept = {row["seed"]: row["metrics"] for row in rows if row["config"] == "fp32_baseline"}
    for row in rows:
        row["metrics"] = kept[row["seed"]]
    assert verdict(rows, "H3")["verdict"] == "refuted"
    for row in rows:
        if row["config"] == "amp_fp16_8bit_adam":
            diverge(row)
    found = verdict(rows, "H3")
    assert found["verdict"] == "supported in part" and "n=0, 3 diverged (worse)" in found["evidence"]
    taken = {row["situation"]: row["take"] for row in decide(chapters_of(rows))}
    assert taken["optimizer state is too large: keep it in 8 bits?"] == "it depends"


def test_a_run_without_memory_says_nothing_of_stability(tmp_path):
    rows = rows_of(tmp_path, LANGUAGE, "fp32_baseline")
    naive = [make_row(LANGUAGE, get_config("fp16_naive"), seed, 6e-4) for seed in range(2)]
    fused = [make_row(LANGUAGE, get_config("fp16_naive_fused"), seed, 6e-4) for seed in range(2)]
    for row in (*naive, *fused):
        row["folder"] = str(tmp_path)
    for row in fused:
        row |= {"status": "oom", "reason": "out of memory"}
    found = verdict([*rows, *naive, *fused], "H2")
    assert found["verdict"] == "supported" and "eps" not in found["evidence"]
    for row in naive:
        row |= {"status": "oom", "reason": "out of memory"}
    assert verdict([*rows, *naive], "H2")["verdict"] == "-"


@pytest.mark.parametrize("name", ["weight_decay", "grad_clip", "warmup_ratio", "eval_windows", "num_heads"])
def test_runs_of_other_settings_are_not_paired(tmp_path, name):
    rows = rows_of(tmp_path, LANGUAGE, "fp32_baseline", "bf16_pure", seeds=1)
    changed = json.loads(json.dumps(rows[1])) | {name: 7}
    families = make_settings([*rows, changed])
    assert [len(family[0].rows) for family in families] == [2, 1]


def test_what_has_not_learnt_is_told_by_its_own_rate(tmp_path):
    """The larger setting has learnt, the one at the low rate has not; and the reverse."""
    names = ("fp32_baseline", "bf16_pure", "bf16_kahan")
    high = rows_of(tmp_path, CLASSIFICATION, *names, "amp_bf16")
    low = [json.loads(json.dumps(row)) for row in high if row["config"] != "amp_bf16"]
    for untrained, trained in ((low, high), (high, low)):
        for row in untrained:
            row["metrics"] = {"test": {"micro_f1_tuned": 0.01, "precision_at_5": 0.02}}
        for row in trained:
            row["metrics"] = {"test": {"micro_f1_tuned": 0.6, "precision_at_5": 0.5}}
        for row in high:
            row["learning_rate"] = 6e-4
        take = {row["situation"]: row["take"] for row in decide(chapters_of([*high, *low]))}
        taken = [take[f"weights must be kept in 16 bits, lr {rate}"] for rate in ("2e-05", "0.0006")]
        assert (taken[0] == UNTRAINED) == (untrained is low) and (taken[1] == UNTRAINED) == (
            untrained is high
        )
        repaired = verdict([*high, *low], "ours 2")["verdict"]
        assert (repaired == UNTRAINED) == (untrained is low)


def test_two_sweeps_of_one_model_are_told_apart(tmp_path):
    """The smaller one neither shares the larger one's title nor stands in the table over both tasks."""
    full = rows_of(tmp_path, CLASSIFICATION, "fp32_baseline", "bf16_pure")
    smoke = [json.loads(json.dumps(row)) | {"max_steps": 100} for row in full if row["seed"] == 0]
    language = rows_of(tmp_path, LANGUAGE, "fp32_baseline", "bf16_pure")
    chapters = chapters_of([*full, *smoke, *language])
    titles = [chapter.title for chapter in chapters]
    assert len(set(titles)) == 3 and "max_steps 100" in titles[1]
    (table,) = _ranks(chapters)
    pure = next(row for row in table if row["configuration"] == "bf16_pure")
    assert set(pure) == {"configuration", f"Δ micro-F1, {titles[0]}", f"Δ loss, {titles[2]}"}


def test_sweeps_that_differ_in_data_alone_are_numbered(tmp_path):
    rows = rows_of(tmp_path, CLASSIFICATION, "fp32_baseline", seeds=2)
    others = [json.loads(json.dumps(row)) for row in rows for _ in range(2)]
    for number, row in enumerate(others):
        row["data"]["fingerprint"] = f"another {number % 2}"
    titles = [chapter.title for chapter in chapters_of([*rows, *others])]
    assert len(set(titles)) == 3 and titles[2].endswith("#3")
