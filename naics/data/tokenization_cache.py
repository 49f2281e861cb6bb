"""Texts become token ids once: a memory-mapped file, keyed by the texts, the tokenizer and the length.

    cache = build_cache(folder, "codes", texts, HashedNgrams(131_072))
    cache.take([0, 7])          # Tokens of those texts

A file of other texts, or of another tokenizer, is written anew; a damaged one is refused.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from training_utils import InputError, replacing

WORD = re.compile(r"[a-z0-9]+")
# Words that nearly every description holds: they would only add noise to a bag of hashed n-grams.
STOP_WORDS = frozenset(
    "a an and are as at by comprises engaged establishments for from in industry is of on or other primarily "
    "such than that the this to u s with".split()
)


@dataclass(frozen=True)
class Tokens:
    """Ragged token ids of N texts; an empty text is an absent one."""

    ids: np.ndarray  # (total,) int32
    counts: np.ndarray  # (total,) float32, how often each id stands in its text (1 for a sequence of tokens)
    offsets: np.ndarray  # (N + 1,) int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Tokens":
        rows = np.asarray(rows, dtype=np.int64)
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Tokens(self.ids[places], self.counts[places], offsets)

    def thin(self, share: float, generator: np.random.Generator) -> "Tokens":
        """Each token but a text's first one falls out with this chance."""
        kept = generator.random(len(self.ids)) >= share
        kept[self.offsets[:-1][self.lengths > 0]] = True
        return Tokens(self.ids[kept], self.counts[kept], np.concatenate(([0], np.cumsum(kept)))[self.offsets])


def concatenate(parts: Sequence[Tokens]) -> Tokens:
    """The texts of all parts in a row."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate(([0], np.cumsum(lengths))),
    )


def no_tokens(texts: int) -> Tokens:
    return Tokens(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(texts + 1, np.int64))


class Tokenizer(Protocol):
    @property
    def identity(self) -> str:
        """Changes whenever the ids of any text may."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """An array of int32 ids a text."""

    def join(self, tokens: Tokens, texts_of: Sequence[np.ndarray]) -> Tokens:
        """For each row of `texts_of`, those of the texts in one."""


class SubwordTokenizer:
    """The tokenizer of a transformers model, by hub name or folder."""

    def __init__(self, name: str, max_length: int) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{name}: no tokenizer to be had ({reason}); give model.base_model_name a local folder"
            ) from None
        self.max_length = max_length
        self.opening = self.tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"][0]

    @property
    def identity(self) -> str:
        rules = self.tokenizer.backend_tokenizer.to_str()
        return f"subwords {hashlib.sha256(rules.encode()).hexdigest()} {self.max_length}"

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        present = [text for text in texts if text]
        if not present:
            return [np.zeros(0, np.int32) for _ in texts]
        found = iter(self.tokenizer(present, truncation=True, max_length=self.max_length)["input_ids"])
        return [np.array(next(found) if text else [], dtype=np.int32) for text in texts]

    def join(self, tokens: Tokens, texts_of: Sequence[np.ndarray]) -> Tokens:
        """Texts keep their closing separator and only the first its opening token; whole texts are left out
        from where `max_length` is reached.
        """
        rows = []
        for texts in texts_of:
            lengths = tokens.lengths[texts] - self.opening
            fitting = texts[: max(1, int((self.opening + np.cumsum(lengths) <= self.max_length).sum()))]
            skipped = np.where(np.arange(len(fitting)) > 0, self.opening, 0)
            spans = zip(tokens.offsets[fitting] + skipped, tokens.offsets[fitting + 1], strict=True)
            rows.append(np.concatenate([*(tokens.ids[a:b] for a, b in spans), np.zeros(0, np.int32)]))
        return ragged(rows, [np.ones(len(row)) for row in rows])


class HashedNgrams:
    """Words, pairs of words, and 3- to 5-grams of characters of a word, hashed into buckets.

    The bag of n-grams of fastText (Bojanowski et al. 2017, arXiv 1607.04606), with a stem for a plural s.
    """

    def __init__(self, buckets: int, max_words: int = 512) -> None:
        self.buckets, self.max_words = buckets, max_words
        self._of_word: dict[str, list[int]] = {}

    @property
    def identity(self) -> str:
        return f"n-grams 1 {self.buckets} {self.max_words}"

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self.encode_text(text), dtype=np.int32) for text in texts]

    def join(self, tokens: Tokens, texts_of: Sequence[np.ndarray]) -> Tokens:
        """One bag of each row's texts."""
        joined = tokens.take(np.concatenate([*texts_of, np.zeros(0, np.int64)]))
        row = np.repeat(np.arange(len(texts_of)), [int(tokens.lengths[texts].sum()) for texts in texts_of])
        place, inverse = np.unique(row * self.buckets + joined.ids, return_inverse=True)
        counts = np.bincount(inverse, weights=joined.counts, minlength=len(place))
        offsets = np.searchsorted(place, np.arange(len(texts_of) + 1) * self.buckets)
        return Tokens((place % self.buckets).astype(np.int32), counts.astype(np.float32), offsets)

    def encode_text(self, text: str) -> list[int]:
        words = [stem(word) for word in WORD.findall(text.lower()) if word not in STOP_WORDS]
        words = words[: self.max_words]
        ids = [bucket for word in words for bucket in self.word(word)]
        return ids + [self.hash(f"{a} {b}") for a, b in zip(words, words[1:], strict=False)]

    def word(self, word: str) -> list[int]:
        if word not in self._of_word:
            inside = f"<{word}>"
            grams = [inside[i : i + n] for n in (3, 4, 5) for i in range(len(inside) - n + 1)]
            self._of_word[word] = [self.hash(f"{word} "), *map(self.hash, grams)]
        return self._of_word[word]

    def hash(self, gram: str) -> int:
        return zlib.crc32(gram.encode()) % self.buckets


