"""A classifier at work on whole splits: loading its checkpoint, its logits, the metrics made of them."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from category_classification.batches import evaluation_batches, on_device
from category_classification.embedding_classifier import EmbeddingClassifier, EncoderConfig
from category_classification.embedding_classifier_v2 import EmbeddingClassifierV2
from category_classification.embedding_classifier_v3 import EmbeddingClassifierV3
from category_classification.lspc import Split, load_tokenizer
from category_classification.metrics import ConfusionByLanguage, classification_report
from training_utils import ALONE, InputError, World, read_checkpoint

# Padded tokens a batch: the fastest; a CPU wants its activations in cache.
BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536, "mps": 16_384}
MODELS = {  # by the name their checkpoints carry
    model.__name__: model for model in (EmbeddingClassifier, EmbeddingClassifierV2, EmbeddingClassifierV3)
}


@dataclass
class Classifier:
    """A trained model with what it takes to use it."""

    model: nn.Module
    tokenizer: Any
    class_names: list[str]
    seq_len: int
    temperature: float  # divides the logits; fitted on validation, 1 where the checkpoint has none
    progress: dict[str, Any]


def load_classifier(checkpoint: str | Path, device: torch.device, tokenizer: str | None = None) -> Classifier:
    """Any version's `best.pt` or `checkpoint-*.pt`, ready for inference; `tokenizer/` lies beside it."""
    state = read_checkpoint(checkpoint)
    progress = state["progress"]
    if not isinstance(progress.get("model"), str) or progress["model"] not in MODELS or "model" not in state:
        raise InputError(f"{checkpoint}: not a checkpoint of a category classifier")
    try:
        model, config = _rebuild(state["model"], progress)
        class_names = [str(name) for name in progress["class_names"]]
        seq_len, temperature = int(progress["settings"]["seq_len"]), float(progress.get("temperature", 1.0))
        if not 0 < temperature < math.inf or seq_len < 1:
            raise ValueError("temperature or seq_len is not a positive number")
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{checkpoint}: is damaged or of another version ({type(error).__name__}: {reason})"
        ) from None
    found = load_tokenizer(tokenizer or str(Path(checkpoint).parent / "tokenizer"))
    if len(found) != config.vocab_size:
        raise InputError(
            f"{checkpoint}: was trained with {config.vocab_size} tokens, --tokenizer has {len(found)}"
        )
    return Classifier(
        model=model.to(device).eval(),
        tokenizer=found,
        class_names=class_names,
        seq_len=seq_len,
        temperature=temperature,
        progress=progress,
    )


def _rebuild(weights: dict[str, Tensor], progress: dict[str, Any]) -> tuple[nn.Module, EncoderConfig]:
    """The model that a checkpoint describes, with its weights."""
    settings = dict(progress["model_settings"])
    config = EncoderConfig(**{**settings.pop("config"), "sparse_embedding_gradient": False})
    # Before memory is taken for whatever sizes a damaged file names
    if weights["encoder.embeddings.weight"].shape != (config.vocab_size, config.hidden_size):
        raise ValueError("the settings do not fit the weights")
    if config.num_layers > len(weights) or settings["num_classes"] != len(progress["class_names"]):
        raise ValueError("the settings do not fit the weights")
    model = MODELS[progress["model"]](config, **settings)
    model.load_state_dict(weights)
    if not all(bool(weight.isfinite().all()) for weight in model.state_dict().values()):
        raise ValueError("weights that are not finite")
    return model, config


@dataclass
class Evaluation:
    """A split's logits in row order, and the report made of them."""

    logits: np.ndarray  # (rows, classes)
    counts: Tensor  # (languages, classes, classes) int64: true, then predicted
    loss: float
    report: dict[str, Any]
    samples_per_second: float

    @property
    def summary(self) -> dict[str, float]:
        scores = {name: self.report[name] for name in ("macro_f1", "micro_f1", "accuracy")}
        return {"loss": self.loss, **scores, "samples_per_second": self.samples_per_second}


def evaluate(
    model: nn.Module,
    split: Split,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    world: World = ALONE,
    lang_min_samples: int = 1000,
    lang_top_k: int = 5,
) -> Evaluation:
    """Logits and metrics of every row, over all ranks."""
    started = time.perf_counter()
    model.eval()
    logits = torch.zeros(len(split), len(split.class_names))
    for batch in on_device(evaluation_batches(split, world, BATCH_TOKENS[device.type]), device):
        with torch.inference_mode(), autocast():
            out = model(batch["input_ids"], batch["attention_mask"])
        logits[batch["rows"].cpu()] = out.float().cpu()
    logits = world.sum(logits).numpy()
    speed = len(split) / (time.perf_counter() - started)
    return score(logits, split, lang_min_samples, lang_top_k, round(speed, 1))


def score(
    logits: np.ndarray, split: Split, lang_min_samples: int, lang_top_k: int, samples_per_second: float = 0.0
) -> Evaluation:
    """The report on a split's logits."""
    confusion = ConfusionByLanguage(len(split.language_names), len(split.class_names))
    predictions = logits.argmax(1)
    confusion.update(*(torch.from_numpy(x) for x in (split.languages, split.labels, predictions)))
    report = classification_report(
        confusion.counts, split.class_names, split.language_names, lang_min_samples, lang_top_k
    )
    loss = F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(split.labels)).item()
    return Evaluation(logits, confusion.counts, loss, report, samples_per_second)
