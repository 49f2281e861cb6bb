"""RoundingAdamW against AdamW in float64, against libraries where they are installed, and its resume."""

import math

import pytest
import torch
from torch import nn

from experiments import adamw
from experiments.adamw import UPDATES, RoundingAdamW, round_stochastically_

LR, DECAY, BETAS, EPS = 2e-5, 0.1, (0.9, 0.999), 1e-8
SHAPES = ((96, 40), (40,), (3, 5, 7))


def weights(dtype: torch.dtype, std: float = 0.02) -> list[nn.Parameter]:
    """The same values in every dtype: those of bfloat16."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator).mul(std).to(torch.bfloat16) for shape in SHAPES]
    return [nn.Parameter(values.to(dtype)) for values in drawn]


def gradients(step: int) -> list[torch.Tensor]:
    """bfloat16 values, with a mean, so that weights travel."""
    generator = torch.Generator().manual_seed(step + 1)
    return [(torch.randn(s, generator=generator) * 0.01 + 0.004).to(torch.bfloat16) for s in SHAPES]


def reference(steps: int, lr: float = LR) -> list[torch.Tensor]:
    """AdamW by its formula, in float64, without rounding."""
    values = [p.detach().double() for p in weights(torch.float64)]
    means, squares = ([torch.zeros_like(v) for v in values] for _ in range(2))
    for step in range(1, steps + 1):
        for v, m, s, g in zip(values, means, squares, gradients(step), strict=True):
            g = g.double()
            m.copy_(BETAS[0] * m + (1 - BETAS[0]) * g)
            s.copy_(BETAS[1] * s + (1 - BETAS[1]) * g * g)
            size = (m / (1 - BETAS[0] ** step)) / ((s / (1 - BETAS[1] ** step)).sqrt() + EPS)
            v.copy_(v - lr * DECAY * v - lr * size)
    return values


def make(update: str, dtype: torch.dtype, state: torch.dtype | None = None, lr: float = LR):
    parameters = weights(dtype)
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
    settings = dict(lr=lr, weight_decay=DECAY, betas=BETAS, eps=EPS)
    return parameters, RoundingAdamW(groups, **settings, update=update, state_dtype=state)


def take(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        for p, g in zip(parameters, gradients(step), strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def error(found, expected) -> float:
    """The largest difference beside a weight's own size, or a thousandth of the usual one."""
    found, expected = flat(found), flat(expected)
    return float(((found - expected).abs() / expected.abs().clamp(min=2e-5)).max())


def effective(parameters: list[nn.Parameter], optimizer: RoundingAdamW) -> list[torch.Tensor]:
    """What the optimizer remembers of a weight."""
    found = []
    for p in parameters:
        state = optimizer.state[p]
        found.append(state.get("master", p).detach().double() + state.get("compensation", torch.zeros(())))
    return found


def test_in_32_bits_it_is_adamw():
    """As near to float64 as torch's own step."""
    parameters, optimizer = make("nearest", torch.float32)
    theirs = weights(torch.float32)
    adamw = torch.optim.AdamW(theirs, lr=LR, weight_decay=DECAY, betas=BETAS, eps=EPS)
    take(parameters, optimizer, range(1, 51))
    take(theirs, adamw, range(1, 51))
    exact = flat(reference(50))
    off, off_theirs = ((flat(each) - exact).norm() for each in (parameters, theirs))
    assert off < 1.2 * off_theirs < 1e-4 * (exact - flat(weights(torch.float64))).norm()


def test_rounded_to_nearest_it_is_the_fused_step_of_torch():
    ours, optimizer = make("nearest", torch.bfloat16, lr=6e-4)
    theirs = weights(torch.bfloat16)
    fused = torch.optim.AdamW(theirs, lr=6e-4, weight_decay=DECAY, betas=BETAS, eps=EPS, fused=True)
    take(ours, optimizer, range(1, 21))
    take(theirs, fused, range(1, 21))
    assert (flat(ours) == flat(theirs)).double().mean() > 0.99
    for a, b in zip(ours, theirs, strict=True):
        assert optimizer.state[a]["exp_avg_sq"].dtype == torch.bfloat16 == fused.state[b]["exp_avg_sq"].dtype


def test_kahan_stays_within_2_to_minus_14_of_fp32_over_1000_steps():
    """With 32-bit moments only the writing differs; rounding to nearest loses most of the way."""
    exact, exact_optimizer = make("nearest", torch.float32)
    kahan, kahan_optimizer = make("kahan", torch.bfloat16, torch.float32)
    nearest, nearest_optimizer = make("nearest", torch.bfloat16, torch.float32)
    runs = ((exact, exact_optimizer), (kahan, kahan_optimizer), (nearest, nearest_optimizer))
    for run in runs:
        take(*run, range(1, 1001))
    start, end = flat(weights(torch.float64)), flat(exact)
    off = flat(effective(kahan, kahan_optimizer)) - end
    assert off.abs().max() < 2**-14  # weights are of 0.02, their way of 0.006
    assert off.norm() < 2**-13 * end.norm() and off.norm() < 0.001 * (end - start).norm()
    assert (flat(nearest) - end).norm() > 0.5 * (end - start).norm()


