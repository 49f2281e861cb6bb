"""Every loss against a float64 loop, its gradient against finite differences, and what must not change it."""

import math

import numpy as np
import pytest
import torch

from naics.model.loss import (
    info_nce,
    listwise_loss,
    query_loss,
    stress_loss,
)

B, K, U = 6, 5, 9
TEMPERATURE = 0.07


def uniform(*shape, seed=0, low=0.1, high=2.0):
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def coin(*shape, seed=1, chance=0.6):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < chance


def log_sum_exp(values):
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


POSITIVE, NEGATIVES, MASK = uniform(B), uniform(B, K, seed=2), coin(B, K)
DISTANCES, VALID = uniform(B, U, seed=3), coin(B, U, seed=4)
INDEX = torch.tensor([0, 8, 3, 3, 5, 1])
TREE = torch.randint(0, 11, (B, U), generator=torch.Generator().manual_seed(5))
HARD = torch.tensor([2, -1, 4, 0, -1, 8])

# All losses as functions of one float64 tensor of distances.
LOSSES = {
    "info_nce": (
        lambda d: info_nce(d[:, 0], d[:, 1:], TEMPERATURE),
        torch.cat((POSITIVE[:, None], NEGATIVES), 1),
    ),
    "info_nce, masked": (
        lambda d: info_nce(d[:, 0], d[:, 1:], TEMPERATURE, MASK),
        torch.cat((POSITIVE[:, None], NEGATIVES), 1),
    ),
    "listwise": (lambda d: listwise_loss(d, TREE, 1.5, 0.7, VALID), DISTANCES),
    "stress": (lambda d: stress_loss(d, TREE), DISTANCES),
    "query": (lambda d: query_loss(d, INDEX, 3.0), DISTANCES),
    "query, redirected": (lambda d: query_loss(d, INDEX, 3.0, HARD), DISTANCES),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    loss, distances = LOSSES[name]
    assert loss(distances).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, distances.clone().requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_distances_are_taken_to_float32_and_stay_finite(name, dtype):
    loss, distances = LOSSES[name]
    far = (distances * 100).to(dtype)  # up to 20 000 in the exponent
    exact = far.float().requires_grad_()
    far.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = loss(far)
    value.backward()
    loss(exact).backward()
    assert value.dtype == torch.float32 and value.isfinite() and far.grad.isfinite().all()
    torch.testing.assert_close(value, loss(far.double()).float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(far.grad, exact.grad.to(dtype))


@pytest.mark.parametrize("masked", [False, True])
def test_info_nce_follows_the_formula(masked):
    expected = 0.0
    for b in range(B):
        counted = [float(POSITIVE[b])]
        counted += [float(NEGATIVES[b, k]) for k in range(K) if not masked or MASK[b, k]]
        expected += (counted[0] / TEMPERATURE + log_sum_exp([-d / TEMPERATURE for d in counted])) / B
    found = info_nce(POSITIVE, NEGATIVES, TEMPERATURE, MASK if masked else None)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_listwise_loss_follows_the_formula_and_is_zero_at_its_target():
    expected = 0.0
    for b in range(B):
        columns = [u for u in range(U) if VALID[b, u]]
        learned, target = ([-s * float(d[b, u]) for u in columns] for s, d in ((1.5, DISTANCES), (0.7, TREE)))
        for q, p in zip(learned, target, strict=True):
            log_p, log_q = p - log_sum_exp(target), q - log_sum_exp(learned)
            expected += math.exp(log_p) * (log_p - log_q) / B
    assert float(listwise_loss(DISTANCES, TREE, 1.5, 0.7, VALID)) == pytest.approx(expected, rel=1e-12)
    at_target = (0.7 / 1.5 * TREE.double()).requires_grad_()
    best = listwise_loss(at_target, TREE, 1.5, 0.7, VALID)
    best.backward()
    assert abs(float(best.detach())) < 1e-12 and float(at_target.grad.abs().max()) < 1e-12


def test_a_row_with_nothing_to_rank_adds_zero():
    mask = VALID.clone()
    mask[2] = False
    distances = DISTANCES.clone().requires_grad_()
    loss = listwise_loss(distances, TREE, 1.5, 0.7, mask)
    loss.backward()
    kept = [b for b in range(B) if b != 2]
    rest = listwise_loss(DISTANCES[kept], TREE[kept], 1.5, 0.7, mask[kept])
    assert float(loss.detach()) == pytest.approx(float(rest) * (B - 1) / B)
    assert not distances.grad[2].any() and distances.grad.isfinite().all()


def test_stress_is_that_of_the_best_scale_by_least_squares():
    d, target = (a.numpy()[TREE.numpy() > 0] for a in (DISTANCES, TREE))
    assert (TREE == 0).any()
    _, squares, *_ = np.linalg.lstsq(d[:, None], target, rcond=None)
    found = stress_loss(DISTANCES, TREE)
    assert float(found) == pytest.approx(float(squares[0] / (target @ target)), rel=1e-12)
    torch.testing.assert_close(stress_loss(37 * DISTANCES, TREE), found)
    assert float(stress_loss(0.3 * TREE.float() + (TREE == 0) * 5.0, TREE.to(torch.int8))) < 1e-12


def test_query_loss_follows_the_formula():
    plain, redirected = 0.0, 0.0
    for b in range(B):
        logits = [-3.0 * float(d) for d in DISTANCES[b]]
        plain += (log_sum_exp(logits) - logits[INDEX[b]]) / B
        if HARD[b] >= 0:
            pair = [logits[INDEX[b]], logits[HARD[b]]]
            redirected += (log_sum_exp(pair) - pair[0]) / B
    assert float(query_loss(DISTANCES, INDEX, 3.0)) == pytest.approx(plain, rel=1e-12)
    assert float(query_loss(DISTANCES, INDEX, 3.0, HARD)) == pytest.approx(plain + redirected, rel=1e-12)
    torch.testing.assert_close(
        query_loss(DISTANCES, INDEX, 3.0, torch.full((B,), -1)), query_loss(DISTANCES, INDEX, 3.0)
    )


def test_a_redirect_pushes_the_referring_code_away_more_than_cross_entropy_does():
    distances = torch.ones(1, 2000, dtype=torch.float64, requires_grad=True)
    target, referring = torch.tensor([0]), torch.tensor([1])
    plain, redirected = (
        torch.autograd.grad(query_loss(distances, target, 5.0, hard), distances)[0][0, :3]
        for hard in (None, referring)
    )
    assert -plain[1] < 0.01 and -redirected[1] > 2
    assert redirected[0] > plain[0] > 0 and redirected[2] == plain[2]


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "stress"])
def test_a_shift_of_a_whole_row_of_distances_changes_nothing(name):
    loss, distances = LOSSES[name]
    shift = uniform(len(distances), 1, seed=8)
    torch.testing.assert_close(loss(distances + shift), loss(distances), rtol=1e-9, atol=1e-12)


