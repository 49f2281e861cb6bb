"""Measures of a set of IDs and of their codebooks. N items, L levels, K codes a level."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_ids.rqvae import RQVAE

ITEMS_AT_ONCE = 16_384


def pack(codes: Tensor, num_codes: int) -> Tensor:
    """(N, L) -> (N) one int64 an ID, so that counting IDs is counting numbers."""
    if num_codes ** codes.shape[1] >= 2**63:
        raise ValueError(f"{codes.shape[1]} levels of {num_codes} codes do not fit into 63 bits")
    packed = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    for level in codes.unbind(1):
        packed = packed * num_codes + level
    return packed


def unique_ids_proportion(codes: Tensor, num_codes: int) -> float:
    """Distinct IDs over items."""
    return len(torch.unique(pack(codes, num_codes))) / max(1, len(codes))


def code_counts(codes: Tensor, num_codes: int) -> Tensor:
    """(N, L) -> items of each code, (L, K)."""
    return torch.stack([torch.bincount(level, minlength=num_codes) for level in codes.unbind(1)])


def usage(counts: Tensor) -> list[float]:
    """Share of the codes that an item has, by level."""
    return (counts > 0).double().mean(1).tolist()


def perplexity(counts: Tensor) -> list[float]:
    """exp of the entropy of the code distribution, by level: how many codes are in effective use."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.special.entr(shares).sum(1).exp().tolist()


@torch.no_grad()
def measure_items(model: RQVAE, items: Tensor, rows: Tensor, num_codes: int) -> dict[str, Any]:
    """Loss, reconstruction and IDs over the `rows` of (N, E) `items`, by the names they are logged under."""
    was_training, device = model.training, items.device
    model.eval()
    loss, cosine, residual, codes = 0.0, 0.0, 0.0, []
    for part in rows.split(ITEMS_AT_ONCE):
        batch = items[part.to(device)]
        output = model(batch)
        loss += float(model.loss(output)[0]) * len(part)
        cosine += float(F.cosine_similarity(model.unscale(output.decoded), batch).sum())
        residual += float(output.residual_norm) * len(part)
        codes.append(output.codes)
    model.train(was_training)
    codes = torch.cat(codes)
    counts = code_counts(codes, num_codes)
    measures = {
        "loss/validation": loss / len(rows),
        "metrics/avg_residual_norm": residual / len(rows),
        "metrics/reconstruction_cosine": cosine / len(rows),
        "metrics/unique_ids_proportion": unique_ids_proportion(codes, num_codes),
    }
    for level, (share, effective) in enumerate(zip(usage(counts), perplexity(counts), strict=True)):
        measures[f"metrics/codebook_usage_level_{level}"] = share
        measures[f"metrics/codebook_perplexity_level_{level}"] = effective
    return measures