def test_kahan_keeps_weight_and_compensation_in_bfloat16_and_the_weight_is_the_nearest():
    parameters, optimizer = make("kahan", torch.bfloat16)
    take(parameters, optimizer, range(1, 30))
    for p in parameters:
        compensation = optimizer.state[p]["compensation"]
        assert compensation.dtype == p.dtype == torch.bfloat16
        inside = compensation.double() * (1 - 2.0**-8)  # rounded itself, it can be half a step to the bit
        assert torch.equal((p.detach().double() + inside).to(torch.bfloat16), p.detach())
        assert (compensation != 0).float().mean() > 0.9


def test_master_weights_are_those_of_a_32_bit_run_to_the_bit():
    exact, exact_optimizer = make("nearest", torch.float32)
    parameters, optimizer = make("master", torch.bfloat16, torch.float32)
    take(exact, exact_optimizer, range(1, 101))
    take(parameters, optimizer, range(1, 101))
    for a, b in zip(exact, parameters, strict=True):
        assert torch.equal(a.detach(), optimizer.state[b]["master"])
        assert torch.equal(a.detach().to(torch.bfloat16), b.detach())


def test_32_bit_state_has_the_moments_of_a_32_bit_run_and_bfloat16_never_lets_the_second_fall():
    kept, optimizer = make("nearest", torch.bfloat16, torch.float32)
    rounded, other = make("nearest", torch.bfloat16)
    for run in ((kept, optimizer), (rounded, other)):
        take(*run, range(1, 3))
    first = [optimizer.state[kept[0]]["exp_avg_sq"].clone(), other.state[rounded[0]]["exp_avg_sq"].clone()]
    for parameters, each in ((kept, optimizer), (rounded, other)):
        for p in parameters:
            p.grad = torch.zeros_like(p)
        for _ in range(500):
            each.step()
    ratio = optimizer.state[kept[0]]["exp_avg_sq"] / first[0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, BETAS[1] ** 500), rtol=1e-4, atol=0)
    assert torch.equal(
        other.state[rounded[0]]["exp_avg_sq"], first[1]
    )  # a thousandth is less than half a step


def test_stochastic_rounding_has_no_bias():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator) * 0.02
    draws = torch.stack([round_stochastically_(values.clone(), generator) for _ in range(4000)]).double()
    lower = (values.view(torch.int32) & -(2**16)).view(torch.float32)  # towards zero
    upper = ((values.view(torch.int32) & -(2**16)) + 2**16).view(torch.float32)
    assert ((draws == lower.double()) | (draws == upper.double())).all()
    step = (upper - lower).double().abs()
    offset = (draws.mean(0) - values.double()) / step  # its deviation is at most 1/2 / sqrt(4000)
    assert offset.abs().max() < 4.5 * 0.5 / math.sqrt(4000)
    assert abs(float(offset.mean())) < 4 * 0.5 / math.sqrt(4000 * 1000)


