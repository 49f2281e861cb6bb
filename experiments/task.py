"""What the engine needs to know of a task: its model, batches, loss and evaluation."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training_utils import InputError


@dataclass(frozen=True)
class Batch:
    """`inputs` go to the model's body, `targets` to the loss after the logits."""

    inputs: tuple[Tensor | None, ...]
    targets: tuple[Tensor, ...]
    samples: int
    tokens: int  # real ones
    padded_tokens: int

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            if device.type == "cuda":  # pinned, so that the copy runs beside the step before
                return tensor.pin_memory().to(device, non_blocking=True)
            return tensor.to(device)

        return replace(self, inputs=tuple(map(move, self.inputs)), targets=tuple(map(move, self.targets)))


Predict = Callable[[Batch], Tensor]  # logits in the configuration's own format, on the device


@dataclass(frozen=True)
class Evaluation:
    """`metrics` of each split, and the test split's `predictions` as arrays to save."""

    metrics: dict[str, dict[str, Any]]
    predictions: dict[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """One task on one data set. Its functions know nothing of number formats."""

    name: str
    headline: tuple[str, ...]  # metrics shown and kept on the curve
    make_model: Callable[[], nn.Module]  # `body` and `head`, float32, on the CPU
    step_rows: Callable[[int, int], np.ndarray]  # (step from 1, rows) -> that step's training rows
    train_batch: Callable[[np.ndarray], Batch]
    loss: Callable[..., Tensor]  # (logits, *targets) -> mean
    validate: Callable[[Predict], dict[str, Any]]  # `loss` and the headline, between steps
    evaluate: Callable[[Predict], Evaluation]
    epoch_rows: int
    flops_per_sample: float  # forward and backward
    head_flops_share: float
    betas: tuple[float, float]  # AdamW's
    min_lr_scale: float  # of the last step's learning rate
    facts: dict[str, Any]  # further fields of the result row


class EpochOrder:
    """Rows of a step from permutations by (seed, epoch), one after the other, so that every step is full.

    With `lengths` a step's rows come from short to long: its micro-batches, whose mean does not depend on how
    they share the step, then hold rows of like length.
    """

    def __init__(self, count: int, seed: int, lengths: np.ndarray | None = None) -> None:
        self.count, self.seed, self.lengths = count, seed, lengths
        self._epochs: dict[int, np.ndarray] = {}

    def _epoch(self, number: int) -> np.ndarray:
        if number not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[number] = np.random.default_rng([self.seed, number]).permutation(self.count)
        return self._epochs[number]

    def rows(self, step: int, rows: int) -> np.ndarray:
        positions = np.arange((step - 1) * rows, step * rows)
        epochs, places = np.divmod(positions, self.count)
        found = np.concatenate([self._epoch(int(e))[places[epochs == e]] for e in np.unique(epochs)])
        if self.lengths is None:
            return found
        return found[np.argsort(self.lengths[found], kind="stable")]


_TOKENIZER = {"vocab_size": int, "pad_id": int}
_SPLITS = ("train", "validation", "test")
METADATA = {  # what metadata.json of either task must hold, by a key that the other one's lacks
    "labels": {
        "fingerprint": str, "labels": int, "max_length": int, "tokenizer": _TOKENIZER,
        "splits": dict.fromkeys(_SPLITS, {"documents": int}),
    },
    "tokens": {"fingerprint": str, "tokenizer": _TOKENIZER, "tokens": dict.fromkeys(_SPLITS, int)},
}  # fmt: skip


def read_metadata(folder: Path, key: str, script: str) -> dict[str, Any]:
    """metadata.json of a prepared folder, which has to hold `key`."""
    path = Path(folder) / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"--data {folder}: no prepared data there; python {script} --out {folder} writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); run {script} again") from None
    if not isinstance(metadata, dict) or key not in metadata:
        raise InputError(f"{path}: is of another task; --data takes a folder that {script} wrote")
    if not _holds(metadata, METADATA[key]):
        raise InputError(f"{path}: damaged, a value is missing or no number; run {script} again")
    return metadata


def _holds(value: Any, form: Any) -> bool:
    """Whether a value has all that the form names: objects within objects, text, and counts."""
    if isinstance(form, dict):
        return isinstance(value, dict) and all(_holds(value.get(name), each) for name, each in form.items())
    return type(value) is form and (value.isprintable() if form is str else 0 <= value < 2**31)


def load_ids(path: Path, mmap: bool = False) -> np.ndarray:
    """The whole numbers of an .npy file that a prepare_data.py wrote."""
    try:
        array = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except Exception as error:  # a damaged header fails in many ways
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: missing or damaged ({reason}); run prepare_data.py again") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{path}: is no row of whole numbers; run prepare_data.py again")
    return array


def check_vocabulary(path: Path, ids: np.ndarray, metadata: dict[str, Any]) -> None:
    """An id outside the tokenizer's vocabulary would fail in the embedding, without saying where it was."""
    least, most = int(ids.min(initial=0)), int(ids.max(initial=0))
    if least < 0 or most >= metadata["tokenizer"]["vocab_size"]:
        wrong = least if least < 0 else most
        place = int(np.argmax(ids == wrong))
        raise InputError(f"{path}, token {place}: id {wrong} is outside the tokenizer's vocabulary")
