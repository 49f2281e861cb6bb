"""rqvae.py against public implementations: vector-quantize-pytorch's indices and gradients, scikit-learn's
k-means."""

import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn import functional as F

from semantic_ids.benchmark_peers import draw_latents
from semantic_ids.rqvae import RQVAE, EMAVectorQuantizer, kmeans

LEVELS, CODES, WIDTH = 3, 64, 16


def residual_vq(model, **options):
    """The public quantizer with the codebooks of ours."""
    from vector_quantize_pytorch import ResidualVQ

    peer = ResidualVQ(dim=WIDTH, num_quantizers=LEVELS, codebook_size=CODES, **options)
    for layer, quantizer in zip(peer.layers, model.quantizers, strict=True):
        layer._codebook.embed.data.copy_(quantizer.codebook[None])
        layer._codebook.embed_avg.data.copy_(quantizer.codebook[None])
    return peer


@pytest.fixture
def latents():
    return torch.randn(4000, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(latents):
    torch.manual_seed(0)
    model = RQVAE(WIDTH, (WIDTH,), WIDTH, LEVELS, CODES)
    model.encoder = torch.nn.Identity()
    model.initialize_codebooks(latents, seed=0)
    return model


def test_indices_and_sums_are_those_of_residual_vq(model, latents):
    quantized, codes, *_ = model.eval().quantize(latents)
    expected, indices, _ = residual_vq(model).eval()(latents[None])
    assert torch.equal(codes, indices[0]) and len(codes.unique(dim=0)) > 3000
    torch.testing.assert_close(quantized, expected[0])
    assert torch.equal(model.encode(latents), codes)


@pytest.mark.parametrize("rotate", [True, False])
def test_gradients_are_those_of_residual_vq(model, latents, rotate):
    for quantizer in model.quantizers:
        quantizer.rotate = rotate
    peer = residual_vq(model, rotation_trick=rotate, commitment_weight=0.25, ema_update=False)
    ours, theirs = (latents.clone().requires_grad_() for _ in range(2))
    weight = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    quantized, _, _, commitment, _ = model.quantize(ours)
    ((quantized * weight).sum() + 0.25 * torch.stack(commitment).sum()).backward()
    quantized, _, losses = peer.train()(theirs[None])
    ((quantized[0] * weight).sum() + losses.sum()).backward()
    torch.testing.assert_close(torch.stack(commitment).sum() * 0.25, losses.sum())
    # At the code of a single row nothing is left: the public gradient there is some 1e6, ours goes through.
    residual, apart = latents, torch.ones(len(latents), dtype=torch.bool)
    for quantizer, numbers in zip(model.quantizers, model.encode(latents).T, strict=True):
        apart &= residual.norm(dim=1) > 1e-3
        residual = residual - quantizer.codebook[numbers].detach()
    assert apart.sum() > 3990 and ours.grad.isfinite().all()
    torch.testing.assert_close(ours.grad[apart], theirs.grad[apart], atol=1e-4, rtol=1e-4)


def test_moving_averages_are_those_of_vector_quantize(latents):
    from vector_quantize_pytorch import VectorQuantize

    peer = VectorQuantize(dim=WIDTH, codebook_size=CODES, decay=0.9, eps=1e-5)
    ours = EMAVectorQuantizer(CODES, WIDTH, decay=0.9, epsilon=1e-5)
    codebook = peer._codebook
    ours.codebook.copy_(codebook.embed[0])
    ours.counts.copy_(codebook.cluster_size[0])
    ours.sums.copy_(codebook.embed_avg[0])
    for x in latents.split(1000):
        _, codes, *_ = ours(x)
        ours.update()
        _, indices, _ = peer(x[None])
        assert torch.equal(codes, indices[0])
        torch.testing.assert_close(ours.counts, codebook.cluster_size[0])
        torch.testing.assert_close(ours.codebook.detach(), codebook.embed[0], atol=1e-5, rtol=1e-4)


def test_kmeans_inertia_is_that_of_scikit_learn():
    x = draw_latents(4000)
    inertia = float(torch.cdist(x, kmeans(x, 64, seed=0)).amin(1).square().sum())
    assert inertia < 1.01 * KMeans(64, n_init=10, random_state=0).fit(x.numpy()).inertia_


def test_codebook_loss_moves_codes_to_their_rows(model, latents):
    """Each code's gradient is that of the mean squared distance to its rows, as autograd has it."""
    quantizer = model.quantizers[0]
    _, codes, codebook_loss, _ = quantizer(latents)
    codebook_loss.backward()
    table = quantizer.codebook.detach().requires_grad_()
    F.mse_loss(table[codes], latents).backward()
    torch.testing.assert_close(quantizer.codebook.grad, table.grad)
