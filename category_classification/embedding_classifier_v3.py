"""v3: v2 with a projection whose unit vectors the contrastive loss compares."""

from torch import Tensor, nn
from torch.nn import functional as F

from category_classification.embedding_classifier import EmbeddingEncoder, EncoderConfig, init_weights
from category_classification.embedding_classifier_v2 import ResidualHead


class ProjectionHead(nn.Module):
    """RMSNorm, Linear, GELU, dropout, Linear, unit length; used in training alone."""

    def __init__(self, hidden_size: int, size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.dense = nn.Linear(hidden_size, size)
        self.output = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout)
        self.apply(init_weights)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, P), each row of length 1."""
        projected = self.output(self.dropout(F.gelu(self.dense(self.norm(features)))))
        return F.normalize(projected.float(), dim=1)


class EmbeddingClassifierV3(nn.Module):
    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        bottleneck: int = 768,
        dropout: float = 0.15,
        residual: bool = True,
        contrastive_dim: int = 256,
    ) -> None:
        super().__init__()
        self.encoder = EmbeddingEncoder(config)
        self.head = ResidualHead(config.hidden_size, num_classes, bottleneck, dropout, residual)
        self.projection = ProjectionHead(config.hidden_size, contrastive_dim, dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, T), (B, T) -> logits (B, C); in training also the unit vectors (B, P)."""
        features = self.encoder(input_ids, attention_mask)
        logits = self.head(features)
        return (logits, self.projection(features)) if self.training else logits
