"""v2: the encoder of v1 under a residual RMSNorm bottleneck head."""

from torch import Tensor, nn
from torch.nn import functional as F

from category_classification.embedding_classifier import EmbeddingEncoder, EncoderConfig, init_weights


class ResidualHead(nn.Module):
    """RMSNorm, Linear, GELU, dropout, Linear, optional residual, RMSNorm, dropout, Linear.

    The residual is the normalised input. D is the encoder's width, C the number of classes.
    """

    def __init__(
        self, hidden_size: int, num_classes: int, bottleneck: int, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.input_norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.down = nn.Linear(hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, hidden_size)
        self.output_norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.output = nn.Linear(hidden_size, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.apply(init_weights)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        x = self.input_norm(features)
        h = self.dropout(self.up(self.dropout(F.gelu(self.down(x)))))
        return self.output(self.dropout(self.output_norm(h + x if self.residual else h)))


class EmbeddingClassifierV2(nn.Module):
    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        bottleneck: int = 768,
        dropout: float = 0.15,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = EmbeddingEncoder(config)
        self.head = ResidualHead(config.hidden_size, num_classes, bottleneck, dropout, residual)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T), (B, T) -> logits (B, C)."""
        return self.head(self.encoder(input_ids, attention_mask))
