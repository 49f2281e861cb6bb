"""Code or query -> point: a backbone reads each channel, experts fuse them, a projection places the result.

N rows, C = 4 channels, width W of the backbone, d dimensions of the space.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from naics.data.tokenization_cache import Tokens, concatenate, no_tokens
from naics.model.geometry import Geometry
from naics.model.moe import MixtureOfExperts, Routing

CHANNELS = ("title", "description", "excluded", "examples")


class NaicsEncoder(nn.Module):
    """The mean of the channels that a row has, corrected by a mixture of experts that sees each of them."""

    def __init__(
        self, backbone: nn.Module, dim: int, geometry: Geometry, experts: int, top_k: int, hidden_dim: int
    ) -> None:
        super().__init__()
        self.backbone, self.geometry = backbone, geometry
        width = backbone.width
        self.mix = nn.Parameter(torch.tensor([1.0, 0.7, 0.0, 1.0]))  # "excluded" says what a code is not
        self.fusion = None
        if experts:
            self.fusion = MixtureOfExperts(len(CHANNELS) * (width + 1), hidden_dim, width, experts, top_k)
            for expert in self.fusion.experts:  # start as the plain mean
                nn.init.zeros_(expert[-1].weight)
                nn.init.zeros_(expert[-1].bias)
        self.projection = nn.Linear(width, dim, bias=False)
        nn.init.orthogonal_(self.projection.weight)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, channels: Sequence[Tokens]) -> tuple[Tensor, Routing | None]:
        """One Tokens a channel, an empty text where a row lacks it -> (N, d) points, and where rows went."""
        present = np.stack([tokens.lengths > 0 for tokens in channels])  # (C, N)
        mask = torch.from_numpy(present.T).to(self.gain)
        stacked = self.read(channels, present)  # (N, C, W), zero where absent
        mean = (stacked * self.mix[:, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()
        routing = None
        if self.fusion is not None:
            correction, routing = self.fusion(torch.cat((stacked.flatten(1), mask), dim=1))
            mean = mean + correction.float()
        with torch.autocast(mean.device.type, enabled=False):  # from here on in full precision
            return self.geometry.points(self.projection(mean) * self.gain), routing

    def read(self, channels: Sequence[Tokens], present: np.ndarray) -> Tensor:
        """(N, C, W) features; only the texts that are there are computed."""
        channel, row = np.nonzero(present)
        if not len(row):  # a rank without rows, or a split without entries
            return torch.zeros(*present.shape[::-1], self.backbone.width, device=self.gain.device)
        place = torch.from_numpy(row * len(CHANNELS) + channel).to(self.gain.device)
        features = self.backbone(
            concatenate([each.take(np.flatnonzero(each.lengths)) for each in channels]), channel
        )
        whole = torch.zeros(present.size, self.backbone.width, device=self.gain.device)
        return whole.index_copy(0, place, features.float()).unflatten(0, present.shape[::-1])


def as_query(tokens: Tokens) -> list[Tokens]:
    """A text to look up is a title with nothing else known."""
    return [tokens, *(no_tokens(len(tokens)) for _ in CHANNELS[1:])]


class NaicsModel(nn.Module):
    """The encoder, the scale of query distances, and where all codes were when they were last encoded."""

    def __init__(self, encoder: NaicsEncoder, codes: int, dim: int, query_scale: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_query_scale = nn.Parameter(torch.tensor(float(np.log(query_scale))))
        self.register_buffer("points", torch.zeros(codes, dim))

    @property
    def query_scale(self) -> Tensor:
        return self.log_query_scale.exp().clamp(0.01, 100.0)


class TrainedWeights:
    """What a checkpoint holds of a model: all but the frozen weights, which its base model's folder has."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Tensor]:
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.model.state_dict().items() if name not in frozen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())[0]
            raise RuntimeError(f"{odd} is only in one of them: another model")
        self.model.load_state_dict(state, strict=False)
