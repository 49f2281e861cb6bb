"""Prepared EUR-Lex as memory-mapped ids, and batches of it.

A micro-batch is a function of (seed, step, number) alone: every configuration sees the same documents in the
same order, a resumed run skips by index, and ranks share each micro-batch without overlap.

    B documents    T tokens of the longest one    L labels
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.task import Batch, check_vocabulary, load_ids, read_metadata
from training_utils import InputError

ROUND_TO = 16  # tokens a batch is padded to a multiple of; 16-bit products like that


@dataclass(frozen=True)
class Split:
    """Document i has ids `tokens[offsets[i]:offsets[i+1]]` and label indices `labels[label_offsets[...]]`."""

    tokens: np.ndarray  # memory-mapped, uint16 or uint32
    offsets: np.ndarray  # (documents + 1) int64
    labels: np.ndarray  # int32, ascending in a document
    label_offsets: np.ndarray  # (documents + 1) int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def ids(self, document: int, max_length: int) -> np.ndarray:
        """At most `max_length` ids; the last one, which ends a document, is kept."""
        ids = self.tokens[self.offsets[document] : self.offsets[document + 1]]
        if len(ids) <= max_length:
            return ids
        return np.append(ids[: max_length - 1], ids[-1])

    def gold(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row in `documents`, label) of every label, by row and then label."""
        counts = self.label_offsets[documents + 1] - self.label_offsets[documents]
        rows = np.repeat(np.arange(len(documents)), counts)
        pieces = [self.labels[self.label_offsets[d] : self.label_offsets[d + 1]] for d in documents]
        return rows, np.concatenate([*pieces, np.zeros(0, np.int32)]).astype(np.int64)


@dataclass(frozen=True)
class EurLex:
    """All splits of one prepared folder, cut to `max_length` tokens."""

    splits: dict[str, Split]
    num_labels: int
    metadata: dict[str, Any]
    max_length: int
    pad_id: int

    def batch(self, split: str, documents: np.ndarray, pad_to: int | None = None) -> Batch:
        """Padded ids, a mask where there is padding, and the labels as (row, index) pairs.

        The dense (B, L) targets are made on the device, from a few hundred bytes instead of 137 KB.
        """
        part = self.splits[split]
        texts = [part.ids(document, self.max_length) for document in documents]
        longest = max(map(len, texts))
        width = pad_to or min(self.max_length, -(-longest // ROUND_TO) * ROUND_TO)
        ids = np.full((len(texts), width), self.pad_id, dtype=np.int64)  # (B, T)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        full = bool((lengths == width).all())  # attention without a mask is the faster kernel
        mask = None if full else torch.from_numpy(np.arange(width) < lengths[:, None])
        rows, labels = part.gold(documents)
        targets = (torch.from_numpy(rows), torch.from_numpy(labels))
        return Batch(
            (torch.from_numpy(ids), mask), targets, len(texts), int(lengths.sum()), width * len(texts)
        )

    def evaluation_batches(self, split: str, batch_size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """(documents, batch) over the whole split, in its order; the last, shorter batch too."""
        for start in range(0, len(self.splits[split]), batch_size):
            documents = np.arange(start, min(start + batch_size, len(self.splits[split])))
            yield documents, self.batch(split, documents)

    @property
    def train_documents(self) -> np.ndarray:
        """(L) training documents of each label."""
        return np.bincount(self.splits["train"].labels, minlength=self.num_labels)


def load_eurlex(folder: Path, max_length: int) -> EurLex:
    """Map the files of a folder that prepare_data.py wrote; sizes and ids are checked against each other."""
    metadata = read_metadata(folder, "labels", "experiments/classification/prepare_data.py")
    if max_length > metadata["max_length"]:
        raise InputError(
            f"--max_length {max_length}: {folder} was prepared with {metadata['max_length']}; "
            "prepare it again with --max_length, or ask for less"
        )
    splits = {name: _load_split(folder, name, metadata) for name in metadata["splits"]}
    tokenizer = metadata["tokenizer"]
    return EurLex(splits, metadata["labels"], metadata, max_length, tokenizer["pad_id"])


def _load_split(folder: Path, name: str, metadata: dict[str, Any]) -> Split:
    arrays = {}
    for part in ("tokens", "offsets", "labels", "label_offsets"):
        arrays[part] = load_ids(folder / f"{name}.{part}.npy", mmap=part == "tokens")
        if part.endswith("offsets"):
            arrays[part] = arrays[part].astype(np.int64)
    split = Split(**arrays)
    sound = (
        len(split.offsets) == metadata["splits"][name]["documents"] + 1
        and len(split.label_offsets) == len(split.offsets)
        and split.offsets[-1] == len(split.tokens)
        and split.label_offsets[-1] == len(split.labels)
        and split.offsets[0] == split.label_offsets[0] == 0
        and (np.diff(split.offsets) > 0).all()
        and (np.diff(split.label_offsets) >= 0).all()
    )
    if not sound:
        raise InputError(f"{folder}: files of split {name} do not fit each other; run prepare_data.py again")
    check_vocabulary(folder / f"{name}.tokens.npy", split.tokens, metadata)
    if len(split.labels) and not 0 <= split.labels.min() <= split.labels.max() < metadata["labels"]:
        row = int(np.argmax((split.labels < 0) | (split.labels >= metadata["labels"])))
        document = int(np.searchsorted(split.label_offsets, row, "right")) - 1
        raise InputError(
            f"{folder}/{name}.labels.npy, document {document}: label index {split.labels[row]} is outside "
            f"the {metadata['labels']} of label_map.json; run prepare_data.py again"
        )
    return split
