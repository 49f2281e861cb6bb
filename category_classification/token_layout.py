"""How a batch of texts lies in memory while the encoder works on it.

`PaddedTokens` keeps (B, T) rows and masks the padding; `PackedTokens` lays all real tokens in one line of N,
so that no layer but attention sees padding: that is CUDA's variable-length kernel, or unpacks for itself.
Both answer the same six questions, so a block never asks which one it has.

Letters: B texts, T tokens of the longest, N real tokens in all, H query heads, K key-value heads, D head
width.
"""

import inspect
import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an older or a CPU-only build
    varlen_attn = None

# PyTorch 2.11's kernel wants a key-value head a query head; later ones share them.
SHARES_HEADS = varlen_attn is not None and "enable_gqa" in inspect.signature(varlen_attn).parameters
LONGEST_FP32_ATTENTION = 64  # tokens: up to here a CPU's bfloat16 SDPA is 3-4x slower backward than float32
GROUP_ROWS = 16
SIZE_STEP = 64  # a CPU's matrix product is compiled for each new number of tokens: let there be few


def at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PaddedTokens:
    """Rows padded to the longest; `mask` is True on real tokens."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask.bool()  # (B, T)
        # On a CPU attention is faster without a mask; an exported graph may not depend on the batch's values.
        look = mask.device.type == "cpu" and not torch.compiler.is_exporting()
        self.attention_mask = None if look and bool(self.mask.all()) else self.mask[:, None, None, :]
        self.positions = torch.arange(mask.shape[1], device=mask.device)  # (T)
        self.num_rows = mask.shape[0]

    def pack(self, values: Tensor) -> Tensor:
        return values  # (B, T)

    def per_row(self, values: Tensor) -> Tensor:
        """(B) -> (B, 1, 1), to multiply token features with."""
        return values[:, None, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Bidirectional grouped-query attention: (B, T, H, D), (B, T, K, D) x2 -> (B, T, H, D)."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, heads, T, D)
        dtype = v.dtype
        if q.device.type == "cpu":
            if q.requires_grad and dtype != torch.float32 and q.shape[2] > LONGEST_FP32_ATTENTION:
                return self._attend_plainly(q.to(dtype), k.to(dtype), v).transpose(1, 2)
            if q.requires_grad:
                q, k, v = at_least_fp32(q), at_least_fp32(k), at_least_fp32(v)
            else:
                q, k = q.to(dtype), k.to(dtype)
            with torch.autocast("cpu", enabled=False):
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.attention_mask, enable_gqa=True)
            return out.transpose(1, 2).to(dtype)
        groups = q.shape[1] // k.shape[1]  # fused kernels with a mask want one key head a query head
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        out = F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), v, attn_mask=self.attention_mask)
        return out.transpose(1, 2)

    def _attend_plainly(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Two matrix products and a softmax: the fast bfloat16 backward on a CPU."""
        groups = q.shape[1] // k.shape[1]
        q = q.unflatten(1, (k.shape[1], groups))  # (B, K, H / K, T, D)
        scores = q @ k.unsqueeze(2).mT / math.sqrt(q.shape[-1])  # (B, K, H / K, T, T)
        if self.attention_mask is not None:
            scores = scores.masked_fill(~self.attention_mask.unsqueeze(2), float("-inf"))
        out = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v.unsqueeze(2)
        return out.flatten(1, 2)

    def mean(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D) over real tokens, summed in fp32."""
        mask = self.mask.unsqueeze(-1)
        return (at_least_fp32(x) * mask).sum(1) / mask.sum(1).clamp(min=1)


class RowGroup:
    """Some rows of a packed batch, padded to their own longest for attention."""

    def __init__(self, mask: Tensor, start: int) -> None:
        longest = int(mask.sum(1).max())
        mask = mask[:, :longest]
        self.padded, self.shape = PaddedTokens(mask), mask.shape
        self.kept = mask.flatten().nonzero().squeeze(1)  # (n)
        self.own = slice(start, start + len(self.kept))  # of the packed line

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, H, D), (N, K, D) x2 -> (n, H, D), of this group's tokens."""
        q, k, v = (self._unpack(x[self.own]) for x in (q, k, v))
        return self.padded.attend(q, k, v).flatten(0, 1)[self.kept]

    def _unpack(self, x: Tensor) -> Tensor:
        """(n, ...) -> (rows, T, ...), zero where there is no token."""
        rows = x.new_zeros(self.shape.numel(), *x.shape[1:]).index_copy(0, self.kept, x)
        return rows.unflatten(0, self.shape)


def row_groups(mask: Tensor) -> Iterator[RowGroup]:
    """Rows of a batch in runs of 16: where they are sorted by length, each run has little padding."""
    start = 0
    for rows in mask.split(GROUP_ROWS):
        yield RowGroup(rows, start)
        start += int(rows.sum())


class PackedTokens:
    """Real tokens only, one text after the other; on a CPU a few copies of the first one fill up the line,
    which no other token sees and no text counts.
    """

    def __init__(self, mask: Tensor) -> None:
        mask = mask.bool()
        self.groups = [] if mask.is_cuda else list(row_groups(mask))
        self.num_rows, self.longest = mask.shape
        kept = mask.flatten().nonzero().squeeze(1)
        self.real = len(kept)
        # Never 0, or compiled blocks would need a second graph for that case.
        self.spare = SIZE_STEP - self.real % SIZE_STEP if self.groups else 0
        self.kept = torch.cat((kept, kept[:1].expand(self.spare)))  # (N), spare tokens included
        self.lengths = mask.sum(1)  # (B)
        self.row_of = self.kept // self.longest  # (N)
        self.positions = self.kept % self.longest  # (N)
        self.boundaries = F.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)  # (B + 1)

    def pack(self, values: Tensor) -> Tensor:
        return values.flatten()[self.kept]  # (B, T) -> (N)

    def per_row(self, values: Tensor) -> Tensor:
        return values[self.row_of].unsqueeze(-1)  # (B) -> (N, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, H, D), (N, K, D) x2 -> (N, H, D)."""
        if self.groups:
            found = [group.attend(q, k, v) for group in self.groups]
            return torch.cat((*found, v.new_zeros(self.spare, *q.shape[1:])))
        q, k, options = q.to(v.dtype), k.to(v.dtype), {"enable_gqa": True}
        if not SHARES_HEADS:
            groups, options = q.shape[1] // k.shape[1], {}
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        places = self.boundaries, self.boundaries, self.longest, self.longest
        return varlen_attn(q, k, v, *places, **options)

    def mean(self, x: Tensor) -> Tensor:
        x = at_least_fp32(x[: self.real])
        total = x.new_zeros(self.num_rows, x.shape[-1]).index_add(0, self.row_of[: self.real], x)
        return total / self.lengths.clamp(min=1).unsqueeze(-1)


def lay_out(mask: Tensor) -> PaddedTokens | PackedTokens:
    """Packed under CUDA's fp16 or bf16 autocast, and on a CPU where a tenth of the batch would be padding."""
    if mask.is_cuda:
        half = torch.is_autocast_enabled("cuda") and varlen_attn is not None
        return PackedTokens(mask) if half else PaddedTokens(mask)
    if mask.device.type == "cpu" and not torch.compiler.is_exporting():
        return PackedTokens(mask) if mask.sum() < 0.9 * mask.numel() else PaddedTokens(mask)
    return PaddedTokens(mask)
