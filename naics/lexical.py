"""The lexical half of the search: BM25 over the words and the character 4-grams of each six-digit code.

    scores = Lexical(taxonomy, index, references).scores(["mobile dog grooming"])

q texts, n six-digit codes in the order of `taxonomy.leaves`. A code's document is its title, its description,
its index entries that are not held out, and the activities that other codes refer to it.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from naics.data.census import IndexEntries, References, Taxonomy
from naics.data.texts import SEEN
from naics.data.tokenization_cache import stem

TOKEN = re.compile(r"[a-z0-9]+|[();]")

Analyzer = Callable[[str], list[str]]


# ---------------------------------------------------------------- text -> tokens


def words(text: str) -> list[str]:
    return [stem(token) for token in TOKEN.findall(text.lower()) if token not in "();"]


def marked_words(text: str) -> list[str]:
    """Words, those of an exception with "!" before them: "pet care (except veterinary)" is not veterinary."""
    found, mark = [], ""
    for token in TOKEN.findall(text.lower()):
        if token == "except":
            mark = "!"
        elif token in ");":
            mark = ""
        elif token != "(":
            found.append(mark + stem(token))
    return found


def with_pairs(tokens: list[str]) -> list[str]:
    """The tokens and each two that follow one another."""
    return tokens + [f"{a} {b}" for a, b in zip(tokens, tokens[1:], strict=False)]


def word_pairs(text: str) -> list[str]:
    return with_pairs(words(text))


def marked_pairs(text: str) -> list[str]:
    return with_pairs(marked_words(text))


def character_grams(text: str, size: int = 4) -> list[str]:
    """Grams inside words, ends included, so that spellings and compounds of a word meet."""
    grams = []
    for word in marked_words(text):
        mark, padded = "!" * (word[0] == "!"), f" {word.lstrip('!')} "
        grams += [mark + padded[i : i + size] for i in range(max(1, len(padded) - size + 1))]
    return grams


# ---------------------------------------------------------------- codes -> documents


def code_documents(
    taxonomy: Taxonomy,
    index: IndexEntries,
    roles: Sequence[str] = SEEN,
    references: References | None = None,
    descriptions: bool = True,
) -> list[list[str]]:
    """The texts of each six-digit code, title first.

    Role "examples" is the taxonomy's column of that name, which holds these index entries, or illustrative
    examples where a code has none.
    """
    documents = {}
    for row in taxonomy.leaves.tolist():
        documents[row] = [taxonomy.titles[row]]
        if descriptions:
            documents[row].append(taxonomy.descriptions[row])
        if "examples" in roles:
            documents[row] += taxonomy.examples[row].split("; ")
    for row, text, role in zip(index.rows.tolist(), index.texts, index.roles, strict=True):
        if role in roles and role != "examples":
            documents[row].append(text)
    if references is not None:
        for activity, targets in zip(references.activities, references.targets, strict=True):
            for target in documents.keys() & set(targets):
                documents[target].append(activity)
    return list(documents.values())


# ---------------------------------------------------------------- scorers: texts -> (q, n)


class BM25:
    """Sum over the query's tokens of idf * tf / (tf + k1 (1 - b + b length / mean length)), as in Lucene."""

    def __init__(
        self, documents: Sequence[Sequence[str]], analyzer: Analyzer, k1: float = 1.5, b: float = 0.75
    ) -> None:
        import bm25s

        self.analyzer, self._count = analyzer, len(documents)
        self._bm25 = bm25s.BM25(k1=k1, b=b, method="lucene")
        tokens = [[token for text in texts for token in analyzer(text)] for texts in documents]
        self._bm25.index(tokens, show_progress=False)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(q, n) float32."""
        found = np.zeros((len(texts), self._count), dtype=np.float32)
        for row, text in enumerate(texts):
            known = self._bm25.get_tokens_ids(self.analyzer(text))
            found[row] = self._bm25.get_scores_from_ids(known)
        return found


class HashedTrigrams:
    """Cosine of hashed counts of character trigrams, which knows nothing of rare and common: a floor."""

    def __init__(self, documents: Sequence[Sequence[str]], buckets: int = 2**15) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        # l2 is the vectorizer's norm, so that a product is a cosine.
        self._vectorizer = HashingVectorizer(
            analyzer="char_wb", ngram_range=(3, 3), n_features=buckets, alternate_sign=False
        )
        self._documents = self._vectorizer.transform([" ".join(texts) for texts in documents])

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        return (self._vectorizer.transform(texts) @ self._documents.T).toarray()


class Lexical:
    """Two BM25, over words with pairs and over character grams, each in units of the query's best score."""

    def __init__(
        self,
        taxonomy: Taxonomy,
        index: IndexEntries,
        references: References,
        roles: Sequence[str] = SEEN,
    ) -> None:
        documents = code_documents(taxonomy, index, roles, references)
        # Codes with many entries are often the ones meant: lengths count for less than in running text.
        self._parts = [BM25(documents, analyzer, b=0.3) for analyzer in (marked_pairs, character_grams)]

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(q, n) float32, from 0 to 2; all 0 where nothing of a text is known."""
        total = np.zeros((len(texts), 1), dtype=np.float32)
        for part in self._parts:
            scores = part.scores(texts)
            total = total + scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-9)
        return total
