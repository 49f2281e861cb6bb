"""Routed computation against all experts on all rows, and the balance loss over ranks and micro-batches.

The file is also the script that torchrun starts on two ranks: `test_naics_moe.py OUT`.
"""

import contextlib
import sys
from pathlib import Path

import pytest
import torch
from conftest import torchrun
from torch import nn

from naics.model.moe import MixtureOfExperts, balance_loss, count_choices, global_choices
from training_utils import InputError, World, init_distributed, run_script

FEATURES, HIDDEN, OUT, EXPERTS = 12, 16, 5, 4
SPLITS = [[5, 2, 4], [3, 6, 1]]  # rows of three micro-batches on each of two ranks
COEFFICIENT = 0.5


def make(top_k=2, seed=0, experts=EXPERTS):
    torch.manual_seed(seed)
    return MixtureOfExperts(FEATURES, HIDDEN, OUT, experts, top_k)


def rows(count, seed=1):
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))


def dense(model, x):
    """Every expert on every row, row by row."""
    outputs = torch.stack([expert(x) for expert in model.experts], dim=1)
    result = []
    for row, logits in zip(outputs, model.router(x), strict=True):
        best = sorted(range(len(logits)), key=lambda e: -logits[e].item())[: model.top_k]
        weights = logits[best].softmax(0)  # softmax of the chosen is the renormalised softmax of all
        result.append(sum(w * row[e] for w, e in zip(weights, best, strict=True)))
    return torch.stack(result)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_the_dense_mixture(top_k):
    model, x = make(top_k), rows(30).requires_grad_()
    weight = torch.randn(30, OUT)
    gradients = []
    for output in (model(x)[0], dense(model, x)):
        inputs = [x, *model.parameters()]
        gradients.append(torch.autograd.grad((output * weight).sum(), inputs, materialize_grads=True))
        gradients[-1] = [output, *gradients[-1]]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_only_routed_rows_are_computed():
    model, x = make(), rows(100)
    seen = [0] * EXPERTS
    for number, expert in enumerate(model.experts):

        def count(module, inputs, output, number=number):
            seen[number] += len(inputs[0])

        expert.register_forward_hook(count)
    _, routing = model(x)
    assert seen == count_choices(routing.choices, EXPERTS).tolist() and sum(seen) == 200
    assert routing.probabilities.shape == (100, EXPERTS) and routing.choices.shape == (100, 2)
    torch.testing.assert_close(routing.probabilities, model.router(x).softmax(1))
    assert torch.equal(routing.choices, routing.probabilities.argsort(1, descending=True)[:, :2])


def test_an_expert_without_a_row_has_a_gradient_of_zero():
    model = make()
    with torch.no_grad():
        model.router.bias[2] = -100
    model(rows(10))[0].sum().backward()
    for parameter in model.experts[2].parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    assert all(p.grad.any() for p in model.experts[0].parameters())
    output, routing = model(rows(0))
    assert output.shape == (0, OUT) and routing.choices.shape == (0, 2)


def test_routing_is_in_full_precision_under_autocast():
    model, x = make(), rows(200)
    _, exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, routing = model(x)
        low = model.router(x).float().softmax(1)
    assert torch.equal(routing.probabilities, exact.probabilities) and output.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x.bfloat16())[1].probabilities.dtype == torch.float32
    assert not torch.equal(low.topk(2).indices, exact.choices)  # what the island prevents


@pytest.mark.parametrize("top_k", [0, 5])
def test_more_choices_than_experts_are_refused(top_k):
    with pytest.raises(InputError, match=f"top_k {top_k} .*num_experts 4"):
        make(top_k)


def test_balance_loss_follows_the_formula():
    probabilities = torch.randn(50, EXPERTS, generator=torch.Generator().manual_seed(3)).softmax(1)
    choices = probabilities.topk(2).indices
    expected = 0.0
    for expert in range(EXPERTS):
        f = sum(expert in row for row in choices.tolist()) / (2 * 50)
        p = sum(row[expert] for row in probabilities.double().tolist()) / 50
        expected += EXPERTS * f * p
    counts, total = global_choices([choices[:20], choices[20:]], EXPERTS)
    assert total == 50 and counts.sum() == 100
    assert float(balance_loss(probabilities, counts, total)) == pytest.approx(expected, rel=1e-6)
    even, one = torch.full((8, EXPERTS), 0.25), torch.eye(EXPERTS)[[0] * 8]
    assert float(balance_loss(even, torch.tensor([4, 4, 4, 4]), 8)) == 1
    assert float(balance_loss(one, torch.tensor([8, 0, 0, 0]), 8)) == EXPERTS