def test_the_order_of_negatives_codes_and_rows_changes_nothing():
    negatives, codes, rows = (
        torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (K, U, B)
    )
    moved = codes.argsort()[INDEX]  # the columns where the positives have gone
    hard = torch.where(HARD < 0, HARD, codes.argsort()[HARD])
    pairs = {
        "info_nce": (
            info_nce(POSITIVE[rows], NEGATIVES[rows][:, negatives], 0.07, MASK[rows][:, negatives]),
            info_nce(POSITIVE, NEGATIVES, 0.07, MASK),
        ),
        "listwise": (
            listwise_loss(DISTANCES[:, codes], TREE[:, codes], 1.5, 0.7, VALID[:, codes]),
            listwise_loss(DISTANCES, TREE, 1.5, 0.7, VALID),
        ),
        "query": (
            query_loss(DISTANCES[:, codes][rows], moved[rows], 3.0, hard[rows]),
            query_loss(DISTANCES, INDEX, 3.0, HARD),
        ),
    }
    for name, (found, expected) in pairs.items():
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, msg=name)


@pytest.mark.parametrize("filler", [0.0, 1e4, float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_mask_leaves_out_has_no_value_and_no_gradient(filler, dtype):
    cases = {
        "info_nce": (
            lambda d: info_nce(d[:, 0], d[:, 1:], 0.07, VALID[:, 1:]),
            VALID | (torch.arange(U) == 0),
        ),
        "listwise": (lambda d: listwise_loss(d, TREE, 1.5, 0.7, VALID), VALID),
        "stress": (lambda d: stress_loss(d, TREE), TREE > 0),
    }
    for name, (loss, mask) in cases.items():
        clean = DISTANCES.clone().to(dtype)
        filled = clean.masked_fill(~mask, filler)
        clean.requires_grad_(), filled.requires_grad_()
        first, second = loss(clean), loss(filled)
        first.backward(), second.backward()
        assert torch.equal(first, second), name
        for gradient in (clean.grad, filled.grad):
            assert not gradient[~mask].any() and gradient[mask].isfinite().all(), name
        assert torch.equal(clean.grad, filled.grad), name


def test_temperatures_and_scales_can_be_learned():
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for loss in (
        lambda s: info_nce(POSITIVE, NEGATIVES, s, MASK),
        lambda s: listwise_loss(DISTANCES, TREE, s, 0.7, VALID),
        lambda s: query_loss(DISTANCES, INDEX, s, HARD),
    ):
        assert torch.autograd.gradcheck(loss, scale)
