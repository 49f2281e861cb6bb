"""A residual-quantized autoencoder: item embedding -> latent -> one code a level -> reconstruction.

1,411,872 parameters at the published sizes (1024 -> 512, 256, 128 -> 32, three levels of 256 codes).

Letters: B items, E embedding width, D latent width, K codes of a level, L levels.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training_utils import ALONE, World

SMALLEST_NORM = 1e-6  # a shorter residual has no direction


# ---------------------------------------------------------------- one level


def nearest_codes(x: Tensor, codebook: Tensor) -> Tensor:
    """(B, D), (K, D) -> (B) index of the nearest code; |x|^2 is the same for all codes and left out."""
    distances = torch.addmm(codebook.square().sum(1) / 2, x, codebook.T, alpha=-1)
    return distances.min(1).indices  # several times faster than argmin on a CPU


def code_sums(x: Tensor, codes: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """(B, D), (B) -> how many rows each code has (K), and the sum of them (K, D)."""
    counts = torch.bincount(codes, minlength=num_codes).to(x.dtype)
    return counts, x.new_zeros(num_codes, x.shape[1]).index_add_(0, codes, x)


class _Quantize(torch.autograd.Function):
    """Rows of the codebook in place of x, with closed-form gradients.

    Gives q (B, D) and mean |x - q|^2 twice: as codebook loss, whose gradient goes to the codes alone, and as
    commitment loss, whose gradient goes to x alone.
    """

    @staticmethod
    def forward(ctx, x: Tensor, codebook: Tensor, codes: Tensor, rotate: bool):
        q = codebook[codes]
        ctx.save_for_backward(x, q, codebook, codes)
        ctx.rotate = rotate
        ctx.set_materialize_grads(False)
        distance = F.mse_loss(q, x)
        return q, distance, distance.clone()

    @staticmethod
    def backward(ctx, grad_q, grad_codebook_loss, grad_commitment_loss):
        x, q, codebook, codes = ctx.saved_tensors
        grad_x = grad_codebook = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.zeros_like(x) if grad_q is None else take_back(x, q, grad_q, ctx.rotate)
            if grad_commitment_loss is not None:
                grad_x = grad_x + (x - q) * (grad_commitment_loss * 2 / x.numel())
        if ctx.needs_input_grad[1] and grad_codebook_loss is not None:
            counts, sums = code_sums(x, codes, len(codebook))
            grad_codebook = (counts[:, None] * codebook - sums) * (grad_codebook_loss * 2 / x.numel())
        return grad_x, grad_codebook, None, None


def take_back(x: Tensor, q: Tensor, gradient: Tensor, rotate: bool) -> Tensor:
    """The gradient at q as one at x: unchanged (straight-through), or by the rotation that takes x to q.

    Rotation trick (Fifty et al. 2024, arXiv 2410.06424, section 4.2): q = s R x with s = |q| / |x| and
    R = I - 2 r r^T + 2 v u^T, where u and v are the directions of x and q, and r that of u + v. Both are held
    constant, so the gradient is s R^T g. A row of x near zero has no direction and goes straight through.
    """
    if not rotate:
        return gradient
    length_x, length_q = x.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
    u, v = x / length_x.clamp(min=SMALLEST_NORM), q / length_q.clamp(min=SMALLEST_NORM)
    r = F.normalize(u + v, dim=1, eps=SMALLEST_NORM)
    along_r, along_v = (r * gradient).sum(1, keepdim=True), (v * gradient).sum(1, keepdim=True)
    turned = torch.addcmul(torch.addcmul(gradient, r, along_r, value=-2), u, along_v, value=2)
    turned = turned * (length_q / length_x.clamp(min=SMALLEST_NORM))
    return torch.where(length_x > SMALLEST_NORM, turned, gradient)


class VectorQuantizer(nn.Module):
    """A codebook learned by gradient. `hits` counts the rows of each code since the last reset, on all ranks.

    What a step sees counts once the step is made (`update`), or not at all (`forget`).
    """

    def __init__(self, num_codes: int, dim: int, rotate: bool = True) -> None:
        super().__init__()
        self.rotate = rotate
        self.codebook = nn.Parameter(torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes))
        self.register_buffer("hits", torch.zeros(num_codes, dtype=torch.int64))
        # Of the running step: its micro-batches add up, so that accumulation equals the large batch.
        self.register_buffer("step_hits", torch.zeros_like(self.hits), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, D) -> q (B, D), codes (B), codebook loss, commitment loss. Computed in at least float32."""
        codes = nearest_codes(x.detach(), self.codebook.detach())
        q, codebook_loss, commitment_loss = _Quantize.apply(x, self.codebook, codes, self.rotate)
        if self.training:
            self.observe(x.detach(), codes)
        return q, codes, codebook_loss, commitment_loss

    def observe(self, x: Tensor, codes: Tensor) -> None:
        self.step_hits.index_add_(0, codes, torch.ones_like(codes))  # bincount would wait for a GPU

    @torch.no_grad()
    def update(self, world: World = ALONE) -> None:
        """Called after each optimizer step."""
        self.hits += world.sum(self.step_hits)
        self.forget()

    def forget(self) -> None:
        """Called after `update`, and in its place where a step was left out."""
        self.step_hits.zero_()

    @torch.no_grad()
    def set_codes(self, numbers: Tensor, vectors: Tensor, counts: Tensor) -> None:
        """Put `vectors` (M, D), each standing for `counts` (M) rows, in place of the codes `numbers` (M)."""
        self.codebook[numbers] = vectors.to(self.codebook.dtype)

    @torch.no_grad()
    def reset_dead_codes(self, x: Tensor, generator: torch.Generator) -> int:
        """Codes that no row had since the last reset move to random rows of x (B, D); returns how many.

        All ranks have to bring the same x and generator.
        """
        dead = (self.hits == 0).nonzero().squeeze(1)[: len(x)]
        self.hits.zero_()
        if len(dead):
            rows = torch.randperm(len(x), generator=generator)[: len(dead)].to(x.device)
            self.set_codes(dead, x[rows], torch.ones(len(dead), device=x.device))
        return len(dead)


