"""Any version's classifier in the form that transformers' Auto classes load.

export_model.py copies this file, and those that it imports from this folder, beside the weights.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from category_classification.embedding_classifier import (
    EmbeddingClassifier,
    EncoderConfig,
    RotaryEmbedding,
    init_weights,
)
from category_classification.embedding_classifier_v2 import EmbeddingClassifierV2
from category_classification.embedding_classifier_v3 import EmbeddingClassifierV3

MODELS = {
    model.__name__: model for model in (EmbeddingClassifier, EmbeddingClassifierV2, EmbeddingClassifierV3)
}


class CategoryClassifierConfig(PretrainedConfig):
    """`version` and `model_settings` as in a checkpoint; `calibration_temperature` divides the logits before
    softmax (transformers keeps the name `temperature` for generation)."""

    model_type = "category_classifier"

    def __init__(
        self,
        version: str = "EmbeddingClassifier",
        model_settings: dict[str, Any] | None = None,
        seq_len: int = 64,
        calibration_temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.version, self.model_settings = version, model_settings or {"config": {}, "num_classes": 2}
        self.seq_len, self.calibration_temperature = seq_len, calibration_temperature
        super().__init__(**kwargs)


class CategoryClassifier(PreTrainedModel):
    config_class = CategoryClassifierConfig
    base_model_prefix = "model"

    def __init__(self, config: CategoryClassifierConfig) -> None:
        super().__init__(config)
        settings = dict(config.model_settings)
        encoder = EncoderConfig(**settings.pop("config"))
        self.model = MODELS[config.version](encoder, **settings)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Also fills what weights on disk do not hold: from_pretrained leaves such buffers empty."""
        init_weights(module)
        if isinstance(module, RotaryEmbedding):
            config = self.model.encoder.config
            fresh = RotaryEmbedding(config.hidden_size // config.num_attention_heads, config.rope_theta)
            module.frequencies.copy_(fresh.frequencies)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """(B, T) ids and mask (1 on real tokens), (B) labels -> logits (B, C), cross-entropy if labelled."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features = self.model.encoder(input_ids, mask).to(self.dtype)  # fp32 whatever the weights are
        logits = self.model.head(features)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
