"""A RoBERTa encoder and one linear layer that scores every label.

    B documents    T tokens    D hidden    L labels

`body` and `head` are what precision.py casts and runs in formats of their own.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training_utils import InputError

INIT_STD = 0.02  # of the head, as BERT's
# `tiny-random`: two layers, for tests and the quickstart. From scratch, so nothing is downloaded.
TINY = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
TINY_MAX_LENGTH = 64


class Encoder(nn.Module):
    """(B, T) ids and mask -> (B, D): the first token's hidden state, with dropout."""

    def __init__(self, transformer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.transformer = transformer
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.dropout(hidden[:, 0])  # (B, T, D) -> (B, D)


class DocumentClassifier(nn.Module):
    """`body` (an Encoder) and `head` (D -> L)."""

    def __init__(self, body: Encoder, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(hidden_size, num_labels)
        nn.init.normal_(self.head.weight, std=INIT_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T) -> logits (B, L)."""
        return self.head(self.body(input_ids, attention_mask))

    @torch.no_grad()
    def set_bias_to_prior(self, label_documents: np.ndarray, documents: int) -> None:
        """Start each label at its log-odds in the training documents (one half is added to both counts).

        From 0, AdamW at 2e-5 moves a bias by 0.05 in 5,000 steps; the mean label lies at -6.7.
        """
        share = (torch.from_numpy(label_documents).double() + 0.5) / (documents + 1)
        self.head.bias.copy_(torch.logit(share))


def encoder_config(encoder: str, tokenizer: dict[str, Any], max_length: int, dropout: float) -> Any:
    """The config of a hub name, a folder or `tiny-random`, checked against the data's tokenizer."""
    from transformers import AutoConfig, RobertaConfig

    vocab_size, pad_id = tokenizer["vocab_size"], tokenizer["pad_id"]
    if encoder == "tiny-random":
        # RoBERTa counts positions from pad_id + 1 on
        sizes = TINY | {"vocab_size": vocab_size, "max_position_embeddings": max_length + pad_id + 1}
        config = RobertaConfig(**sizes, type_vocab_size=1, pad_token_id=pad_id)
    else:
        try:
            config = AutoConfig.from_pretrained(encoder)
        except (OSError, ValueError) as error:
            raise _no_encoder(encoder, error) from None
    if config.vocab_size < vocab_size or config.pad_token_id != pad_id:
        raise InputError(
            f"--encoder {encoder}: has {config.vocab_size:,} tokens and pads with {config.pad_token_id}, the "
            f"data {vocab_size:,} and {pad_id}; prepare it with prepare_data.py --tokenizer {encoder}"
        )
    positions = config.max_position_embeddings - (pad_id + 1 if "roberta" in config.model_type else 0)
    if max_length > positions:
        raise InputError(f"--max_length {max_length}: --encoder {encoder} reads {positions} tokens at most")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return config


def make_classifier(encoder: str, config: Any, num_labels: int, dropout: float) -> DocumentClassifier:
    """In float32, whatever the weights are stored in; a folder with config.json alone gets random weights."""
    from transformers import AutoModel

    try:
        # dtype: "auto" would keep float16 weights as they are, and the fp32 baseline would not be one
        if pretrained(encoder):
            transformer = AutoModel.from_pretrained(encoder, config=config, dtype=torch.float32)
        else:
            transformer = AutoModel.from_config(config, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise _no_encoder(encoder, error) from None
    if getattr(transformer, "pooler", None) is not None:
        transformer.pooler = None  # the head reads the first token itself
    return DocumentClassifier(Encoder(transformer, dropout), config.hidden_size, num_labels)


def _no_encoder(encoder: str, error: Exception) -> InputError:
    where = "no model there" if Path(encoder).exists() else "no such folder, and the hub gave nothing"
    reason = " ".join(str(error).split())[:100]
    return InputError(
        f"--encoder {encoder}: {where} ({reason}); name a folder with config.json and weights, or tiny-random"
    )


def pretrained(encoder: str) -> bool:
    """Whether `encoder` has weights: a folder with config.json alone starts from random ones."""
    if encoder == "tiny-random":
        return False
    folder = Path(encoder)
    return not folder.is_dir() or any(any(folder.glob(p)) for p in ("*.safetensors", "pytorch_model*.bin"))


def binary_cross_entropy(logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Mean over all B x L cells, in the logits' format; (row, label) pairs are the positive cells."""
    targets = torch.zeros_like(logits, requires_grad=False)
    targets[rows, labels] = 1
    return F.binary_cross_entropy_with_logits(logits, targets)


def head_flops_share(tokens: int, hidden_size: int, layers: int, intermediate: int, labels: int) -> float:
    """Of a document's multiplications: the head reads one token, the encoder all of them."""
    per_token = 4 * hidden_size**2 + 2 * hidden_size * intermediate + 2 * tokens * hidden_size
    body = layers * tokens * per_token
    return hidden_size * labels / (body + hidden_size * labels)
