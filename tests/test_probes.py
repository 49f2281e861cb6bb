"""Lost updates, histograms and the divergence rule, against direct formulas and torch's own casts."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.adamw import RoundingAdamW
from experiments.probes import (
    FORMATS,
    DivergenceRule,
    Underflow,
    UpdateMeter,
    ValueHistogram,
    group_parameters,
)

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
DTYPES |= {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.mlp = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(F.gelu(self.attention(self.norm(x))))


class Model(nn.Module):
    def __init__(self, width: int = 128, labels: int = 300) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Embedding(50, width), nn.Sequential(Block(width), Block(width)))
        self.head = nn.Linear(width, labels)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)


def unit_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 1) -> dict:
    """AdamW's first step moves each weight by the rate, up or down; later ones by noise of that size."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    meter = UpdateMeter(model, optimizer)
    meter.start()
    optimizer.step()
    return meter.finish()


def fused(model: nn.Module, lr: float, decay: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, fused=True)


def test_parameters_are_grouped_by_what_they_do():
    from transformers import RobertaConfig, RobertaModel

    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    body = RobertaModel(RobertaConfig(vocab_size=20, **sizes), add_pooling_layer=False)
    model = nn.Module()
    model.body, model.head = body, nn.Linear(8, 3)
    groups = {name: len(parameters) for name, parameters in group_parameters(model).items()}
    assert groups == {
        "embeddings": 3,
        "norms": 2 * (1 + 2 * 2),
        "attention": 4 * 2,
        "mlp": 2 * 2,
        "biases": 6 * 2,
        "head": 2,
        "other": 0,
    }
    assert sum(groups.values()) == len(list(model.parameters()))


@pytest.mark.parametrize(("lr", "low", "high"), [(2e-5, 0.8, 0.95), (6e-4, 0.03, 0.2)])
def test_bfloat16_loses_most_updates_at_a_low_rate_and_few_at_a_high_one(lr, low, high):
    """Steps in noise, of about the rate's size: weights of 0.02 against it."""
    model = Model().to(torch.bfloat16)
    optimizer = fused(model, lr, decay=0.0)
    found = [unit_step(model, optimizer, seed)["attention"] for seed in range(8)]
    assert all(low < each["lost"] < high for each in found[2:])
    progress = [each["progress"] for each in found[2:]]
    assert max(progress) < 0.4 if lr == 2e-5 else min(progress) > 0.95


@pytest.mark.parametrize("lr", [1e-5, 2e-5, 1e-4, 1e-3])
def test_the_share_of_a_first_step_is_that_of_weights_with_a_coarser_grid(lr):
    """AdamW's first step is of the rate's size for every weight."""
    found = unit_step(model := Model().to(torch.bfloat16), fused(model, lr, decay=0.0))
    assert found["norms"]["lost"] > 0.49  # gains are 1, where a step is 2^-8; their biases are 0 and move
    weight = Model().body[1][0].attention.weight.detach().to(torch.bfloat16).double().flatten()
    grid = 2.0 ** (torch.frexp(weight.abs())[1].double() - 8)
    assert found["attention"]["lost"] == pytest.approx(float((lr < grid / 2).double().mean()), abs=0.02)


def test_fp32_loses_none_and_takes_the_whole_step():
    found = unit_step(model := Model(), fused(model, 2e-5))
    for name, group in found.items():
        assert group["lost"] == 0.0, name
        assert group["progress"] == pytest.approx(1.0, abs=1e-3)
        assert group["decay_no_op"] < 0.01 or name == "norms"


@pytest.mark.parametrize("update", ["kahan", "master", "stochastic"])
def test_repairs_take_the_whole_step(update):
    model = Model().to(torch.bfloat16)
    optimizer = RoundingAdamW(
        model.parameters(), lr=2e-5, weight_decay=0.0, state_dtype=torch.float32, update=update
    )
    found = unit_step(model, optimizer)
    for name in ("attention", "mlp", "head", "embeddings"):
        if update == "stochastic":  # a weight moves seldom, and then by more
            assert found[name]["lost"] > 0.5
        else:
            assert found[name]["lost"] < 0.001
        assert found[name]["progress"] == pytest.approx(1.0, abs=0.1 if update == "stochastic" else 0.002)


