"""FLOPs against hand-computed budgets; memory and time against tensors and sleeps of known size."""

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.costs import MemoryMeter, StepClock, matmul_ceiling, mfu, model_flops

CPU = torch.device("cpu")


def test_roberta_base_on_512_tokens_takes_290_gflop():
    found = model_flops(num_layers=12, hidden_size=768, sequence_length=512, outputs=4271)
    products = 6 * 84_934_656 * 512  # 12 layers of 12 x 768^2 weights
    attention = 3 * 12 * 2 * (2 * 512 * 512 * 768)
    head = 6 * 768 * 4271
    assert found == products + attention + head
    assert found == pytest.approx(290e9, rel=0.005)
    assert head / found == pytest.approx(0.00007, rel=0.05)


def test_gpt2_small_takes_798_mflop_a_token_of_which_the_head_29_percent():
    sizes = dict(num_layers=12, hidden_size=768, sequence_length=1024, outputs=50304, causal=True)
    found = model_flops(**sizes, output_positions=1024) / 1024
    assert found == pytest.approx(798e6, rel=0.002)
    without = model_flops(**sizes, output_positions=0) / 1024
    assert 1 - without / found == pytest.approx(0.29, abs=0.005)


def test_a_count_of_products_is_that_of_torch():
    """torch counts the products of a real pass; a layer of odd sizes."""
    from torch.utils.flop_counter import FlopCounterMode

    layer = nn.TransformerEncoderLayer(24, 3, 40, dropout=0.0, batch_first=True)
    head = nn.Linear(24, 50)
    # Without input gradients of the first product: ask for them, as inside a stack of layers.
    x = torch.randn(2, 10, 24, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        head(layer(x)[:, 0]).sum().backward()
    expected = 2 * model_flops(1, 24, 10, 50, intermediate_size=40)
    found = counter.get_total_flops()
    attention = 2 * 3 * 4 * 10 * 10 * 24  # not all of torch's kernels are counted
    assert found == pytest.approx(expected, rel=1e-6) or found == pytest.approx(
        expected - attention, rel=1e-6
    )


def test_utilisation_is_a_share():
    assert mfu(290e9, 430, 312e12) == pytest.approx(0.40, abs=0.001)
    with pytest.raises(ValueError, match="wrong"):
        mfu(3 * 290e9, 430, 312e12)


def test_the_ceiling_is_not_below_another_product_of_its_kind():
    ceiling = matmul_ceiling(CPU, torch.float32, seconds=0.1)
    a = torch.randn(64, 64)
    start = time.perf_counter()
    for _ in range(20):
        a @ a
    assert ceiling > 20 * 2 * 64**3 / (time.perf_counter() - start) * 0.5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a CPU's peak is Linux's VmHWM")
def test_memory_is_the_peak_and_its_parts():
    meter = MemoryMeter(CPU)
    model = nn.Linear(2000, 2000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    x = torch.randn(4000, 2000)  # 32 MB, and as much for the output
    model(x).square().sum().backward()
    optimizer.step()
    found = meter.read(model, optimizer)
    memory = found["memory"]
    assert memory["weights"] == memory["gradients"] == pytest.approx(0.016)
    assert memory["optimizer_state"] == pytest.approx(0.032, rel=1e-4)
    assert sum(memory.values()) == pytest.approx(found["peak_memory_gb"], rel=1e-6)
    assert 0.12 < found["peak_memory_gb"] < 0.3
    del x
    meter.restart()
    assert meter.read(model, optimizer)["peak_memory_gb"] < 0.05  # from here on


def timed(monkeypatch, evaluation: float) -> dict:
    """Three spells of ten steps: the first of all compiles for 3 s, two are slow, every fifth a little."""
    now = 0.0
    monkeypatch.setattr("experiments.costs.time.perf_counter", lambda: now)
    clock, number = StepClock(CPU, warmup_steps=3), 0
    for _ in range(3):
        clock.start()
        for _ in range(10):
            number += 1
            now += 3.0 if number == 1 else 0.5 if number < 4 else 0.03 if number % 5 == 0 else 0.02
            clock.step()
        clock.stop()
        now += evaluation
    return clock.result(8)


def test_time_leaves_out_warm_up_and_evaluation(monkeypatch):
    found = timed(monkeypatch, 0.0)
    assert found["timed_steps"] == 27
    assert found["samples_per_second"] == pytest.approx(8 / 0.02)
    assert found["step_ms"] == pytest.approx({"median": 20, "p10": 20, "p90": 30})
    assert found["compile_seconds"] == pytest.approx(2.98)
    assert timed(monkeypatch, 100.0)["step_ms"] == pytest.approx(found["step_ms"])


def test_a_stopped_clock_takes_no_step():
    clock = StepClock(CPU)
    with pytest.raises(RuntimeError, match="start"):
        clock.step()
    assert clock.result(8)["samples_per_second"] is None


def test_a_run_shorter_than_the_warm_up_is_timed_by_its_second_half():
    clock = StepClock(CPU, warmup_steps=20)
    clock.start()
    for _ in range(6):
        clock.step()
    assert clock.result(8)["timed_steps"] == 3


@pytest.mark.gpu
def test_events_time_the_device():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    device, a = torch.device("cuda"), torch.randn(4096, 4096, device="cuda")
    clock = StepClock(device, warmup_steps=1)
    clock.start()
    for _ in range(4):
        for _ in range(20):
            a @ a
        clock.step()
    share = mfu(
        20 * 2 * 4096**3, clock.result(1)["samples_per_second"], matmul_ceiling(device, a.dtype) * 1.2
    )
    assert 0.3 < share < 1
