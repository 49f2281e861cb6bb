"""A prepared dataset as token ids on disk.

`load_splits` tokenizes each split once into `<data>/.tokens-<key>/` (uint32 ids one after the other, int64
offsets) and maps the files, so that memory does not grow with the corpus.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from training_utils import InputError, World, write_json

UNKNOWN_LANGUAGE = "und"
TOKENIZE_ROWS = 10_000


@dataclass
class Split:
    """One split's rows: ids of row i are `tokens[offsets[i]:offsets[i + 1]]`."""

    name: str
    tokens: np.ndarray  # (all tokens) uint32, memory-mapped
    offsets: np.ndarray  # (rows + 1) int64
    labels: np.ndarray  # (rows) int64
    languages: np.ndarray  # (rows) int64, indexes `language_names`
    clusters: np.ndarray  # (rows) int64
    seen: np.ndarray  # (vocabulary) bool: the tokens that occur in this split
    class_names: list[str]
    language_names: list[str]
    fingerprint: str
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def sample(self, max_rows: int | None, seed: int) -> "Split":
        """`max_rows` random rows in their order (all, if None); a smaller sample lies within a larger one.

        baseline_linear.py draws the same rows by the same seed.
        """
        if not max_rows or max_rows >= len(self):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:max_rows])
        lengths = self.lengths[rows]
        ends = lengths.cumsum()
        within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        tokens = self.tokens[np.repeat(self.offsets[rows], lengths) + within]
        seen = np.zeros_like(self.seen)
        seen[tokens] = True
        return replace(
            self,
            tokens=tokens,
            offsets=np.concatenate([[0], ends]),
            labels=self.labels[rows],
            languages=self.languages[rows],
            clusters=self.clusters[rows],
            seen=seen,
            fingerprint=f"{self.fingerprint}-{max_rows}-{seed}",
        )

    def batch(
        self, rows: np.ndarray, token_dropout: float = 0.0, generator: np.random.Generator | None = None
    ) -> dict[str, Tensor]:
        """Rows padded to their longest: input_ids and attention_mask (B, T), the rest (B).

        `token_dropout` leaves out that share of the tokens, never a text's closing one; the others move up.
        """
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        row_of = np.repeat(np.arange(len(rows)), lengths)
        within = np.arange(len(row_of)) - (lengths.cumsum() - lengths)[row_of]
        ids = self.tokens[starts[row_of] + within]
        if token_dropout:
            kept = (generator.random(len(ids)) >= token_dropout) | (within == lengths[row_of] - 1)
            ids, lengths = ids[kept], np.bincount(row_of[kept], minlength=len(rows))
        mask = np.arange(lengths.max()) < lengths[:, None]
        padded = np.full(mask.shape, self.pad_id, dtype=np.int64)
        padded[mask] = ids
        return {
            "input_ids": torch.from_numpy(padded),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(self.labels[rows]),
            "languages": torch.from_numpy(self.languages[rows]),
            "clusters": torch.from_numpy(self.clusters[rows]),
            "rows": torch.from_numpy(rows.astype(np.int64)),
        }


# ---------------------------------------------------------------- tokenizing


def load_tokenizer(name: str):
    """A tokenizer from a folder or the hub, checked to give ids at all."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        where = (
            "is not a tokenizer folder"
            if Path(name).exists()
            else "is no local folder, and the hub gave nothing"
        )
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"--tokenizer {name}: {where} ({reason}); name a folder with tokenizer.json"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.padding_side = "right"
    return tokenizer


def tokenize(tokenizer, texts: list[str], seq_len: int) -> list[list[int]]:
    """Ids of each text, cut to `seq_len` with the tokenizer's closing token kept; never empty."""
    ids = tokenizer(texts, truncation=True, max_length=seq_len, return_attention_mask=False)["input_ids"]
    return [row or [tokenizer.pad_token_id] for row in ids]


