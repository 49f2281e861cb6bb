"""RowAdamW: AdamW's own rule on touched rows, nothing at all on the others, exact resume."""

import pytest
import torch
from torch import nn

from category_classification.row_adamw import RowAdamW

SETTINGS = dict(lr=0.01, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-8)


def models(sparse: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(12, 4, sparse=sparse), nn.Linear(4, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> None:
    (model(ids) * torch.arange(1, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_equals_adamw_when_every_row_is_touched_each_step():
    dense, rows = models(False), models(True)
    optimizers = torch.optim.AdamW(dense.parameters(), **SETTINGS), RowAdamW(rows.parameters(), **SETTINGS)
    for seed in range(20):
        more = torch.randint(0, 12, (9,), generator=torch.Generator().manual_seed(seed))
        ids = torch.cat((torch.arange(12), more))
        step(dense, optimizers[0], ids)
        step(rows, optimizers[1], ids)
    for a, b in zip(dense.parameters(), rows.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_row_follows_adamw_over_its_own_visits():
    """Row 2, touched at every other step, moves as a one-row table that exists at those steps alone."""
    table = nn.Embedding(6, 3, sparse=True)
    alone = nn.Parameter(table.weight[2].detach().double().clone())
    row_optimizer, plain = RowAdamW(table.parameters(), **SETTINGS), torch.optim.AdamW([alone], **SETTINGS)
    for number in range(10):
        ids = torch.tensor([2, 2, 4]) if number % 2 == 0 else torch.tensor([4, 5])
        gradient = torch.full((3,), number + 1.0)
        (table(ids) @ gradient).sum().backward()
        row_optimizer.step()
        row_optimizer.zero_grad()
        if number % 2 == 0:
            alone.grad = 2 * gradient.double()
            plain.step()
    torch.testing.assert_close(table.weight[2].double(), alone, rtol=1e-5, atol=1e-6)


def test_untouched_rows_are_left_alone():
    model = models(True)
    before = model[0].weight.detach().clone()
    optimizer = RowAdamW(model.parameters(), **SETTINGS)
    for _ in range(3):
        step(model, optimizer, torch.tensor([1, 5, 5]))
    changed = (model[0].weight != before).any(1)
    assert changed.nonzero().flatten().tolist() == [1, 5]


@pytest.mark.parametrize("fused", [False, True])
def test_resume_is_exact(fused):
    def run(stop: int | None) -> list[torch.Tensor]:
        model = models(True)
        optimizer = RowAdamW(model.parameters(), fused=fused, **SETTINGS)
        for number in range(8):
            if number == stop:
                state = model.state_dict(), optimizer.state_dict()
                model = models(True)
                optimizer = RowAdamW(model.parameters(), fused=fused, **SETTINGS)
                model.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            step(model, optimizer, torch.tensor([number, 3, 11 - number]))
        return [p.detach() for p in model.parameters()]

    for a, b in zip(run(None), run(4), strict=True):
        assert torch.equal(a, b)