# ---------------------------------------------------------------- one large batch and many small ones


def starved(seed=0):
    """A model whose expert 3 gets no row and whose others are used unevenly."""
    model = make(seed=seed)
    with torch.no_grad():
        model.router.bias += torch.tensor([1.0, 0.0, 0.0, -100.0])
    return model


def accumulate_step(model, batches, total, world=World(), known_counts=True):  # noqa: B008
    """Gradients of a whole step, by two passes; without `known_counts` each micro-batch balances itself."""
    with torch.no_grad():
        choices = [model(x)[1].choices for x in batches]
    counts, count = global_choices(choices, EXPERTS, world)
    assert count == total
    for number, x in enumerate(batches):
        last = number == len(batches) - 1 or world.size == 1
        with contextlib.nullcontext() if last else model.no_sync():
            output, routing = model(x)
            if not known_counts:
                counts = count_choices(routing.choices, EXPERTS)
            loss = output.square().sum() / total
            loss = loss + COEFFICIENT * balance_loss(routing.probabilities, counts, total)
            (loss * world.size).backward()  # DDP divides by it
    return [p.grad for p in model.parameters()]


def main() -> None:
    world = init_distributed()
    parts = rows(sum(map(sum, SPLITS))).split(sum(SPLITS, []))
    batches = parts[3 * world.rank : 3 * world.rank + 3]
    model = world.wrap(starved())
    gradients = accumulate_step(model, batches, sum(map(sum, SPLITS)), world)
    world.gather(None)  # a rank that ended first now and then aborted, with DDP's threads still at work
    if world.is_main:
        torch.save(gradients, sys.argv[1])


def largest_error(gradients, expected):
    return max(float((a - b).abs().max()) for a, b in zip(gradients, expected, strict=True))


def test_micro_batches_add_up_to_the_large_batch_only_with_global_counts():
    total = sum(map(sum, SPLITS))
    expected = accumulate_step(starved(), [rows(total)], total)
    parts = rows(total).split(sum(SPLITS, []))
    assert largest_error(accumulate_step(starved(), parts, total), expected) < 1e-6
    assert largest_error(accumulate_step(starved(), parts, total, known_counts=False), expected) > 1e-3


@pytest.mark.slow
def test_two_ranks_of_three_micro_batches_equal_one_large_batch(tmp_path):
    result = torchrun(Path(__file__), tmp_path / "gradients.pt")
    assert result.returncode == 0, result.stderr[-3000:]
    total = sum(map(sum, SPLITS))
    expected = accumulate_step(starved(), [rows(total)], total)
    assert largest_error(torch.load(tmp_path / "gradients.pt"), expected) < 1e-6


def train_from_collapse(coefficient):
    """Shares of the experts after 500 steps of a regression, from a router that sends all to experts 0, 1."""
    model = make(seed=4)
    with torch.no_grad():
        model.router.bias += torch.tensor([4.0, 2.0, -1.0, -1.0])
    x = rows(512, seed=5)
    target = x[:, :OUT] + x[:, OUT : 2 * OUT]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(500):
        part = torch.arange(64) + 64 * (step % 8)
        output, routing = model(x[part])
        counts, total = global_choices([routing.choices], EXPERTS)
        loss = nn.functional.mse_loss(output, target[part])
        (loss + coefficient * balance_loss(routing.probabilities, counts, total)).backward()
        optimizer.step()
        optimizer.zero_grad()
    counts = count_choices(model(x)[1].choices, EXPERTS)
    return (counts / counts.sum()).tolist()


def test_a_collapsed_router_is_balanced_by_the_loss_and_not_without_it():
    alone, balanced = train_from_collapse(0.0), train_from_collapse(0.05)
    assert sum(alone[:2]) > 0.99, alone
    assert 0.18 < min(balanced) and max(balanced) < 0.32, balanced


if __name__ == "__main__":
    run_script(main)
