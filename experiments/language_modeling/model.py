"""A decoder-only GPT of GPT-2's shape.

    B windows    T tokens    D hidden    H heads    V vocabulary

`body` and `head` are what precision.py casts and runs in formats of their own; so the head does not share the
token embedding's weights, which could have one format only. At 12 layers of 768 and V = 50,304 the body has
124.5M parameters, as GPT-2 small with its tied head, and the head 38.6M more.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.02


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    block_size: int = 1024
    num_layers: int = 12
    hidden_size: int = 768
    num_heads: int = 12
    dropout: float = 0.0


class Attention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3, H, D / H)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, T, D)


class FeedForward(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.out = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Decoder(nn.Module):
    """(B, T) ids -> (B, T, D)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.block_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.dropout(self.token_embedding(input_ids) + self.position_embedding(positions))  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class GPT(nn.Module):
    """`body` (a Decoder) and `head` (D -> V)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.body = Decoder(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                # 2 L layers add to the residual stream; the scale keeps its variance that of one
                depth = math.sqrt(2 * config.num_layers) if name.endswith(".out") else 1.0
                nn.init.normal_(module.weight, std=INIT_STD / depth)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) -> logits (B, T, V)."""
        return self.head(self.body(input_ids))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over B x T tokens, in the logits' format."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def head_flops_share(config: GPTConfig) -> float:
    """Of a token's multiplications; attention counts half, as it is causal."""
    per_token = 12 * config.hidden_size**2 + config.block_size * config.hidden_size
    head = config.hidden_size * config.vocab_size
    return head / (config.num_layers * per_token + head)