def open_dataset(data: str, names: list[str]):
    """The prepared dataset at `data`, once it is sure that the named splits can be read as texts with
    labels.
    """
    from datasets import load_from_disk

    if not Path(data).is_dir():
        raise InputError(f"--data {data}: no such folder; make one with prepare_lspc.py")
    try:
        dataset = load_from_disk(data)
        have = list(dataset.keys())
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"--data {data}: not a dataset of prepare_lspc.py ({reason})") from None
    for name in names:
        if name not in have:
            raise InputError(f"--data {data}: no split named {name!r} (it holds {', '.join(have)})")
        _columns(data, name, dataset[name])
        if dataset[name].features["label"].names != dataset[names[0]].features["label"].names:
            raise InputError(f"--data {data}: split {name!r} has other classes than {names[0]!r}")
    return dataset


def load_splits(
    data: str, names: list[str], dataset, tokenizer, seq_len: int, world: World
) -> dict[str, Split]:
    """The named splits as token ids; rank 0 tokenizes those without a cache."""
    splits = {}
    for name in names:
        with main_first(world):
            splits[name] = _load_split(Path(data), name, dataset[name], tokenizer, seq_len, world)
        splits[name].pad_id = tokenizer.pad_token_id
    return splits


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """Rank 0 does the block's work while the others wait, then they find it done."""
    if world.size > 1 and not world.is_main:
        dist.barrier()
    yield
    if world.size > 1 and world.is_main:
        dist.barrier()


def _load_split(data: Path, name: str, rows, tokenizer, seq_len: int, world: World) -> Split:
    columns = _columns(data, name, rows)
    fingerprint = _fingerprint(data / name)
    tokenizer.backend_tokenizer.no_truncation()  # left on by a split before; no part of the key
    key = hashlib.sha256(
        json.dumps([fingerprint, tokenizer.backend_tokenizer.to_str(), seq_len, columns]).encode()
    ).hexdigest()[:16]
    folder = data / f".tokens-{key}"
    if not (folder / "done.json").exists():
        with _cache_aside(folder) as aside:
            _write_cache(aside, data, name, rows, columns, tokenizer, seq_len, verbose=world.is_main)
    try:
        return _read_cache(folder, name, len(rows), rows.features["label"].names, fingerprint)
    except Exception as error:  # damaged arrays fail in many ways
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{folder}: the token cache is damaged ({reason}); delete this folder") from None


def _read_cache(folder: Path, name: str, rows: int, class_names: list[str], fingerprint: str) -> Split:
    """What `_write_cache` wrote, mapped; arrays that do not fit each other raise a ValueError."""
    language_names = json.loads((folder / "done.json").read_text())["language_names"]
    tokens = np.memmap(folder / "tokens.bin", dtype=np.uint32, mode="r")
    arrays = {
        part: np.load(folder / f"{part}.npy", allow_pickle=False)
        for part in ("offsets", "labels", "languages", "clusters", "seen")
    }
    for part, array in arrays.items():
        kind, length = (bool, len(array)) if part == "seen" else (np.int64, rows + (part == "offsets"))
        if array.dtype != kind or array.shape != (length,):
            raise ValueError(f"{part} is {array.dtype} of shape {array.shape}")
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 1).any():
        raise ValueError("offsets do not fit the tokens")
    limits = (tokens, len(arrays["seen"])), (arrays["labels"], len(class_names))
    for array, end in (*limits, (arrays["languages"], len(language_names))):
        if not 0 <= array.min() <= array.max() < end:
            raise ValueError("a number is out of range")
    if not all(isinstance(language, str) for language in language_names):
        raise ValueError("languages without a name")
    return Split(
        name=name, tokens=tokens, **arrays, class_names=class_names, language_names=language_names,
        fingerprint=fingerprint,
    )  # fmt: skip


def _columns(data: Path | str, name: str, rows) -> dict[str, str | list[str] | None]:
    """Which columns hold what: `text`, or `title` with or without `description`; `language` or `lang`."""
    have = rows.column_names
    text = ["text"] if "text" in have else [c for c in ("title", "description") if c in have]
    if not text:
        raise InputError(
            f"--data {data}: split {name!r} has no column 'text' or 'title' (it has {', '.join(have)})"
        )
    if not hasattr(rows.features.get("label"), "names"):
        raise InputError(
            f"--data {data}: split {name!r} needs a ClassLabel column 'label'; see prepare_lspc.py"
        )
    if len(rows) == 0:
        raise InputError(f"--data {data}: split {name!r} is empty")
    language = next((c for c in ("language", "lang") if c in have), None)
    strings = [*text, *([language] if language else [])]
    for column, kind in ((c, "int" if c == "cluster" else "string") for c in (*strings, "cluster")):
        if column in have and kind not in str(rows.features[column].dtype):
            raise InputError(
                f"--data {data}: split {name!r}, column {column!r} holds {rows.features[column].dtype}, "
                f"needed is {kind}; see prepare_lspc.py"
            )
    return {"text": text, "language": language, "cluster": "cluster" if "cluster" in have else None}