def test_rounding_to_nearest_takes_a_part_of_the_step():
    found = unit_step(model := Model().to(torch.bfloat16), fused(model, 2e-6, decay=0.0))
    assert found["attention"]["progress"] < 0.5


def test_decay_alone_moves_no_bfloat16_weight():
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = Model().to(dtype)
        rates[dtype] = unit_step(model, fused(model, 6e-4, decay=0.1))["attention"]["decay_no_op"]
    assert rates == {torch.float32: 0.0, torch.bfloat16: 1.0}
    model = Model().to(torch.bfloat16)
    kahan = RoundingAdamW(model.parameters(), lr=6e-4, weight_decay=0.1, update="kahan")
    assert unit_step(model, kahan)["attention"]["decay_no_op"] < 0.05


def test_second_moments_that_cannot_fall_or_are_no_more():
    """bfloat16 cannot take a thousandth off; float16 has no square of 1e-4."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = Model().to(dtype)
        optimizer = fused(model, 1e-6)
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e-4)
        meter = UpdateMeter(model, optimizer)
        meter.start()
        optimizer.step()
        group = meter.finish()["head"]
        found[dtype] = (group["second_moment_stuck"], group["second_moment_zero"])
    assert found == {torch.float32: (0.0, 0.0), torch.bfloat16: (1.0, 0.0), torch.float16: (None, 1.0)}


def test_only_weights_with_a_gradient_count():
    """Rows of words that the batch has not."""
    model = Model()
    optimizer = fused(model, 1e-3)
    model.head(model.body(torch.tensor([[1, 2]]))).sum().backward()
    meter = UpdateMeter(model, optimizer)
    meter.start()
    optimizer.step()
    with torch.no_grad():  # put one of the two rows back: half of what was meant
        model.body[0].weight[1] = Model().body[0].weight[1]
    assert meter.finish()["embeddings"]["lost"] == pytest.approx(0.5, abs=0.01)


def test_a_sample_of_the_elements_says_the_same():
    shares = []
    for elements in (2**20, 3000):
        model = Model().to(torch.bfloat16)
        optimizer = fused(model, 2e-5, decay=0.0)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        meter = UpdateMeter(model, optimizer, elements)
        meter.start()
        optimizer.step()
        shares.append(meter.finish()["head"]["lost"])
    assert shares[0] != shares[1] and shares[0] == pytest.approx(shares[1], abs=0.03)


@pytest.mark.parametrize("name", FORMATS)
def test_shares_are_those_of_a_cast(name):
    """Random magnitudes over all binades, and the ties on each side of every limit."""
    generator = torch.Generator().manual_seed(0)
    values = 2.0 ** (torch.rand(20_000, generator=generator) * 270 - 145)
    limits = torch.tensor([limit for limits in FORMATS.values() for limit in limits])
    ends = torch.cat([limits, limits.nextafter(torch.tensor(0.0)), limits.nextafter(torch.tensor(torch.inf))])
    values = torch.cat([values, ends[ends.isfinite()]])
    values *= torch.where(torch.rand(values.shape, generator=generator) < 0.5, -1, 1)
    histogram = ValueHistogram()
    for part in values.split(7000):
        histogram.add(part)
    found = histogram.result()[name]
    cast = values.to(DTYPES[name]).float().abs()
    count = len(values)
    assert found["zero"] == pytest.approx(float((cast == 0).sum()) / count)
    # torch's e4m3, which has no infinity, ends at 448; 464 is half a step above
    above = values.abs() > 464 if name == "float8_e4m3" else ~cast.isfinite()
    assert found["overflow"] == pytest.approx(float(above.sum()) / count)
    least = torch.finfo(DTYPES[name]).tiny
    assert found["subnormal"] == pytest.approx(float(((cast > 0) & (values.abs() < least)).sum()) / count)


def test_bins_are_powers_of_two():
    histogram = ValueHistogram()
    histogram.add(torch.tensor([1.0, 1.9, -2.0, 0.75, 0.0, torch.inf, torch.nan, 2.0**-149]))
    found = histogram.result()
    assert found["bins"] == [[-149, 1 / 8], [-1, 1 / 8], [0, 2 / 8], [1, 1 / 8]]
    assert (found["count"], found["zeros"], found["non_finite"], found["largest"]) == (8, 1 / 8, 2 / 8, 2.0)
    assert ValueHistogram().result() == {}


def test_gradients_of_a_mean_over_many_labels_underflow_float16():
    """8 x 4,271 labels at a probability of 0.0012; cross-entropy over 50,304 words and 12 x 1,024 tokens."""
    generator = torch.Generator().manual_seed(0)
    odds = torch.full((8, 4271), 0.0012).logit() + torch.randn(8, 4271, generator=generator)
    logits = odds.requires_grad_()
    labels = (torch.rand(8, 4271, generator=generator) < 5 / 4271).float()
    F.binary_cross_entropy_with_logits(logits, labels).backward()
    histogram = ValueHistogram()
    histogram.add(logits.grad)
    found = histogram.result()
    assert found["float16"]["zero"] + found["float16"]["subnormal"] == 1.0
    assert 0.25 < found["float16"]["zero"] < 0.6 and found["bfloat16"]["zero"] == 0.0

    logits = torch.zeros(16, 50304, requires_grad=True)
    F.cross_entropy(logits, torch.arange(16), reduction="sum").div(12 * 1024).backward()
    histogram = ValueHistogram()
    histogram.add(logits.grad)
    assert histogram.result()["float16"]["zero"] == pytest.approx(1 - 1 / 50304)


def test_one_pass_of_a_model_is_read_and_leaves_no_hook():
    model = Model().to(torch.float16)
    with Underflow(model) as probe:
        hidden = model.body(torch.arange(20).view(4, 5)).mean(1)
        logits = probe.watch(model.head(hidden))
        (F.binary_cross_entropy_with_logits(logits.float(), torch.zeros(4, 300)) * 8).backward()
    found = probe.result()
    assert found["logits"]["count"] == found["logit_gradients"]["count"] == 1200
    assert found["logit_gradients"]["float16"]["subnormal"] == 0.0  # 8 x 0.5 / 1,200 is above 6.1e-5
    assert list(found["layers"]) == ["1.0", "1.1"] or list(found["layers"]) == ["0", "1"]
    assert found["weights"]["count"] == sum(p.numel() for p in model.parameters())
    assert found["gradients"]["count"] == found["weights"]["count"]
    assert found["groups"]["head"]["count"] == 128 * 300 + 300
    assert found["groups"]["embeddings"]["zeros"] >= 30 / 50  # words that the batch has not
    assert not any(module._forward_hooks for module in model.modules())


def test_a_run_that_learns_has_not_diverged():
    rule = DivergenceRule()
    assert not any(rule.update(1.0 / (1 + step) + 0.1 * (step % 7 == 0)) for step in range(500))


def test_divergence_is_a_loss_that_is_not_finite():
    for loss in (math.nan, math.inf):
        assert "loss" in DivergenceRule().update(loss)


def test_divergence_is_a_mean_above_the_best_and_above_the_start():
    rule = DivergenceRule()
    losses = [2.0] + [1.0] * 60
    assert not any(map(rule.update, losses))
    assert not any(rule.update(1.9) for _ in range(100))  # worse than the best, better than the start
    said = [step for step in range(100) if rule.update(4.0)]
    assert said and said[0] < 10


def test_divergence_is_a_scale_that_never_recovers():
    rule = DivergenceRule()
    assert not any(rule.update(1.0, skipped=True) for _ in range(20))
    assert rule.update(1.0, skipped=False) is None
    said = [rule.update(1.0, skipped=True) for _ in range(21)]
    assert not any(said[:20]) and "21 steps" in said[20]


def test_the_rule_goes_on_where_it_was():
    rule, other = DivergenceRule(), DivergenceRule()
    for step in range(80):
        rule.update(3.0 - step / 40)
    other.load_state_dict(rule.state_dict())
    for loss in [5.0] * 60:
        assert rule.update(loss) == other.update(loss)


def test_a_state_that_hides_its_moments_has_no_progress():
    """As bitsandbytes' 8-bit one."""
    model = Model()
    group = {"params": list(model.parameters()), "lr": 1e-3, "weight_decay": 0.0, "betas": (0.9, 0.999)}
    optimizer = SimpleNamespace(param_groups=[group], state={})
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    meter = UpdateMeter(model, optimizer)
    meter.start()
    found = meter.finish()
    hidden = dict.fromkeys(["progress", "second_moment_stuck", "second_moment_zero"])
    assert found["head"] == {"lost": 1.0, "decay_no_op": 0.0, **hidden}