class EMAVectorQuantizer(VectorQuantizer):
    """A codebook of moving averages: each code is the mean of the rows it had (van den Oord et al. 2017,
    arXiv 1711.00937, appendix A.1), with Laplace-smoothed counts. It has no gradient and no codebook loss.
    """

    def __init__(
        self, num_codes: int, dim: int, rotate: bool = True, decay: float = 0.99, epsilon: float = 1e-5
    ) -> None:
        super().__init__(num_codes, dim, rotate)
        self.decay, self.epsilon = decay, epsilon
        self.codebook.requires_grad_(False)
        self.register_buffer("counts", torch.ones(num_codes))  # moving average of rows a step
        self.register_buffer("sums", self.codebook.detach().clone())
        self.register_buffer("step_counts", torch.zeros(num_codes), persistent=False)
        self.register_buffer("step_sums", torch.zeros(num_codes, dim), persistent=False)

    def observe(self, x: Tensor, codes: Tensor) -> None:
        counts, sums = code_sums(x.float(), codes, len(self.codebook))
        self.step_hits += counts.long()
        self.step_counts += counts
        self.step_sums += sums

    @torch.no_grad()
    def update(self, world: World = ALONE) -> None:
        counts, sums = world.sum(self.step_counts.clone()), world.sum(self.step_sums.clone())
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        super().update(world)
        total = self.counts.sum()
        smoothed = (self.counts + self.epsilon) / (total + len(self.counts) * self.epsilon) * total
        # A code that never had a row would be 0 / 0: it stays where it is.
        alive = (self.counts > self.epsilon)[:, None]
        self.codebook.copy_(torch.where(alive, self.sums / smoothed[:, None], self.codebook))

    def forget(self) -> None:
        super().forget()
        self.step_counts.zero_()
        self.step_sums.zero_()

    @torch.no_grad()
    def set_codes(self, numbers: Tensor, vectors: Tensor, counts: Tensor) -> None:
        super().set_codes(numbers, vectors, counts)
        self.counts[numbers] = counts.to(self.counts.dtype)
        self.sums[numbers] = self.codebook[numbers] * self.counts[numbers, None]


