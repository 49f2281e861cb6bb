"""The texts of codes and queries as tokens: what a step encodes, and what it must not see.

A code's "examples" are its index entries that are not held out. In training such an entry is a query too, so
a step leaves its own queries out of the examples: otherwise it would be asked for a text that it was given.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from naics.data.census import IndexEntries, References, Taxonomy, load_index, load_references, load_taxonomy
from naics.data.matrix_triplets import philox
from naics.data.tokenization_cache import Tokenizer, Tokens, build_cache, concatenate, encode

SEEN = ("examples", "train")  # roles that training may read
QUERY_ORDER, QUERY_DROPOUT = 7, 8  # streams of the generator


@dataclass(frozen=True)
class Corpus:
    taxonomy: Taxonomy
    index: IndexEntries
    references: References


def load_corpus(data_dir: Path) -> Corpus:
    return Corpus(load_taxonomy(data_dir), load_index(data_dir), load_references(data_dir))


@dataclass(frozen=True)
class Queries:
    """Q texts with the code that each belongs to."""

    tokens: Tokens  # Q texts
    targets: np.ndarray  # (Q,) int64 rows of the taxonomy
    refused: np.ndarray  # (Q,) int64 the code whose cross-reference sends the text elsewhere, else -1
    entries: np.ndarray  # (Q,) int64 row of the index, -1 for an activity of a cross-reference

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: np.ndarray) -> "Queries":
        return Queries(self.tokens.take(rows), self.targets[rows], self.refused[rows], self.entries[rows])

    def batch(self, seed: int, epoch: int, step: int, size: int, dropout: float = 0.0) -> "Queries":
        """A function of its arguments: lap after lap over all texts, each lap in its own order. `dropout` is
        the share of their tokens that falls out.
        """
        places = np.arange(size, dtype=np.int64) + step * size
        laps, places = np.divmod(places, max(1, len(self)))
        rows = np.zeros(size, dtype=np.int64)
        for lap in np.unique(laps).tolist():
            order = np.random.Generator(philox(seed, QUERY_ORDER, 0, lap, epoch)).permutation(len(self))
            rows[laps == lap] = order[places[laps == lap]]
        taken = self.take(rows)
        if not dropout:
            return taken
        generator = np.random.Generator(philox(seed, QUERY_DROPOUT, 0, step, epoch))
        return replace(taken, tokens=taken.tokens.thin(dropout, generator))


class CodeTexts:
    """Tokens of all texts (without a folder for them, made in memory), and the four channels of any codes."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, cache_dir: Path | None) -> None:
        taxonomy, index = corpus.taxonomy, corpus.index
        self.corpus, self.tokenizer = corpus, tokenizer
        channels = {
            "title": taxonomy.titles,
            "description": taxonomy.descriptions,
            "excluded": taxonomy.excluded,
            "illustrations": taxonomy.examples,  # of codes without an index entry
            "entries": index.texts,
            "activities": corpus.references.activities,
        }
        self.tokens = {
            name: build_cache(cache_dir, name, texts, tokenizer) if cache_dir else encode(texts, tokenizer)
            for name, texts in channels.items()
        }
        seen = np.flatnonzero(np.isin(index.roles, SEEN))
        order = seen[np.argsort(index.rows[seen], kind="stable")]
        ends = np.cumsum(np.bincount(index.rows[order], minlength=len(taxonomy)))
        self.entries_of = np.split(order, ends[:-1])

    def channels(self, codes: np.ndarray, without: Sequence[int] | np.ndarray = ()) -> list[Tokens]:
        """title, description, excluded and examples of `codes`, the index entries `without` left out."""
        hidden = np.zeros(len(self.corpus.index.rows), dtype=bool)
        hidden[np.asarray(without, dtype=np.int64)] = True
        own = [self.entries_of[code][~hidden[self.entries_of[code]]] for code in codes]
        joined = self.tokenizer.join(self.tokens["entries"], own)
        lacks = np.array([not len(self.entries_of[code]) for code in codes], dtype=bool)
        if lacks.any():
            rows = np.arange(len(codes))
            both = concatenate([joined, self.tokens["illustrations"].take(codes)])
            joined = both.take(np.where(lacks, rows + len(codes), rows))
        return [*(self.tokens[name].take(codes) for name in ("title", "description", "excluded")), joined]

    @property
    def fingerprint(self) -> str:
        """Of all tokens."""
        digest = hashlib.sha256()
        for tokens in self.tokens.values():
            digest.update(tokens.ids)
            digest.update(tokens.offsets)
        return digest.hexdigest()[:16]

    def training_queries(self, entries: bool, redirections: bool) -> Queries:
        """What training asks: index entries that are not held out, and redirected activities."""
        parts = ([self.queries(SEEN)] if entries else []) + ([self.redirections()] if redirections else [])
        if not parts:
            return self.queries(())
        return Queries(
            concatenate([part.tokens for part in parts]),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("targets", "refused", "entries")
            ),
        )

    def queries(self, roles: Sequence[str]) -> Queries:
        """Index entries of these roles."""
        index = self.corpus.index
        rows = np.flatnonzero(np.isin(index.roles, roles))
        targets = index.rows[rows].astype(np.int64)
        return Queries(self.tokens["entries"].take(rows), targets, np.full(len(rows), -1), rows)

    def redirections(self) -> Queries:
        """Activities of cross-references: to the code they name first, away from the one that names it."""
        references = self.corpus.references
        rows = [i for i, targets in enumerate(references.targets) if targets and references.activities[i]]
        rows = np.array(rows, dtype=np.int64)
        targets = np.array([references.targets[i][0] for i in rows], dtype=np.int64)
        refused = references.rows[rows].astype(np.int64)
        known = targets != refused
        tokens = self.tokens["activities"].take(rows[known])
        return Queries(tokens, targets[known], refused[known], np.full(int(known.sum()), -1))

    def seen_texts(self) -> Tokens:
        """All that training may read, for the weights of n-grams."""
        seen = np.concatenate([*self.entries_of, np.zeros(0, np.int64)]).astype(np.int64)
        names = ("title", "description", "activities")
        return concatenate([*(self.tokens[name] for name in names), self.tokens["entries"].take(seen)])
