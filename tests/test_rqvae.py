"""The quantizers against explicit formulas in float64, and what k-means, resets and reloads leave."""

import pytest
import torch
from torch.nn import functional as F

from semantic_ids.rqvae import (
    RQVAE,
    EMAVectorQuantizer,
    VectorQuantizer,
    code_sums,
    kmeans,
    nearest_codes,
    take_back,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(**changed):
    sizes = dict(
        item_embedding_dim=24, encoder_hidden_dims=(16,), codebook_embedding_dim=4,
        codebook_quantization_levels=3, codebook_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    return RQVAE(**sizes | changed)


def test_published_size():
    assert sum(p.numel() for p in RQVAE().parameters()) == 1_411_872


def test_nearest_codes_are_those_of_the_full_distances():
    x, codebook = random(500, 6), random(40, 6, seed=1)
    assert torch.equal(nearest_codes(x, codebook), torch.cdist(x, codebook).argmin(1))


def rotation(x, q):
    """s R as an explicit matrix of one row."""
    u, v = x / x.norm(), q / q.norm()
    r = (u + v) / (u + v).norm()
    eye = torch.eye(len(x), dtype=x.dtype)
    return q.norm() / x.norm() * (eye - 2 * torch.outer(r, r) + 2 * torch.outer(v, u))


def test_rotation_is_the_explicit_matrix():
    x, q, gradient = random(30, 5), random(30, 5, seed=1), random(30, 5, seed=2)
    for row, back in enumerate(take_back(x, q, gradient, rotate=True)):
        matrix = rotation(x[row], q[row])
        torch.testing.assert_close(matrix @ x[row], q[row], atol=1e-12, rtol=0)  # it takes x to q
        scale = q[row].norm() / x[row].norm()
        torch.testing.assert_close(
            matrix @ matrix.T, scale**2 * torch.eye(5, dtype=x.dtype), atol=1e-12, rtol=0
        )
        torch.testing.assert_close(back, matrix.T @ gradient[row], atol=1e-12, rtol=0)


def test_rotation_of_nothing_and_of_opposites_is_finite():
    x, q, gradient = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3)
    x[1] = -1
    back = take_back(x, q, gradient, rotate=True)
    assert torch.equal(back[0], gradient[0]) and back.isfinite().all()


@pytest.mark.parametrize("rotate", [True, False])
def test_gradients_are_those_of_the_written_out_losses(rotate):
    quantizer = VectorQuantizer(7, 4, rotate).double()
    torch.nn.init.normal_(quantizer.codebook)
    x, weight = random(50, 4).requires_grad_(), random(50, 4, seed=1)
    q, codes, codebook_loss, commitment_loss = quantizer(x)
    assert torch.equal(q, quantizer.codebook[codes])  # exact in the forward pass
    ((q * weight).sum() + 3 * codebook_loss + 0.25 * commitment_loss).backward()

    point, table = x.detach().requires_grad_(), quantizer.codebook.detach().requires_grad_()
    rows = table[codes]
    through = torch.stack([rotation(*pair) for pair in zip(point.detach(), rows.detach(), strict=True)])
    taken = (through @ point[:, :, None])[:, :, 0] if rotate else point
    loss = (taken * weight).sum() + 3 * F.mse_loss(rows, point.detach())
    (loss + 0.25 * F.mse_loss(point, rows.detach())).backward()
    torch.testing.assert_close(x.grad, point.grad, atol=1e-12, rtol=0)
    torch.testing.assert_close(quantizer.codebook.grad, table.grad, atol=1e-12, rtol=0)


def test_levels_quantize_what_is_left_and_decode_the_sum():
    model = small().double().eval()
    x = random(20, 24)
    output = model(x)
    residual, total = model.encoder(model.scale(x)), 0
    for level, quantizer in enumerate(model.quantizers):
        codes = torch.cdist(residual, quantizer.codebook).argmin(1)
        assert torch.equal(codes, output.codes[:, level])
        total, residual = total + quantizer.codebook[codes], residual - quantizer.codebook[codes]
    torch.testing.assert_close(model.decoder(total), output.decoded)
    torch.testing.assert_close(model.decode(output.codes), model.unscale(output.decoded))
    assert torch.equal(model.encode(x), output.codes)


def test_scaling_is_undone_by_decoding():
    model, x = small().double(), 0.01 * random(200, 24) + 3
    model.fit_input_scale(x)
    scaled = model.scale(x)
    assert scaled.mean(0).abs().max() < 1e-6 and float(scaled.square().mean()) == pytest.approx(1, rel=1e-6)
    torch.testing.assert_close(model.unscale(scaled), x)


def test_ema_is_the_formula_and_a_step_of_two_halves_that_of_the_whole():
    halves, whole = (EMAVectorQuantizer(6, 3, decay=0.9).double() for _ in range(2))
    halves.load_state_dict(whole.state_dict())
    counts, sums, codebook = whole.counts.clone(), whole.sums.clone(), whole.codebook.detach().clone()
    for step in range(3):
        x = random(40, 3, seed=step)
        codes = nearest_codes(x, codebook)
        n, total = code_sums(x, codes, 6)
        counts, sums = 0.9 * counts + 0.1 * n, 0.9 * sums + 0.1 * total
        smoothed = (counts + 1e-5) / (counts.sum() + 6e-5) * counts.sum()
        codebook = sums / smoothed[:, None]
        whole(x)
        whole.update()
        halves(x[:15]), halves(x[15:])
        halves.update()
        torch.testing.assert_close(whole.codebook.detach(), codebook, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(halves.codebook, whole.codebook, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("use_ema_vq", [False, True])
def test_codes_survive_initialization_and_a_step(use_ema_vq):
    """The public EMA forgets its k-means and sends all items to one code after a step."""
    model = small(use_ema_vq=use_ema_vq, codebook_size=16)
    items = random(400, 24).float()
    model.fit_input_scale(items)
    model.initialize_codebooks(items, seed=0)
    before = model.encode(items)
    assert min(len(column.unique()) for column in before.T) >= 15
    model.train()
    model(items)
    for quantizer in model.quantizers:
        quantizer.update()
    after = model.encode(items)
    # The first level's centroids are the means of their rows already
    assert (before[:, 0] == after[:, 0]).float().mean() > 0.95
    assert len(torch.unique(after, dim=0)) > 0.9 * len(torch.unique(before, dim=0))


@pytest.mark.parametrize("kind", [VectorQuantizer, EMAVectorQuantizer])
def test_dead_codes_move_to_rows_and_stay_there(kind):
    quantizer = kind(8, 2)
    quantizer.set_codes(torch.arange(8), torch.full((8, 2), 100.0), torch.ones(8))
    quantizer.set_codes(torch.tensor([0]), torch.zeros(1, 2), torch.ones(1))
    x = random(50, 2).float()
    quantizer.train()(x)
    quantizer.update()
    assert quantizer.reset_dead_codes(x, torch.Generator().manual_seed(0)) == 7
    moved = quantizer.codebook.detach().clone()
    assert all((row == x).all(1).any() for row in moved[1:]) and len(moved[1:].unique(dim=0)) == 7
    assert quantizer.hits.sum() == 0
    quantizer(x)
    quantizer.update()
    assert (quantizer.hits > 0).all()
    assert (quantizer.codebook - moved).norm(
        dim=1
    ).max() < 1  # EMA does not pull them back to where they were


@pytest.mark.parametrize("kind", [VectorQuantizer, EMAVectorQuantizer])
def test_a_step_that_is_left_out_leaves_no_trace(kind):
    """Its inputs may be NaN, which moving averages would keep for good."""
    quantizer = kind(8, 2).train()
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(torch.full((50, 2), float("nan")))
    quantizer.forget()
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value, before[name]), name
    quantizer(random(50, 2).float())
    quantizer.update()
    assert quantizer.hits.sum() == 50 and quantizer.codebook.isfinite().all()


def test_reset_with_fewer_rows_than_dead_codes():
    quantizer = VectorQuantizer(8, 2)
    assert quantizer.reset_dead_codes(torch.ones(3, 2), torch.Generator()) == 3


def test_a_reload_changes_nothing():
    model = small(use_ema_vq=True)
    items = random(200, 24).float()
    model.fit_input_scale(items)
    model.initialize_codebooks(items, seed=0)
    copy = small(use_ema_vq=True)
    copy.load_state_dict(model.state_dict())
    for part in (model, copy):
        part.train()(items)
        for quantizer in part.quantizers:
            quantizer.update()
    for (name, a), b in zip(model.state_dict().items(), copy.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_kmeans_of_few_or_equal_rows(rows):
    x = random(rows, 3).float()
    centroids = kmeans(x, 16, seed=0)
    assert centroids.shape == (16, 3) and centroids.isfinite().all()
    assert len(centroids.unique(dim=0)) == 16
    same = kmeans(torch.ones(100, 3), 16, seed=0)
    assert same.isfinite().all()


def test_kmeans_repeats_with_its_seed():
    x = random(2000, 4).float()
    assert torch.equal(kmeans(x, 32, seed=1), kmeans(x, 32, seed=1))


def test_half_precision_quantizes_in_float32():
    model, x = small().eval(), random(64, 24).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
    assert all(loss.dtype == torch.float32 for loss in output.commitment_losses)