def test_stochastic_rounding_leaves_what_bfloat16_holds():
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 2.0**-126, torch.inf, -torch.inf, torch.nan])
    rounded = round_stochastically_(values.clone(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(rounded, values, rtol=0, atol=0, equal_nan=True)
    odd = torch.full((7,), 1.001)
    assert set(round_stochastically_(odd, torch.Generator()).tolist()) <= {1.0, 1.0078125}


def test_stochastic_updates_go_as_far_as_exact_ones_where_rounding_to_nearest_stands_still():
    start, exact = flat(weights(torch.float64)), flat(reference(200))
    along = {}
    for update in ("stochastic", "nearest"):
        parameters, optimizer = make(update, torch.bfloat16, torch.float32)
        take(parameters, optimizer, range(1, 201))
        way = flat(parameters) - start
        along[update] = float((way * (exact - start)).sum() / (exact - start).square().sum())
    assert along["stochastic"] == pytest.approx(1.0, abs=0.02)
    assert along["nearest"] < 0.6


STATES = [("nearest", torch.bfloat16, None), ("nearest", torch.bfloat16, torch.float32)]
STATES += [(update, torch.bfloat16, None) for update in ("kahan", "stochastic")]
STATES += [("stochastic", torch.bfloat16, torch.float32), ("master", torch.bfloat16, torch.float32)]


@pytest.mark.parametrize(("update", "dtype", "state"), STATES)
def test_a_resumed_run_ends_with_the_same_bits(update, dtype, state, tmp_path):
    whole, optimizer = make(update, dtype, state)
    take(whole, optimizer, range(1, 21))
    first, stopped = make(update, dtype, state)
    take(first, stopped, range(1, 12))
    torch.save({"optimizer": stopped.state_dict(), "weights": [p.data for p in first]}, tmp_path / "a.pt")
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    second, resumed = make(update, dtype, state)
    for p, values in zip(second, saved["weights"], strict=True):
        p.data.copy_(values)
    resumed.load_state_dict(saved["optimizer"])
    take(second, resumed, range(12, 21))
    assert torch.equal(flat(second), flat(whole))
    for a, b in zip(second, whole, strict=True):
        assert resumed.state[a].keys() == optimizer.state[b].keys()
        for name, value in optimizer.state[b].items():
            found = resumed.state[a][name]
            assert found == value if name == "step" else torch.equal(found, value)
            assert name == "step" or found.dtype == value.dtype


@pytest.mark.parametrize("update", ["nearest", "kahan", "master"])
def test_the_length_of_a_pass_changes_nothing(update, monkeypatch):
    whole, optimizer = make(update, torch.bfloat16)
    take(whole, optimizer, range(1, 4))
    monkeypatch.setitem(adamw.CHUNK, "cpu", 37)
    cut, optimizer = make(update, torch.bfloat16)
    take(cut, optimizer, range(1, 4))
    assert torch.equal(flat(whole), flat(cut))


def test_a_pass_is_full_and_no_longer_than_asked(monkeypatch):
    """Small tensors together, large ones in pieces: that bounds launches and scratch memory."""
    monkeypatch.setitem(adamw.CHUNK, "cpu", 500)
    parameters = [nn.Parameter(torch.zeros(n)) for n in (*[100] * 12, 1200)]
    optimizer = RoundingAdamW(parameters, lr=LR)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    passes = [pieces for *_, pieces in optimizer._passes(optimizer.param_groups[0])]
    sizes = [sum(piece["weight"].numel() for piece in pieces) for pieces in passes]
    assert sum(sizes) == 2400 and max(sizes) <= 500 and len(sizes) <= 6


def test_a_weight_without_a_gradient_waits_and_then_takes_its_own_first_step():
    """Bias correction follows the weight's own count of steps."""
    parameters, optimizer = make("nearest", torch.float32, lr=1e-3)
    take(parameters[:1], torch.optim.SGD(parameters[2:], lr=0.0), range(0))
    parameters[0].grad = gradients(1)[0].float()
    optimizer.step()
    parameters[1].grad = gradients(1)[1].float()
    before = parameters[1].detach().clone()
    optimizer.step()
    first = parameters[1].detach() - before * (1 - 1e-3 * DECAY)
    torch.testing.assert_close(first, -1e-3 * parameters[1].grad.sign(), rtol=1e-3, atol=1e-7)
    assert [optimizer.state[p].get("step") for p in parameters] == [2, 1, None]


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="none of nearest"):
        RoundingAdamW(weights(torch.float32), lr=LR, update="up")
    with pytest.raises(ValueError, match="bfloat16"):
        RoundingAdamW(weights(torch.float32), lr=LR, update="stochastic")
    turned = nn.Parameter(torch.zeros(3, 5).t())
    turned.grad = torch.zeros_like(turned)
    with pytest.raises(ValueError, match="contiguous"):
        RoundingAdamW([turned], lr=LR).step()


def test_torchao_takes_the_same_step():
    """Its formula, uncompiled; with chance only its weights' neighbours can differ."""
    single_param_adam = pytest.importorskip("torchao.optim.adam").single_param_adam
    ours, optimizer = make("nearest", torch.bfloat16, lr=6e-4)
    take(ours, optimizer, range(1, 21))
    for p, expected in zip(weights(torch.bfloat16), ours, strict=True):
        mean, square = torch.zeros_like(p), torch.zeros_like(p)
        index = [tuple(w.shape) for w in ours].index(tuple(p.shape))
        for step in range(1, 21):
            rate, count, gradient = torch.tensor(6e-4), torch.tensor(float(step)), gradients(step)[index]
            moments = (mean, square, None)
            single_param_adam(p.data, gradient, count, *moments, rate, *BETAS, DECAY, EPS, True, False)
        assert (p == expected).double().mean() > 0.99


def test_kahan_is_nearer_to_exact_than_optimi():
    """Its compensation takes the update rounded to bfloat16, and weight decay without any compensation."""
    optimi = pytest.importorskip("optimi")
    settings = dict(lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    theirs = weights(torch.bfloat16)
    library = optimi.AdamW(theirs, **settings, kahan_sum=True, foreach=False, triton=False)
    ours, optimizer = make("kahan", torch.bfloat16)
    for run in ((theirs, library), (ours, optimizer)):
        take(*run, range(1, 301))
    exact, start = flat(reference(300)), flat(weights(torch.float64))
    found = flat(p.double() + library.state[p]["kahan_comp"].double() for p in theirs)
    way = (exact - start).norm()
    off = {
        "optimi": (found - exact).norm() / way,
        "ours": (flat(effective(ours, optimizer)) - exact).norm() / way,
    }
    assert off["ours"] < 0.02 and off["ours"] < off["optimi"] < 0.2, off


def test_every_update_is_tested_here():
    assert {update for update, _, _ in STATES} == set(UPDATES)
