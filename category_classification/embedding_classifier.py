"""The compact encoder (10 blocks, RoPE, grouped-query attention, SwiGLU) and its v1 classification head.

80,034,054 parameters at the Qwen3 vocabulary of 151,669 tokens and six classes, 72.8 % of them token
embeddings.

Letters: B texts, T tokens, D hidden width, H query heads, K key-value heads, C classes. Where the batch is
packed, (B, T, ...) reads (N, ...): see token_layout.py.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from category_classification.token_layout import PackedTokens, PaddedTokens, at_least_fp32, lay_out

Tokens = PaddedTokens | PackedTokens


@dataclass(frozen=True)
class EncoderConfig:
    vocab_size: int = 151_669
    hidden_size: int = 384
    num_layers: int = 10
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    mlp_ratio: int = 4
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    embedding_dropout: float = 0.0
    max_drop_path: float = 0.1
    gamma_init: float = 1e-2
    sparse_embedding_gradient: bool = False  # for --embedding_update rows


class RotaryEmbedding(nn.Module):
    """Rotate-half position encoding (Su et al. 2021, arXiv 2104.09864); angles in fp32."""

    def __init__(self, head_size: int, theta: float) -> None:
        super().__init__()
        frequencies = theta ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (T) -> cosines and sines, each (T, 1, head_size / 2)."""
        angles = positions.float()[:, None, None] * self.frequencies
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, T, heads, head_size), turned by its position; computed in fp32."""
    x1, x2 = at_least_fp32(x).chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


class Attention(nn.Module):
    """Bidirectional attention in which H / K query heads share a key-value head (Ainslie et al. 2023)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        kv_size = config.num_key_value_heads * self.head_size
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, tokens: Tokens, rope: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_size))  # (B, T, H or K, head_size)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = tokens.attend(rotate(q, *rope), rotate(k, *rope), v)
        return self.o_proj(out.flatten(-2))  # (B, T, D)


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class EncoderBlock(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.attention_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.attention = Attention(config)
        self.gamma_attn = nn.Parameter(torch.full((size,), config.gamma_init))
        self.mlp_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(size, config.mlp_ratio * size)
        self.gamma_mlp = nn.Parameter(torch.full((size,), config.gamma_init))

    def forward(
        self, x: Tensor, tokens: Tokens, rope: tuple[Tensor, Tensor], keep: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """`keep` holds DropPath's factor of each text for the two branches, None outside training."""
        keep_attn, keep_mlp = keep or (1.0, 1.0)
        x = x + self.gamma_attn * keep_attn * self.attention(self.attention_norm(x), tokens, rope)
        return x + self.gamma_mlp * keep_mlp * self.mlp(self.mlp_norm(x))


class EmbeddingEncoder(nn.Module):
    """Token ids -> one vector a text: embeddings, blocks, masked mean. Shared by all heads."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, sparse=config.sparse_embedding_gradient
        )
        self.embedding_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.rotary = RotaryEmbedding(config.hidden_size // config.num_attention_heads, config.rope_theta)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        last = max(1, config.num_layers - 1)
        self.drop_path_rates = [config.max_drop_path * i / last for i in range(config.num_layers)]
        self.final_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.apply(init_weights)

    @torch.no_grad()
    def silence_unseen(self, seen: Tensor) -> None:
        """Zero the rows of tokens that training never shows (`seen` (V) is False): RMSNorm would blow their
        random initial values up to the size of learned ones, and a new text would carry that noise.
        """
        self.embeddings.weight[~seen] = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) ids and mask (1 on real tokens) -> (B, D). Every text needs at least one real token."""
        x, tokens = self.hidden_states(input_ids, attention_mask)
        return tokens.mean(x)

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tokens]:
        """(B, T) -> features of each token after the final norm, (B, T, D) or packed, and their layout."""
        tokens = lay_out(attention_mask)
        # RMSNorm cancels the scale but for its eps; it stays because the published architecture has it.
        x = self.embeddings(tokens.pack(input_ids)) * math.sqrt(self.config.hidden_size)
        x = self.embedding_dropout(self.embedding_norm(x))
        rope = self.rotary(tokens.positions)
        for block, rate in zip(self.blocks, self.drop_path_rates, strict=True):
            keep = (drop_path(rate, tokens, x), drop_path(rate, tokens, x)) if self.training else None
            x = block(x, tokens, rope, keep)
        return self.final_norm(x), tokens


def drop_path(rate: float, tokens: Tokens, like: Tensor) -> Tensor:
    """Factors that drop a residual branch for a share `rate` of the texts and scale up the others' (Huang
    et al. 2016). Drawn per text outside the block, so that all blocks compile to one graph."""
    kept = torch.empty(tokens.num_rows, device=like.device).bernoulli_(1 - rate)
    return tokens.per_row(kept / (1 - rate))


class MLPHead(nn.Module):
    """v1's head: dropout, Linear, GELU, dropout, Linear."""

    def __init__(self, hidden_size: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.apply(init_weights)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        return self.output(self.dropout(F.gelu(self.dense(self.dropout(features)))))


class EmbeddingClassifier(nn.Module):
    def __init__(self, config: EncoderConfig, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = EmbeddingEncoder(config)
        self.head = MLPHead(config.hidden_size, num_classes, dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T), (B, T) -> logits (B, C)."""
        return self.head(self.encoder(input_ids, attention_mask))


def init_weights(module: nn.Module) -> None:
    """Normal(0, 0.02) for matrices, zero for biases; norms and gammas keep their own."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
