"""A trained model, ready for questions: where all codes are, and where any text comes to lie."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naics.config import Config
from naics.data.census import IndexEntries, Taxonomy, fingerprint_roles, load_index, load_taxonomy
from naics.data.texts import SEEN, CodeTexts, load_corpus
from naics.data.tokenization_cache import HashedNgrams, SubwordTokenizer, Tokenizer, Tokens, encode
from naics.model.backbones import NgramBackbone, TransformerBackbone
from naics.model.encoder import CHANNELS, NaicsEncoder, NaicsModel, TrainedWeights, as_query
from naics.model.geometry import Geometry
from training_utils import InputError, autocast, pick_device, read_checkpoint

QUERIES_AT_ONCE, CODES_AT_ONCE = 256, 64


def make_tokenizer(config: Config) -> Tokenizer:
    if config.model.backbone == "ngram":
        return HashedNgrams(config.model.ngram.buckets, config.data.max_length)
    return SubwordTokenizer(config.model.base_model_name, config.data.max_length)


def build_model(config: Config, codes: int) -> NaicsModel:
    """The model of these settings, with random weights beside the pretrained ones."""
    model, loss, moe = config.model, config.loss, config.model.moe
    if model.backbone == "ngram":
        backbone = NgramBackbone(model.ngram.buckets, model.ngram.width, len(CHANNELS), model.dropout)
    else:
        lora = model.lora
        backbone = TransformerBackbone(model.base_model_name, CHANNELS, lora.r, lora.alpha, model.dropout)
    geometry = Geometry(loss.geometry, loss.curvature, loss.max_radius)
    experts = moe.num_experts if moe.enabled else 0
    encoder = NaicsEncoder(backbone, model.dim, geometry, experts, moe.top_k, moe.hidden_dim)
    return NaicsModel(encoder, codes, model.dim, loss.query_scale)


@dataclass
class LoadedModel:
    """n codes, q texts, d dimensions. Points are tangent vectors at the origin (Lorentz) or coordinates."""

    taxonomy: Taxonomy
    geometry: Geometry
    config: dict[str, Any]
    checkpoint: Path
    codes: np.ndarray  # (n, d) float32
    router: np.ndarray | None  # (n, experts) probabilities, None without a mixture of experts
    model: NaicsModel
    tokenizer: Tokenizer
    device: torch.device
    index: IndexEntries

    @cached_property
    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """(m, d) points of the index entries that training may read, by code; (m,) their codes' rows."""
        seen = np.flatnonzero(np.isin(self.index.roles, SEEN))
        seen = seen[np.argsort(self.index.rows[seen], kind="stable")]
        return self.encode_queries([self.index.texts[row] for row in seen]), self.index.rows[seen]

    def look_up(self, texts: Sequence[str]) -> np.ndarray:
        """(q, leaves) how far texts lie from each six-digit code: the mean of the distances to the code and
        to the nearest of its entries (of a code without entries, to the code).
        """
        leaves, (points, codes) = self.taxonomy.leaves, self.entries
        found, starts = np.unique(codes, return_index=True)
        rows = [np.zeros((0, len(leaves)), np.float32)]
        for start in range(0, len(texts), QUERIES_AT_ONCE):
            asked = self.encode_queries(list(texts[start : start + QUERIES_AT_ONCE]))
            to_codes = self.distances(asked)
            nearest = to_codes.copy()
            if len(found):
                nearest[:, found] = np.minimum.reduceat(self.distances(asked, points), starts, axis=1)
            rows.append((to_codes[:, leaves] + nearest[:, leaves]) / 2)
        return np.concatenate(rows)

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """(q, d) float32."""
        found = [np.zeros((0, self.codes.shape[1]), np.float32)]
        for start in range(0, len(texts), QUERIES_AT_ONCE):
            tokens = encode(texts[start : start + QUERIES_AT_ONCE], self.tokenizer)
            found.append(self._points(as_query(tokens)))
        return np.concatenate(found)

    def encode_codes(self, texts: CodeTexts) -> np.ndarray:
        """(n, d) float32, as a validation finds them."""
        rows = np.arange(len(self.taxonomy))
        parts = np.split(rows, range(CODES_AT_ONCE, len(rows), CODES_AT_ONCE))
        return np.concatenate([self._points(texts.channels(part)) for part in parts])

    @torch.no_grad()
    def _points(self, channels: list[Tokens]) -> np.ndarray:
        with autocast(self.device, self.config["training"]["trainer"]["precision"] != "32"):
            return self.model.encoder(channels)[0].cpu().numpy()

    @torch.no_grad()
    def distances(self, queries: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
        """(q, d) points, (m, d) others (all codes, unless given) -> (q, m) float32."""
        others = self.codes if others is None else others
        x, y = (torch.from_numpy(np.ascontiguousarray(each)).to(self.device) for each in (queries, others))
        return self.geometry.pairwise(x, y).cpu().numpy()


def load_model(checkpoint: Path, data_dir: Path, device: str = "auto") -> LoadedModel:
    """From best.pt or a checkpoint-*.pt; the codes' points are those that its weights give."""
    from omegaconf.errors import OmegaConfBaseException

    state = read_checkpoint(checkpoint)
    where, taxonomy, index = pick_device(device), load_taxonomy(Path(data_dir)), load_index(Path(data_dir))
    progress = state["progress"]
    try:
        config = as_config(progress["config"])
        model = build_model(config, len(taxonomy))
        TrainedWeights(model).load_state_dict(state["model"])
    except (AttributeError, KeyError, TypeError, RuntimeError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{checkpoint}: no model of naics/ for this data ({reason}); use another file"
        ) from None
    check_roles(checkpoint, progress, taxonomy, index)
    model = model.to(where).eval()
    points = model.points.cpu().numpy()
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        raise InputError(f"{checkpoint}: holds weights that are not finite; use another file")
    router = progress.get("router")
    loaded = LoadedModel(
        taxonomy, model.encoder.geometry, asdict(config), Path(checkpoint), points,
        None if router is None else router.numpy(), model, make_tokenizer(config), where, index,
    )  # fmt: skip
    if progress.get("batch") and "validation" not in progress:
        # In mid-epoch each point is of the step that last took its code, under dropout and older weights.
        loaded.codes = loaded.encode_codes(CodeTexts(load_corpus(Path(data_dir)), loaded.tokenizer, None))
    return loaded


def check_roles(
    checkpoint: Path, progress: dict[str, Any], taxonomy: Taxonomy, index: IndexEntries, say: bool = True
) -> str | None:
    """Refuse data that gave the index entries other roles: what they hold out may have trained the model.
    Returns the roles' fingerprint, None where the checkpoint is older than it.
    """
    trained = progress.get("roles")
    if trained is None and say:
        print(
            f"{checkpoint}: does not say which index entries it was trained on; cannot be checked",
            file=sys.stderr,
        )
    if trained not in (None, fingerprint_roles(taxonomy, index)):
        raise InputError(
            f"{checkpoint}: was trained on other roles of the index entries, so what this data holds out may "
            "have trained it; use the data folder of its run, or train again"
        )
    return trained


def as_config(plain: dict[str, Any]) -> Config:
    """The dataclasses again, from what a checkpoint keeps of them."""
    from omegaconf import OmegaConf

    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
