"""Measures of a set of IDs and of their codebooks. N items, L levels, K codes a level."""

import torch
from torch import Tensor


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
