"""Scores of BM25 and the learned space -> probabilities of all codes, an answer by level, and its evidence.

Both scores enter a softmax over the six-digit codes, each with a weight (a temperature) of its own, fitted
to the likelihood of the validation entries while only what training may read is text of a code. A question
is then answered with all entries as text. That adds to what is found and does not harm the calibration:
with all but the validation entries as text, the lexical half's error on these stays at 0.03.
"""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naics.calibration import calibration_by_level, code_probabilities, fit_weights
from naics.data.census import DESCRIPTIONS, INDEX, REFERENCES
from naics.data.texts import Corpus, load_corpus
from naics.evaluate import entries_of
from naics.inference import LoadedModel, load_model
from naics.lexical import SEEN, Lexical, words
from training_utils import write_json

QUERIES_AT_ONCE = 256
CALIBRATION = "search_calibration.json"
EVERY_ROLE = (*SEEN, "validation", "test", "withheld")
MATCHES = 0.7  # share of a query's weight that a cross-reference must hold to be shown
MOST_NOTES = 3
DIGITS = 4  # of a probability that is shown, and compared with the threshold


@dataclass(frozen=True)
class Evidence:
    text: str
    role: str


@dataclass(frozen=True)
class Candidate:
    """A code of any level; `evidence` belongs to six-digit codes."""

    code: str
    title: str
    probability: float
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Answer:
    """`code` is the deepest whose probability reached the threshold, of several the likeliest; None where no
    code did. `levels` lead from its sector to it and on to the likeliest below; without a code, from the top.
    """

    query: str
    code: str | None
    levels: list[Candidate]
    codes: list[Candidate]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class WordIndex:
    """Which texts say most of a query, by the weight of its words: log(texts / texts with the word)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = [frozenset(words(text)) for text in texts]
        counts = Counter(word for held in self._words for word in held)
        self._weight = {word: math.log(1 + len(texts) / count) for word, count in counts.items()}
        self._rarest = math.log(1 + len(texts))  # of a word that no text holds

    def _total(self, held: frozenset[str]) -> float:
        return sum(self._weight.get(word, self._rarest) for word in held)

    def known(self, query: str) -> float:
        """Share of the query's weight in words that stand in any text, 0 to 1."""
        asked = frozenset(words(query))
        return self._total(asked & self._weight.keys()) / self._total(asked) if asked else 0.0

    def coverage(self, query: str, row: int) -> float:
        """Share of the query's weight that text `row` holds, 0 to 1."""
        asked = frozenset(words(query))
        return self._total(asked & self._words[row]) / self._total(asked) if asked else 0.0

    def likeness(self, query: str, row: int) -> float:
        """Cosine of the sets of weighted words: of two texts that cover the query alike the shorter wins."""
        asked, held = frozenset(words(query)), self._words[row]
        norm = math.sqrt(self._total(asked) * self._total(held))
        return self._total(asked & held) / norm if norm else 0.0


class Hybrid:
    """Texts -> one score a half (k, q, leaves): the lexical one and, with a model, the learned space's.

    The lexical half gives its best code the same score whatever the query, also one of which it knows little:
    its scores shrink with the share of the query that is known, and the probabilities spread out.
    """

    def __init__(
        self, corpus: Corpus, model: LoadedModel | None, word_index: WordIndex, roles: Sequence[str] = SEEN
    ) -> None:
        self._lexical = Lexical(corpus.taxonomy, corpus.index, corpus.references, roles)
        self._words, self.model = word_index, model

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        known = np.array([self._words.known(text) for text in texts])[:, None]
        halves = [known * self._lexical.scores(texts)]
        if self.model is not None:
            halves.append(-self.model.look_up(texts))
        return np.stack(halves)