# ---------------------------------------------------------------- the autoencoder


@dataclass
class RQVAEOutput:
    """What one pass gives. Losses are means over the batch in the scaled space."""

    decoded: Tensor  # (B, E), in the scaled space; `RQVAE.unscale` brings it back
    codes: Tensor  # (B, L)
    reconstruction_loss: Tensor
    codebook_losses: list[Tensor] = field(default_factory=list)  # by level; none with EMA
    commitment_losses: list[Tensor] = field(default_factory=list)
    residual_norm: Tensor | None = None  # mean length of what the last level leaves


class RQVAE(nn.Module):
    """MLP encoder, residual quantization, MLP decoder (Lee et al. 2022, arXiv 2203.01941; Rajput et al. 2023,
    arXiv 2305.05065).

    `input_mean` (E) and `input_scale` bring embeddings to mean 0 and unit variance before the encoder, and
    the decoder's output back. Unit-length embeddings of 1,024 numbers have a variance of 1e-3: unscaled,
    their loss is so flat that codes learn next to nothing.
    """

    def __init__(
        self,
        item_embedding_dim: int = 1024,
        encoder_hidden_dims: tuple[int, ...] = (512, 256, 128),
        codebook_embedding_dim: int = 32,
        codebook_quantization_levels: int = 3,
        codebook_size: int = 256,
        commitment_weight: float = 0.25,
        use_rotation_trick: bool = True,
        use_ema_vq: bool = False,
        ema_decay: float = 0.99,
        ema_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.commitment_weight, self.use_ema_vq = commitment_weight, use_ema_vq
        sizes = [item_embedding_dim, *encoder_hidden_dims, codebook_embedding_dim]
        self.encoder, self.decoder = mlp(sizes), mlp(sizes[::-1])
        shape = codebook_size, codebook_embedding_dim, use_rotation_trick
        self.quantizers = nn.ModuleList(
            EMAVectorQuantizer(*shape, ema_decay, ema_epsilon) if use_ema_vq else VectorQuantizer(*shape)
            for _ in range(codebook_quantization_levels)
        )
        self.register_buffer("input_mean", torch.zeros(item_embedding_dim))
        self.register_buffer("input_scale", torch.ones(()))

    @torch.no_grad()
    def fit_input_scale(self, embeddings: Tensor) -> None:
        """Centre on the mean of (N, E) and divide by one number, so that directions stay as they are."""
        mean = embeddings.double().mean(0)
        deviation = (embeddings.double() - mean).square().mean().sqrt().clamp(min=1e-12)
        self.input_mean.copy_(mean)
        self.input_scale.copy_(1 / deviation)

    def scale(self, embeddings: Tensor) -> Tensor:
        return (embeddings - self.input_mean).mul_(self.input_scale)

    def unscale(self, x: Tensor) -> Tensor:
        return x.to(self.input_mean.dtype) / self.input_scale + self.input_mean

    def forward(self, embeddings: Tensor, noise: Tensor | None = None) -> RQVAEOutput:
        """(B, E) -> RQVAEOutput. The encoder sees `noise` (B, E) on the scaled embeddings, the loss not: a
        denoising autoencoder (Vincent et al. 2008, ICML), which brings neighbours to the same codes.
        """
        x = self.scale(embeddings)
        latent = self.encoder(x if noise is None else x + noise)
        quantized, codes, codebook_losses, commitment_losses, residual = self.quantize(latent)
        decoded = self.decoder(quantized)
        return RQVAEOutput(
            decoded=decoded.detach(),
            codes=codes,
            reconstruction_loss=F.mse_loss(decoded.to(x.dtype), x),
            codebook_losses=codebook_losses,
            commitment_losses=commitment_losses,
            residual_norm=residual.detach().norm(dim=1).mean(),
        )

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor], Tensor]:
        """(B, D) -> sum of the levels' codes (B, D), their numbers (B, L), both losses a level, what is left.

        Half-precision distances would mistake near codes for each other: this part runs in float32.
        """
        with torch.autocast(latent.device.type, enabled=False):
            residual = latent.to(torch.promote_types(latent.dtype, torch.float32))
            quantized, codes, codebook_losses, commitment_losses = 0, [], [], []
            for quantizer in self.quantizers:
                q, numbers, codebook_loss, commitment_loss = quantizer(residual)
                quantized, residual = quantized + q, residual - q.detach()
                codes.append(numbers)
                commitment_losses.append(commitment_loss)
                if not self.use_ema_vq:
                    codebook_losses.append(codebook_loss)
        return quantized, torch.stack(codes, 1), codebook_losses, commitment_losses, residual

    def loss(self, output: RQVAEOutput) -> tuple[Tensor, Tensor]:
        """Total loss, and its part from quantization: codebook + weight * commitment, over levels."""
        vq = self.commitment_weight * torch.stack(output.commitment_losses).sum()
        if output.codebook_losses:
            vq = vq + torch.stack(output.codebook_losses).sum()
        return output.reconstruction_loss + vq, vq

    @torch.no_grad()
    def encode(self, embeddings: Tensor) -> Tensor:
        """(B, E) -> codes (B, L)."""
        residual, codes = self.encoder(self.scale(embeddings)).to(self.input_mean.dtype), []
        for quantizer in self.quantizers:
            codes.append(nearest_codes(residual, quantizer.codebook))
            residual = residual - quantizer.codebook[codes[-1]]
        return torch.stack(codes, 1)

    @torch.no_grad()
    def last_residual(self, embeddings: Tensor, codes: Tensor) -> Tensor:
        """(B, E), (B, L) -> what all levels but the last leave of the latents (B, D)."""
        residual = self.encoder(self.scale(embeddings)).to(self.input_mean.dtype)
        for quantizer, numbers in zip(self.quantizers[:-1], codes.T, strict=False):
            residual = residual - quantizer.codebook[numbers]
        return residual

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, L), or the first few levels of them, -> embeddings (B, E)."""
        levels = zip(self.quantizers, codes.unbind(1), strict=False)
        return self.unscale(self.decoder(sum(quantizer.codebook[numbers] for quantizer, numbers in levels)))

    @torch.no_grad()
    def initialize_codebooks(self, embeddings: Tensor, seed: int, world: World = ALONE) -> None:
        """k-means on the latents of (N, E), then on what each level leaves. Ranks take rank 0's result."""
        residual = self.encoder(self.scale(embeddings)).float()
        for level, quantizer in enumerate(self.quantizers):
            centroids = torch.zeros_like(quantizer.codebook)
            if world.is_main:
                centroids.copy_(kmeans(residual, len(centroids), seed + level))
            centroids = world.sum(centroids)
            codes = nearest_codes(residual, centroids)
            counts, _ = code_sums(residual, codes, len(centroids))
            numbers = torch.arange(len(centroids), device=residual.device)
            quantizer.set_codes(numbers, centroids, counts)
            residual = residual - quantizer.codebook[codes]


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers of these sizes with SiLU between them."""
    layers = [module for a, b in pairwise(sizes) for module in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


def kmeans(x: Tensor, num_codes: int, seed: int, iterations: int = 25) -> Tensor:
    """(N, D) -> centroids (K, D), by FAISS. Of fewer distinct rows than codes, some repeat, jittered."""
    import faiss

    rows = x.float().cpu().contiguous().numpy()
    distinct = torch.unique(x.float().cpu(), dim=0) if len(x) < 20 * num_codes else x
    if len(distinct) <= num_codes:
        generator = torch.Generator().manual_seed(seed)
        spare = torch.randint(len(distinct), (num_codes - len(distinct),), generator=generator)
        jitter = 1e-3 * distinct.std().nan_to_num().clamp(min=1e-6)
        jittered = distinct[spare] + jitter * torch.randn(len(spare), x.shape[1], generator=generator)
        return torch.cat((distinct, jittered)).to(x.device)
    found = faiss.Kmeans(
        x.shape[1],
        num_codes,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(x),
    )
    found.train(rows)
    return torch.from_numpy(found.centroids).to(x.device)