def _fingerprint(folder: Path) -> str:
    """A hash over the split's files, so that changed rows are never served from an old cache."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.arrow")):
        with open(file, "rb") as opened:
            while block := opened.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


@contextmanager
def _cache_aside(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` at the end: no half cache, also not after a kill."""
    for left in folder.parent.glob(f"{folder.name}.*.partial"):  # of killed runs; a living one goes on
        try:
            os.kill(int(left.suffixes[-2][1:]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError):
            continue
    aside = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        aside.mkdir()
    except OSError as error:
        raise InputError(f"{folder.parent}: cannot write the token cache there ({error.strerror})") from None
    try:
        yield aside
        if not folder.exists():  # another run of the same command may have been quicker
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read_rows(data: Path, name: str, rows, start: int) -> dict[str, list]:
    """A block of rows by column. Damaged buffers are found before they are taken for lengths."""
    try:
        table = rows.with_format("arrow")[start : start + TOKENIZE_ROWS]
        table.validate(full=True)
        return table.to_pydict()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"--data {data}: {name!r} is damaged after row {start} ({reason}); prepare it again"
        ) from None


def _write_cache(
    aside: Path, data: Path, name: str, rows, columns: dict, tokenizer, seq_len: int, verbose: bool
) -> None:
    from tqdm import tqdm

    if not columns["language"]:
        from category_classification.language_id import identify

    num_classes, language_index = len(rows.features["label"].names), {}
    seen = np.zeros(len(tokenizer), dtype=bool)
    lengths, labels, languages, clusters = [], [], [], []  # one array a block of rows
    bar = tqdm(total=len(rows), desc=f"tokenizing {name}", unit=" rows", disable=None if verbose else True)
    with open(aside / "tokens.bin", "wb") as file:
        for start in range(0, len(rows), TOKENIZE_ROWS):
            part = _read_rows(data, name, rows, start)
            parts = zip(*(part[c] for c in columns["text"]), strict=True)
            texts = [" ".join(filter(None, fields)) for fields in parts]
            ids = tokenize(tokenizer, texts, seq_len)
            flat = np.concatenate(ids).astype(np.uint32)
            seen[flat] = True
            file.write(flat.tobytes())
            lengths.append(np.array([len(row) for row in ids]))
            codes = part[columns["language"]] if columns["language"] else identify(texts)[0]
            codes = [code or UNKNOWN_LANGUAGE for code in codes]
            languages.append(np.array([language_index.setdefault(c, len(language_index)) for c in codes]))
            for number, label in enumerate(part["label"], start):
                if label is None or not 0 <= label < num_classes:
                    raise InputError(
                        f"--data {data}: row {number} of {name!r} has label {label}, outside the classes"
                    )
            labels.append(np.array(part["label"]))
            own = range(start, start + len(ids))
            clusters.append(np.array(part[columns["cluster"]] if columns["cluster"] else own))
            if clusters[-1].dtype == object:
                missing = start + part[columns["cluster"]].index(None)
                raise InputError(f"--data {data}: row {missing} of {name!r} has no cluster; give it a number")
            bar.update(len(ids))
    bar.close()
    np.save(aside / "offsets.npy", np.concatenate([[0], *lengths]).cumsum(dtype=np.int64))
    np.save(aside / "seen.npy", seen)
    for column, blocks in (("labels", labels), ("languages", languages), ("clusters", clusters)):
        np.save(aside / f"{column}.npy", np.concatenate(blocks).astype(np.int64))
    write_json(
        aside / "done.json", {"split": name, "rows": len(rows), "language_names": list(language_index)}
    )
