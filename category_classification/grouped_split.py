"""Which rows must stay on one side of a split, and the split itself.

Every row carries some 64-bit keys; rows that share a key, directly or through other rows, form one group,
and a group goes whole to train, validation or test. The keys say what is kept together:

- `text_keys`: equal texts, after NFKC, case folding and the folding of punctuation and white space.
- `near_duplicate_keys`: besides those, with every number folded to 0,
  always: texts of the same set of words, and texts that differ by one distinct word (one more, one less or
  one other) where the longer has at least five;
  nearly always: texts of eight or more distinct words that share most of them, by 16 MinHash bands of 8. A
  pair of word sets with a Jaccard similarity of 0.9 escapes once in 10,000 times, one of 0.8 once in 20, and
  then only where no third text links the two.
  In scripts without spaces each pair of neighbouring characters counts as a word.

Where common texts would chain half the rows into one group, keys that many rows share join nothing; the
held-out rows that share one with a row on another side are left out of the splits instead, so that what is
promised above holds in any case.

Groups and sides depend on the rows and the seed alone: not on the order of the rows, the number of workers
or the size of a batch. The time is linear in the rows but for sorting; the keys are taken in slices of the
key space, so that beyond 4 bytes a row 300 MB are enough.
"""

import re
import unicodedata
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np

TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, 3

# Punctuation and symbols. `\W` would also split words at the combining vowel signs of Indic scripts and Thai.
PUNCTUATION = re.compile(
    r"[\s!-/:-@\[-`{-~\x80-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7\u055a-\u055f\u060c\u061b\u061f\u06d4\u0964\u0965"
    r"\u2000-\u2bff\u3000-\u3004\u3007-\u3020\u3030\u30fb\ufe0f-\ufe6f\U0001f000-\U0001faff]+"
)
NUMBER = re.compile(r"\d+")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

SKETCH_WORDS = 12  # of lowest hash stand for a text: one changed word changes at most one of them
MIN_WORDS_ONE_OFF = 5
MIN_WORDS_MINHASH = 8
BANDS, BAND_HASHES = 16, 8
NEAR_DUPLICATE_KEYS = 1 + 1 + SKETCH_WORDS + BANDS

KEYS_PER_SLICE = 2**23
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
    words: set[str] = set()
    for word in NUMBER.sub("0", fold(text)).split():
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


# ---------------------------------------------------------------- groups


def group_rows(key_files: list[Path], rows: int, max_shared: int | None = None) -> np.ndarray:
    """Each row's group, named by its first row (int32); `key_files` hold (rows, keys) uint64, in order.

    With `max_shared`, a key that occurs more often joins nothing, unless it is the first key of some row.
    """
    root = np.arange(rows, dtype=np.int32)
    for owners, is_first, starts in _runs_of_equal_keys(key_files):
        lengths = np.diff(starts, append=len(owners))
        if max_shared is not None:
            joins = (lengths <= max_shared) | np.logical_or.reduceat(is_first, starts)
            owners, starts, lengths = owners[np.repeat(joins, lengths)], starts[joins], lengths[joins]
            starts = np.cumsum(lengths) - lengths
        _unite(root, np.repeat(owners[starts], lengths), owners)
    return root


def leave_out_crossing(key_files: list[Path], sides: np.ndarray) -> None:
    """Set to LEFT_OUT the held-out rows that share a key with a row of an earlier side, train being first.

    Afterwards no key occurs on two sides. Without `max_shared` no row is left out.
    """
    before = sides.copy()
    for owners, _, starts in _runs_of_equal_keys(key_files):
        of_run = before[owners]
        earliest = np.minimum.reduceat(of_run, starts)
        crossing = of_run > np.repeat(earliest, np.diff(starts, append=len(owners)))
        sides[owners[crossing]] = LEFT_OUT


def _runs_of_equal_keys(key_files: list[Path]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each slice of the key space the rows in the order of their keys, and where the runs of a key start.

    Between the two: whether the key is its row's first. Within a run the lowest row comes first.
    """
    slices = -(-sum(np.load(path, mmap_mode="r").size for path in key_files) // KEYS_PER_SLICE)
    for part in range(slices):
        keys, owners, is_first, offset = [], [], [], 0
        for path in key_files:  # one open at a time, for a large table has thousands of them
            file = np.load(path)
            row, column = np.nonzero(file % np.uint64(slices) == part)
            keys.append(file[row, column])
            owners.append((row + offset).astype(np.int32))
            is_first.append(column == 0)
            offset += len(file)
        sorted_keys = np.concatenate(keys)
        if not len(sorted_keys):
            continue
        order = np.argsort(sorted_keys, kind="stable")
        sorted_keys = sorted_keys[order]
        starts = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
        yield np.concatenate(owners)[order], np.concatenate(is_first)[order], starts


def _unite(root: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Join the groups of left[i] and right[i] for all i; `root` names each row's group by its lowest row."""
    while True:
        low, high = root[left], root[right]
        apart = low != high
        if not apart.any():
            return
        left, right = left[apart], right[apart]
        low, high = low[apart], high[apart]
        np.minimum.at(root, np.maximum(low, high), np.minimum(low, high))
        while True:
            shorter = root[root]
            if np.array_equal(shorter, root):
                break
            root[:] = shorter


# ---------------------------------------------------------------- split


def draw_sides(
    group_hash: np.ndarray,
    group_size: np.ndarray,
    group_class: np.ndarray,
    val_size: float,
    test_size: float,
    seed: int,
) -> np.ndarray:
    """A side (int8) for each group: of each class about `test_size` and `val_size` of the rows are held out.

    The largest group of a class goes to train, and so does any other too large for what is left of a share;
    the rest are taken in the order of a seeded hash. Each side gets one where a class has three groups.
    """
    sides = np.full(len(group_hash), TRAIN, dtype=np.int8)
    order = np.argsort(mix(group_hash ^ mix(np.array([seed]))), kind="stable")
    for label in np.unique(group_class):
        queue = order[group_class[order] == label]
        queue = np.delete(queue, np.argmax(group_size[queue]))
        class_rows = int(group_size[queue].sum())
        for side, share in ((TEST, test_size), (VALIDATION, val_size)):
            taken = _take(group_size[queue].tolist(), round(share * class_rows))
            sides[queue[taken]] = side
            queue = np.delete(queue, taken)
    return sides


def _take(sizes: list[int], room: int) -> list[int]:
    """Places of the groups that fit one after the other into `room` rows; the smallest where none fits."""
    taken = []
    for place, size in enumerate(sizes):
        if size <= room:
            taken.append(place)
            room -= size
        if room == 0:
            break
    return taken or [sizes.index(min(sizes))] if sizes else []
