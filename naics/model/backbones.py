"""What turns the texts of a channel into vectors: a pretrained transformer with LoRA, or a bag of n-grams.

N texts of T tokens at most, width W, C channels. Both have `width`, and `forward(tokens, channel) -> (N, W)`,
where `channel` (N,) names each text's channel and rises.
"""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naics.data.tokenization_cache import Tokens
from training_utils import InputError

# Of texts that are read at once: their padded tokens, and how much longer the longest may be than the
# shortest. A GPU would rather pad than be called again.
PADDED_TOKENS = {"cpu": 8192, "cuda": 65_536}
LONGEST_TO_SHORTEST = {"cpu": 1.25, "cuda": 4.0}
QUERY_OR_VALUE = re.compile(r"(^|[._])(q|v|query|value|q_proj|v_proj|q_lin|v_lin)$")


class NgramBackbone(nn.Module):
    """TF-IDF weighted sum of learned n-gram vectors, then a matrix of the channel's own; needs no weights.

    At its random start the vectors are nearly orthogonal, so that products are those of TF-IDF vectors:
    training begins at a lexical baseline.
    """

    def __init__(self, buckets: int, width: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.width, self.dropout = width, dropout
        self.table = nn.EmbeddingBag(buckets, width, mode="sum")
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.adapters = nn.Parameter(torch.eye(width).repeat(channels, 1, 1))
        self.register_buffer("idf", torch.ones(buckets))

    @torch.no_grad()
    def fit_idf(self, tokens: Tokens) -> None:
        """Weights log(1 + texts / texts with the n-gram), from the texts that training may see."""
        texts = int((tokens.lengths > 0).sum())
        found = np.bincount(tokens.ids, minlength=len(self.idf))  # ids are distinct within a text
        self.idf.copy_(torch.from_numpy(np.log(1 + texts / (1 + found))))

    def forward(self, tokens: Tokens, channel: np.ndarray) -> Tensor:
        """In one bag: each call of its own would cost a gradient of the whole table."""
        ids, weights, offsets = self.weigh(tokens)
        if self.training and self.dropout:
            weights = nn.functional.dropout(weights, self.dropout)
        with torch.autocast(ids.device.type, enabled=False):
            features = self.table(ids, offsets, per_sample_weights=weights)
            parts = features.split(np.bincount(channel, minlength=len(self.adapters)).tolist())
            return torch.cat([part @ own for part, own in zip(parts, self.adapters, strict=True)])

    def weigh(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """ids, weights of norm 1 a text, and the place where each text starts."""
        device = self.idf.device
        ids = torch.from_numpy(tokens.ids).to(device)
        weights = (1 + torch.from_numpy(tokens.counts).to(device).log()) * self.idf[ids]
        text = torch.repeat_interleave(torch.from_numpy(tokens.lengths)).to(device)
        squared = torch.zeros(len(tokens), device=device).index_add_(0, text, weights.square())
        return (
            ids,
            weights / squared.sqrt().clamp(min=1e-6)[text],
            torch.from_numpy(tokens.offsets[:-1]).to(device),
        )


class TransformerBackbone(nn.Module):
    """A frozen transformers encoder with LoRA on queries and values (Hu et al. 2022, arXiv 2106.09685), an
    adapter a channel; masked mean pooling, length 1. `dropout` is LoRA's, and the only one.
    """

    def __init__(self, name: str, channels: tuple[str, ...], r: int, alpha: int, dropout: float) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel

        try:
            body = AutoModel.from_pretrained(name, dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{name}: no model to be had ({reason}); give model.base_model_name a local folder"
            ) from None
        if body.config._attn_implementation == "sdpa":  # MPNet, for one, has its own
            use_attention(body)
        targets = lora_targets(body)
        config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
        self.body = get_peft_model(body, config, adapter_name=channels[0])
        for channel in channels[1:]:
            self.body.add_adapter(channel, config)
        self.channels, self.width = channels, body.config.hidden_size
        self.pad = body.config.pad_token_id or 0
        self.train_all_adapters()

    def train(self, mode: bool = True) -> "TransformerBackbone":
        """Dropout in the frozen part would only be noise, and its attention would write out all scores."""
        super().train(mode)
        self.body.eval()
        for name, module in self.body.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def compile_body(self) -> None:
        self.body.compile(dynamic=True)

    def use_adapter(self, channel: int) -> None:
        self.body.set_adapter(self.channels[channel])
        self.train_all_adapters()

    def train_all_adapters(self) -> None:
        """Switching adapters freezes the others, whose gradients a step needs as well."""
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_("lora_" in name)

    def forward(self, tokens: Tokens, channel: np.ndarray) -> Tensor:
        return torch.cat(
            [
                self.read(tokens.take(np.flatnonzero(channel == each)), each)
                for each in np.unique(channel).tolist()
            ]
        )

    def read(self, tokens: Tokens, channel: int) -> Tensor:
        """Texts of one channel, those of like length together."""
        self.use_adapter(channel)
        device = next(self.body.parameters()).device
        order = np.argsort(tokens.lengths, kind="stable")
        kind = device.type if device.type in PADDED_TOKENS else "cpu"
        found = groups(tokens.lengths[order], order, PADDED_TOKENS[kind], LONGEST_TO_SHORTEST[kind])
        parts = [self.pool(tokens.take(rows), device) for rows in found]
        features = torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(device)]
        return nn.functional.normalize(features, dim=-1)

    def pool(self, tokens: Tokens, device: torch.device) -> Tensor:
        """Texts of like length -> (N, W) mean of their last hidden states."""
        lengths = torch.from_numpy(tokens.lengths).to(device)
        mask = torch.arange(int(tokens.lengths.max()), device=device)[None] < lengths[:, None]  # (N, T)
        ids = torch.full(mask.shape, self.pad, dtype=torch.long, device=device)
        ids[mask] = torch.from_numpy(tokens.ids).to(device).long()
        hidden = self.body(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # (N, T, W)
        return (hidden * mask[:, :, None]).sum(1).float() / lengths[:, None]


def use_attention(body: nn.Module) -> None:
    """Have a transformers model call `attend`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("naics", attend)
    AttentionMaskInterface.register("naics", sdpa_mask)
    body.set_attn_implementation("naics")


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Fused attention, on a CPU in float32: bfloat16's backward pass takes up to six times as long there."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    with torch.autocast("cpu", enabled=False):
        full = query.float(), key.float(), value.float()
        return sdpa_attention_forward(module, *full, mask, **options)[0].to(query.dtype), None


def lora_targets(body: nn.Module) -> list[str]:
    """Names of the query and value projections, as this architecture calls them."""
    found = [
        name
        for name, module in body.named_modules()
        if isinstance(module, nn.Linear) and QUERY_OR_VALUE.search(name)
    ]
    if not found:
        raise InputError(
            f"{type(body).__name__}: no query and value projections for LoRA; "
            "use another model.base_model_name"
        )
    return found


def groups(lengths: np.ndarray, rows: np.ndarray, budget: int, ratio: float = 1.25) -> list[np.ndarray]:
    """Rows sorted by length, cut so that padding stays small and a group has `budget` tokens with it."""
    found, start = [], 0
    for end in range(1, len(rows) + 1):
        if (
            end == len(rows)
            or lengths[end] * (end + 1 - start) > max(budget, lengths[end])
            or (lengths[end] > ratio * lengths[start] + 8)
        ):
            found.append(rows[start:end])
            start = end
    return found
