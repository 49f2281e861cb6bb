"""Texts to token ids for both tasks, from a hub name or a folder.

A folder with `vocab.json` and `merges.txt` alone is RoBERTa's (or GPT-2's) byte-level BPE and is built here,
without transformers; any other name goes through AutoTokenizer, whose fast form is used.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training_utils import InputError

SEPARATOR, START = "</s>", "<s>"  # RoBERTa's; what is around a text


@dataclass(frozen=True)
class TextTokenizer:
    """`backend` is a `tokenizers.Tokenizer`; `fingerprint` depends on what it does, not on its name."""

    name: str
    backend: Any
    vocab_size: int
    pad_id: int
    end_id: int | None  # what stands between two documents of a language model's text
    fingerprint: str

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
        """Ids of each text. With `max_length`: wrapped in the special tokens and cut to that many in all."""
        if max_length is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(max_length)
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=max_length is not None)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest type that holds every id."""
        return np.uint16 if self.vocab_size <= 2**16 else np.uint32

    def describe(self) -> dict[str, Any]:
        kept = ("name", "vocab_size", "pad_id", "end_id", "fingerprint")
        return {key: getattr(self, key) for key in kept}


def load_tokenizer(name: str) -> TextTokenizer:
    """A folder or a hub name; what is neither ends in one line."""
    folder = Path(name)
    bare = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if bare and not (folder / "tokenizer.json").is_file():
        backend, pad_id, end_id = _byte_level_bpe(folder)
    else:
        backend, pad_id, end_id = _from_transformers(name)
    backend.no_padding()
    backend.no_truncation()
    fingerprint = hashlib.sha256(backend.to_str().encode()).hexdigest()[:16]
    return TextTokenizer(name, backend, backend.get_vocab_size(), pad_id, end_id, fingerprint)


def _byte_level_bpe(folder: Path) -> tuple[Any, int, int | None]:
    """A backend, the padding id and the id that ends a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    try:
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:
        raise InputError(f"--tokenizer {folder}: vocab.json and merges.txt do not fit ({error})") from None
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if {START, SEPARATOR, "<pad>"} <= vocabulary.keys():
        ends = ((SEPARATOR, vocabulary[SEPARATOR]), (START, vocabulary[START]))
        backend.post_processor = processors.RobertaProcessing(
            *ends, trim_offsets=True, add_prefix_space=False
        )
        return backend, vocabulary["<pad>"], vocabulary[SEPARATOR]
    end = vocabulary.get("<|endoftext|>")  # GPT-2's only special token, which pads as well
    return backend, end or 0, end


def _from_transformers(name: str) -> tuple[Any, int, int | None]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        where = "no tokenizer there" if Path(name).exists() else "no such folder, and the hub gave nothing"
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"--tokenizer {name}: {where} ({reason}); name a folder with tokenizer.json, "
            "or with vocab.json and merges.txt"
        ) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"--tokenizer {name}: has no fast form (tokenizer.json); name another one")
    pad_id = tokenizer.pad_token_id
    end_id = next(
        (i for i in (tokenizer.eos_token_id, tokenizer.sep_token_id) if i is not None), None
    )  # BERT names its separator only
    return backend, end_id or 0 if pad_id is None else pad_id, end_id
