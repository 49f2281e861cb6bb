"""64-bit keys of texts and groups: rows that share a key belong on one side of a split.

- `group_keys`: rows of one cluster.
- `text_keys`: equal texts, after NFKC, case folding and the folding of punctuation and white space.
- `near_duplicate_keys`: besides equal texts, with every number folded to 0 where three distinct words remain,
  always: texts of the same set of words, and texts that differ by one distinct word (one more, one less or
  one other) where the longer has at least five;
  nearly always: texts of eight or more distinct words that share most of them, by 16 MinHash bands of 8. A
  pair of word sets with a Jaccard similarity of 0.9 escapes once in 10,000 times, one of 0.8 once in 20, and
  then only where no third text links the two.
  In scripts without spaces each pair of neighbouring characters counts as a word.

A key depends on its text alone. The first key of a row, of its cluster or else of its text, always joins.
"""

import re
import unicodedata
from hashlib import blake2b

import numpy as np

# Punctuation and symbols. `\W` would also split words at the combining vowel signs of Indic scripts and Thai.
PUNCTUATION = re.compile(
    r"[\s!-/:-@\[-`{-~\x80-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7\u055a-\u055f\u060c\u061b\u061f\u06d4\u0964\u0965"
    r"\u2000-\u2bff\u3000-\u3004\u3007-\u3020\u3030\u30fb\ufe0f-\ufe6f\U0001f000-\U0001faff]+"
)
NUMBER = re.compile(r"\d+")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

SKETCH_WORDS = 12  # of lowest hash stand for a text: one changed word changes at most one of them
MIN_WORDS_FOLDED = 3
MIN_WORDS_ONE_OFF = 5
MIN_WORDS_MINHASH = 8
BANDS, BAND_HASHES = 16, 8
NEAR_DUPLICATE_KEYS = 1 + 1 + SKETCH_WORDS + BANDS

WORD_CACHE_SIZE = 2**18


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: a fixed bijection of 64-bit integers whose output looks random."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_strings(strings: list[str], kind: bytes) -> np.ndarray:
    """64-bit hashes; strings of another kind have unrelated ones."""
    digests = b"".join(
        blake2b(string.encode("utf-8", "replace"), digest_size=8, person=kind).digest() for string in strings
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def fold(text: str) -> str:
    """The text without case, punctuation and width variants, its words separated by single spaces."""
    folded = PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return folded or " ".join(text.split())  # a text of punctuation alone equals only itself


def text_keys(texts: list[str]) -> np.ndarray:
    """One key a text, equal for texts that are equal after folding."""
    return hash_strings([fold(text) for text in texts], b"text")


def group_keys(values: np.ndarray) -> np.ndarray:
    """One key for each int64 group number."""
    return mix(values.astype(np.int64).view(np.uint64) ^ np.uint64(0x6A09E667F3BCC908))


# ---------------------------------------------------------------- near-duplicates

_word_hashes: dict[str, int] = {}


def _words(text: str) -> set[str]:
    """The distinct words, with numbers folded unless that leaves too little to tell texts apart by."""
    folded = fold(text)
    words = _split_words(NUMBER.sub("0", folded))
    return words if len(words) >= MIN_WORDS_FOLDED else _split_words(folded)


def _split_words(folded: str) -> set[str]:
    words: set[str] = set()
    for word in folded.split():
        if len(word) > 2 and UNSPACED.search(word):
            words.update(word[start : start + 2] for start in range(len(word) - 1))
        else:
            words.add(word)
    return words


def _sorted_hashes(words: set[str]) -> list[int]:
    """Hashes of the words, lowest first. The cache is emptied when full, so that it stays bounded."""
    unseen = [word for word in words if word not in _word_hashes]
    if unseen:
        if len(_word_hashes) > WORD_CACHE_SIZE:
            _word_hashes.clear()
            unseen = list(words)
        _word_hashes.update(zip(unseen, hash_strings(unseen, b"word").tolist(), strict=True))
    return sorted(_word_hashes[word] for word in words)


def near_duplicate_keys(texts: list[str]) -> np.ndarray:
    """(N, NEAR_DUPLICATE_KEYS) keys; near-duplicates, as the head of this file defines them, share one."""
    # Places that a short text does not need repeat the text's own key.
    keys = np.repeat(text_keys(texts)[:, None], NEAR_DUPLICATE_KEYS, axis=1)
    hashes = [_sorted_hashes(_words(text)) for text in texts]

    # A set's key is mixed from the sum of its members, so leaving a word out is a subtraction.
    sketches = np.zeros((len(texts), SKETCH_WORDS), dtype=np.uint64)
    for row, row_hashes in enumerate(hashes):
        sketches[row, : len(row_hashes)] = row_hashes[:SKETCH_WORDS]
    sums = sketches.sum(axis=1, dtype=np.uint64)
    keys[:, 1] = mix(sums)
    counts = np.array([len(row_hashes) for row_hashes in hashes])
    one_off = (sketches != 0) & (counts >= MIN_WORDS_ONE_OFF)[:, None]
    keys[:, 2 : 2 + SKETCH_WORDS] = np.where(one_off, mix(sums[:, None] - sketches), keys[:, 1:2])

    long = np.flatnonzero(counts >= MIN_WORDS_MINHASH)
    if len(long):
        flat = np.array([value for row in long for value in hashes[row]], dtype=np.uint64)
        starts = np.concatenate([[0], np.cumsum(counts[long])[:-1]])
        keys[long, 2 + SKETCH_WORDS :] = _minhash_bands(flat, starts)
    return keys


def _minhash_bands(flat: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(rows, BANDS) keys, each mixed from a row's lowest words under BAND_HASHES random orders."""
    bands = np.empty((len(starts), BANDS), dtype=np.uint64)
    for band in range(BANDS):
        key = np.full(len(starts), band, dtype=np.uint64)
        for index in range(band * BAND_HASHES, (band + 1) * BAND_HASHES):
            salt = mix(np.array([index + 1]))
            key = mix(key + np.minimum.reduceat(mix(flat ^ salt), starts))
        bands[:, band] = key
    return bands
