"""RowAdamW against PyTorch's AdamW on the whole table, in float64; exact resume; rows brought up to date."""

import math

import pytest
import torch
from torch import nn

from category_classification.row_adamw import MOMENTUM_STEPS, RowAdamW

SETTINGS = dict(lr=0.01, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8)
ROWS = 40


def make(optimizer: type, sparse: bool, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(ROWS, 4, sparse=sparse), nn.Linear(4, 3)).to(dtype)
    made = optimizer(model.parameters(), **{**SETTINGS, **settings})
    if optimizer is RowAdamW:
        made.follow(model[0])
    return model, made


def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor, lr: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = (model(ids) * torch.arange(1, 4)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def batches(count: int) -> list[tuple[torch.Tensor, float]]:
    """Ids as text has them (few often, most seldom, some never), and a rate that warms and falls."""
    generator = torch.Generator().manual_seed(1)
    chances = 1 / torch.arange(1, ROWS + 1).double() ** 2
    chances[-5:] = 0
    drawn = [torch.multinomial(chances, 6, True, generator=generator) for _ in range(count)]
    rates = [0.01 * min(1, (n + 1) / 20) * (1 + math.cos(math.pi * n / count)) / 2 for n in range(count)]
    return list(zip(drawn, rates, strict=True))


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.9, 0.999)])
def test_gives_the_weights_of_adamw_on_the_whole_table(betas):
    dense, adamw = make(torch.optim.AdamW, False, betas=betas)
    rows, row_adamw = make(RowAdamW, True, betas=betas)
    start = rows[0].weight.detach().clone()
    for ids, lr in batches(700):
        expected = step(dense, adamw, ids, lr)
        assert step(rows, row_adamw, ids, lr) == pytest.approx(expected, rel=2e-4)
    row_adamw.catch_up()
    way = (dense[0].weight - start).abs().max()
    for a, b in zip(dense.parameters(), rows.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4 * float(way))


def test_a_row_seen_once_goes_on_by_its_momentum():
    """What a lazy update leaves out: most of the way of a token that occurs once."""
    dense, adamw = make(torch.optim.AdamW, False, weight_decay=0.0)
    rows, row_adamw = make(RowAdamW, True, weight_decay=0.0)
    often = torch.tensor([0, 1, 2])
    for number in range(2 * MOMENTUM_STEPS):
        ids = torch.tensor([7, 1, 2]) if number == 100 else often
        if number == 100:
            before = rows[0].weight[7].detach().clone()
        step(dense, adamw, ids, 0.01)
        step(rows, row_adamw, ids, 0.01)
        if number == 100:
            first = (rows[0].weight[7] - before).abs().max()
    row_adamw.catch_up()
    assert (rows[0].weight[7] - before).abs().max() > 5 * first
    torch.testing.assert_close(rows[0].weight[7], dense[0].weight[7], rtol=1e-3, atol=0)


def test_bringing_rows_up_to_date_in_parts_changes_little():
    """In two parts or in one: the momentum that the first part leaves is taken up by the second."""
    found = []
    for often in (False, True):
        model, optimizer = make(RowAdamW, True)
        for ids, lr in batches(200):
            step(model, optimizer, ids, lr)
            if often:
                optimizer.catch_up()
        optimizer.catch_up()
        found.append(model[0].weight.detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_evaluation_leaves_rows_as_they_are():
    model, optimizer = make(RowAdamW, True)
    for ids, lr in batches(10):
        step(model, optimizer, ids, lr)
    before = model[0].weight.detach().clone()
    model.eval()(torch.arange(ROWS))
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("fused", [False, True])
def test_resume_is_exact(fused):
    def run(stop: int | None) -> list[torch.Tensor]:
        model, optimizer = make(RowAdamW, True, torch.float32, fused=fused)
        for number, (ids, lr) in enumerate(batches(1100)):  # the history has grown once
            if number == stop:
                state = model.state_dict(), optimizer.state_dict()
                model, optimizer = make(RowAdamW, True, torch.float32, fused=fused)
                model.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            step(model, optimizer, ids, lr)
        return [p.detach() for p in model.parameters()]

    for a, b in zip(run(None), run(1050), strict=True):
        assert torch.equal(a, b)