def stem(word: str) -> str:
    """A plural without its s (Harman 1991, the "S" stemmer)."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    return f"{word[:-3]}y" if word.endswith("ies") and not word.endswith(("eies", "aies")) else word[:-1]


# ---------------------------------------------------------------- the file


def build_cache(folder: Path, name: str, texts: Sequence[str], tokenizer: Tokenizer) -> Tokens:
    """The tokens of `texts` from `folder`/`name`.safetensors, made first where that holds other ones."""
    key = cache_key(texts, tokenizer)
    path = Path(folder) / f"{name}.safetensors"
    if path.exists() and (tokens := read_cache(path, key)) is not None:
        return tokens
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path):
        if not path.exists() or read_cache(path, key) is None:
            with replacing(path) as file:
                file.write(pack(encode(texts, tokenizer), key))
    tokens = read_cache(path, key)
    assert tokens is not None
    return tokens


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Runs that start together must not write one file at once: the second waits, and finds it there."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with open(path.with_name(f".{path.name}.lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> Tokens:
    """Without a file. A bag of n-grams is kept as its distinct ids and their counts."""
    rows = tokenizer.encode(texts)
    if isinstance(tokenizer, HashedNgrams):
        counted = [np.unique(row, return_counts=True) for row in rows]
        rows, counts = [ids for ids, _ in counted], [times for _, times in counted]
    else:
        counts = [np.ones(len(row)) for row in rows]
    return ragged(rows, counts)


def ragged(rows: Sequence[np.ndarray], counts: Sequence[np.ndarray]) -> Tokens:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    ids = np.concatenate([*rows, np.zeros(0)]).astype(np.int32)
    return Tokens(ids, np.concatenate([*counts, np.zeros(0)]).astype(np.float32), offsets)


def cache_key(texts: Sequence[str], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.identity.encode())
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def pack(tokens: Tokens, key: str) -> bytes:
    arrays = {"ids": tokens.ids, "counts": tokens.counts, "offsets": tokens.offsets}
    return save(arrays, metadata={"key": key, "checksums": json.dumps(checksums(arrays))})


def checksums(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: zlib.crc32(np.ascontiguousarray(array)) for name, array in arrays.items()}


def read_cache(path: Path, key: str) -> Tokens | None:
    """None where the file holds other texts or another tokenizer's ids."""
    try:
        with safe_open(path, framework="numpy") as file:
            stored: dict[str, Any] = file.metadata() or {}
            if stored.get("key") not in (None, key):
                return None
        arrays = map_arrays(path)
        sound = stored.get("key") == key and checksums(arrays) == json.loads(stored["checksums"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path}: token cache is damaged ({type(error).__name__}); delete it") from None
    if not sound:
        raise InputError(f"{path}: token cache is damaged (its checksum does not match); delete it")
    return Tokens(arrays["ids"], arrays["counts"], arrays["offsets"])


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Memory-mapped: processes of one machine share the pages."""
    whole = np.memmap(path, mode="r")
    size = int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8 : 8 + size].tobytes())
    types = {"I32": np.int32, "F32": np.float32, "I64": np.int64}
    arrays = {}
    for name in ("ids", "counts", "offsets"):
        start, end = header[name]["data_offsets"]
        if 8 + size + end > os.path.getsize(path):
            raise ValueError(f"{name} is cut off")
        arrays[name] = whole[8 + size + start : 8 + size + end].view(types[header[name]["dtype"]])
    return arrays