class Searcher:
    """Answers texts; `weights` (k,) are those of the halves of `hybrid`."""

    def __init__(self, corpus: Corpus, hybrid: Hybrid, word_index: WordIndex, weights: np.ndarray) -> None:
        taxonomy, index, references = corpus.taxonomy, corpus.index, corpus.references
        self.taxonomy, self.index, self.references = taxonomy, index, references
        self.hybrid, self.weights, self._words = hybrid, weights, word_index
        self._entries: dict[int, list[int]] = {}
        for place, row in enumerate(index.rows.tolist()):
            self._entries.setdefault(row, []).append(place)
        self._references: dict[int, list[int]] = {}
        for place, row in enumerate(references.rows.tolist()):
            self._references.setdefault(row, []).append(place)
        self._children: dict[int, list[int]] = {}
        for row, parent in enumerate(taxonomy.parents.tolist()):
            self._children.setdefault(parent, []).append(row)

    def answer(self, texts: Sequence[str], top_k: int, threshold: float) -> list[Answer | None]:
        """One answer a text, in order; None where there is no text."""
        found: list[Answer | None] = [None] * len(texts)
        asked = [place for place, text in enumerate(texts) if text.strip()]
        for start in range(0, len(asked), QUERIES_AT_ONCE):
            part = asked[start : start + QUERIES_AT_ONCE]
            scores = self.hybrid.scores([texts[place] for place in part])
            probabilities = code_probabilities(np.tensordot(self.weights, scores, 1), self.taxonomy)
            for place, probability in zip(part, probabilities, strict=True):
                found[place] = self._answer(texts[place], probability, top_k, threshold)
        return found

    def _answer(self, query: str, probability: np.ndarray, top_k: int, threshold: float) -> Answer:
        """`probability` (n,) of all codes."""
        tree, leaves = self.taxonomy, self.taxonomy.leaves
        reached = np.flatnonzero(probability.round(DIGITS) >= threshold).tolist()
        chosen = max(reached, key=lambda row: (tree.levels[row], probability[row]), default=-1)
        path = [row for row in tree.ancestors[chosen].tolist() if row >= 0] if chosen >= 0 else []
        row = chosen
        while row in self._children:  # on to the likeliest six-digit code below it
            row = max(self._children[row], key=lambda child: probability[child])
            path.append(row)
        levels = [self._candidate(row, probability) for row in path]
        best = leaves[np.argsort(-probability[leaves], kind="stable")[:top_k]].tolist()
        codes = [self._candidate(row, probability, self._evidence(query, row)) for row in best]
        code = tree.codes[chosen] if chosen >= 0 else None
        return Answer(query, code, levels, codes, self._notes(query, best))

    def _candidate(self, row: int, probability: np.ndarray, evidence: Evidence | None = None) -> Candidate:
        code, title = self.taxonomy.codes[row], self.taxonomy.titles[row]
        return Candidate(code, title, round(float(probability[row]), DIGITS), evidence)

    def _evidence(self, query: str, row: int) -> Evidence | None:
        """The index entry of a code that is most like the query; None where none shares a word."""
        entries = self._entries.get(row, [])
        best = max(entries, key=lambda place: self._words.likeness(query, place), default=None)
        if best is None or self._words.likeness(query, best) == 0:
            return None
        return Evidence(self.index.texts[best], str(self.index.roles[best]))

    def _notes(self, query: str, codes: list[int]) -> list[str]:
        """Cross-references that send what the query says away from one of `codes`, or its parent."""
        found = {}
        for row in codes:
            for origin in (row, int(self.taxonomy.parents[row])):
                for place in self._references.get(origin, []):
                    covered = self._words.coverage(query, len(self.index.texts) + place)
                    elsewhere = self.references.targets[place] and codes[0] not in self._below(place)
                    if covered >= MATCHES and elsewhere:
                        found.setdefault(self.references.texts[place], (covered, origin))
        ranked = sorted(found.items(), key=lambda item: -item[1][0])[:MOST_NOTES]
        return [f"{self.taxonomy.codes[origin]} says: {text}" for text, (_, origin) in ranked]

    def _below(self, place: int) -> set[int]:
        """The codes that reference `place` sends to, and all below them."""
        targets = list(self.references.targets[place])
        return set(np.flatnonzero(np.isin(self.taxonomy.ancestors, targets).any(axis=1)).tolist())


# ---------------------------------------------------------------- calibration


def fingerprint(data_dir: Path, checkpoint: Path | None) -> str:
    """Of all that a calibration depends on."""
    digest = hashlib.sha256()
    for path in (*(data_dir / name for name in (DESCRIPTIONS, INDEX, REFERENCES)), checkpoint):
        if path is not None:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def word_index_of(corpus: Corpus) -> WordIndex:
    return WordIndex([*corpus.index.texts, *corpus.references.activities])


def calibrate(corpus: Corpus, model: LoadedModel | None, word_index: WordIndex) -> dict[str, Any]:
    """Weights of the halves, fitted to the validation entries, and by level the calibration error."""
    texts, targets = entries_of(corpus.taxonomy, corpus.index, "validation")
    hybrid = Hybrid(corpus, model, word_index)
    parts = [texts[start : start + QUERIES_AT_ONCE] for start in range(0, len(texts), QUERIES_AT_ONCE)]
    scores = np.concatenate([hybrid.scores(part) for part in parts], axis=1)
    weights = fit_weights(scores, targets)
    probability = code_probabilities(np.tensordot(weights, scores, 1), corpus.taxonomy)
    by_level = calibration_by_level(probability, corpus.taxonomy.leaves[targets], corpus.taxonomy)
    return {"entries": len(texts), "weights": weights.tolist(), "levels": by_level}


def stored_calibration(
    data_dir: Path, corpus: Corpus, model: LoadedModel | None, word_index: WordIndex
) -> dict[str, Any]:
    """As `calibrate`, kept beside the checkpoint, or in the data folder, until data or model change."""
    folder = data_dir if model is None else model.checkpoint.parent
    key = fingerprint(data_dir, None if model is None else model.checkpoint)
    path = folder / CALIBRATION
    try:
        found = json.loads(path.read_text())
        weights = np.array(found["weights"], dtype=float)
        if (
            found["key"] == key
            and weights.shape == (1 if model is None else 2,)
            and np.isfinite(weights).all()
        ):
            return found
    except (OSError, ValueError, LookupError, TypeError):
        pass  # none yet, or not whole: made again
    found = json.loads(json.dumps({"key": key, **calibrate(corpus, model, word_index)}))
    if os.access(folder, os.W_OK) and not path.is_dir():
        write_json(path, found)
    return found


def load_searcher(checkpoint: Path, data_dir: Path, device: str) -> Searcher:
    """BM25 alone where there is no such checkpoint."""
    corpus = load_corpus(data_dir)
    model = load_model(checkpoint, data_dir, device) if checkpoint.is_file() else None
    word_index = word_index_of(corpus)
    weights = stored_calibration(data_dir, corpus, model, word_index)["weights"]
    hybrid = Hybrid(corpus, model, word_index, EVERY_ROLE)
    return Searcher(corpus, hybrid, word_index, np.array(weights))
