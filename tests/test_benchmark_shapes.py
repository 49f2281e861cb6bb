"""benchmark_shapes.py at sizes that a CPU takes: a row a configuration, and figures that fit each other."""

from argparse import Namespace
from functools import partial

import pytest
import torch
from conftest import ROOT, assert_refused, run_script

from experiments import benchmark_shapes

SCRIPT = ROOT / "experiments/benchmark_shapes.py"


@pytest.fixture
def measure(monkeypatch):
    """`records` at two tiny shapes; by task, shape and configuration."""
    monkeypatch.setattr(benchmark_shapes, "SHAPES", {"2x2": (2, 2), "4x1": (4, 1)})
    monkeypatch.setattr(benchmark_shapes, "MAX_LENGTH", 32)
    draw, language = benchmark_shapes.draw_documents, benchmark_shapes.language_modeling
    monkeypatch.setattr(benchmark_shapes, "draw_documents", lambda _: draw(8))
    tiny = partial(language, vocabulary=300, length=32)
    monkeypatch.setitem(benchmark_shapes.TASKS, "language_modeling", tiny)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for each other where other tests run beside

    def call(**flags):
        sizes = dict(num_layers=1, hidden_size=64, steps=2, device="cpu")
        rows = list(benchmark_shapes.records(Namespace(**sizes | flags)))
        found = {(row["task"], row["shape"], row["config"]): row for row in rows}
        assert len(found) == len(rows)
        return found

    yield call
    torch.set_num_threads(threads)


def assert_sound(row):
    assert row["samples_per_second"] == pytest.approx(4000 / row["step_ms"])
    assert row["mfu"] == pytest.approx(row["tflops"] / row["ceiling_tflops"]) and 0 < row["mfu"] < 1
    assert row["memory"]["weights"] > 0


@pytest.mark.slow
def test_both_tasks_at_both_shapes(measure):
    rows = measure(task="all", shape="all", config="fp32_baseline,bf16_kahan,fp8_tensorwise", compile=False)
    assert len(rows) == 12
    for (_, _, config), row in rows.items():
        if config == "fp8_tensorwise":
            assert row["status"] == "unsupported" and row["reason"]
        else:
            assert_sound(row)
    weights = [
        rows["classification", "4x1", name]["memory"]["weights"] for name in ("fp32_baseline", "bf16_kahan")
    ]
    assert weights[0] == pytest.approx(2 * weights[1], rel=0.01)


@pytest.mark.slow
def test_compiled_layers_and_loss(measure):
    (row,) = measure(task="language_modeling", shape="4x1", config="bf16_kahan", compile=True).values()
    assert_sound(row)
    assert row["compiled"] and row["compile_seconds"] > 0


@pytest.mark.slow
def test_steps_that_are_not_taken_have_no_speed(measure):
    """AdamW's eps is 0 in float16, so the weights are not finite after a step."""
    (row,) = measure(task="classification", shape="4x1", config="fp16_naive", compile=False).values()
    assert row["status"] == "diverged" and "not finite" in row["reason"] and "samples_per_second" not in row


def test_a_wrong_width_or_configuration_is_refused():
    assert_refused(run_script(SCRIPT, "--hidden_size", 100), "--hidden_size", "64")
    assert_refused(run_script(SCRIPT, "--config", "none"), "--config none")
