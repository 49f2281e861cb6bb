"""Tokens of naics/: hashed n-grams, subwords, joined texts, and the cache file: stale, damaged, mapped."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from naics.data.tokenization_cache import (
    HashedNgrams,
    SubwordTokenizer,
    Tokens,
    build_cache,
    concatenate,
    encode,
    no_tokens,
    stem,
)
from training_utils import InputError

TEXTS = ["Dog grooming services", "", "Bakeries, retail: bread and cakes", "dogs"]


def rows(tokens: Tokens) -> list[dict[int, float]]:
    pairs = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    return [dict(zip(tokens.ids[a:b].tolist(), tokens.counts[a:b].tolist(), strict=True)) for a, b in pairs]


@pytest.fixture(scope="module")
def subwords(tiny_tokenizer) -> SubwordTokenizer:
    return SubwordTokenizer(str(tiny_tokenizer), 16)


def test_n_grams_of_a_word_and_pairs_of_words():
    hashed = HashedNgrams(10_007)
    expected = ["dog ", "<do", "dog", "og>", "<dog", "dog>", "<dog>"]
    assert hashed.encode_text("Dogs") == [hashed.hash(gram) for gram in expected]
    assert hashed.hash("dog grooming") in hashed.encode_text("the dogs' grooming")
    assert not hashed.encode_text("and other of the")
    assert max(hashed.encode_text("Bread baking")) < 10_007


@pytest.mark.parametrize(
    ("word", "stemmed"),
    [("dogs", "dog"), ("bakeries", "bakery"), ("glass", "glass"), ("gas", "gas"), ("citrus", "citrus")],
)
def test_the_s_stemmer(word, stemmed):
    assert stem(word) == stemmed


def test_counts_are_of_distinct_ids():
    tokens = encode(["dog dog dog cat"], HashedNgrams(10_007))
    hashed = HashedNgrams(10_007)
    assert rows(tokens)[0][hashed.hash("dog ")] == 3 and rows(tokens)[0][hashed.hash("cat ")] == 1
    assert len(set(tokens.ids.tolist())) == len(tokens.ids)


def test_take_concatenate_and_empty_texts():
    tokens = encode(TEXTS, HashedNgrams(997))
    assert rows(tokens.take([3, 1, 0])) == [rows(tokens)[3], {}, rows(tokens)[0]]
    assert rows(concatenate([tokens, no_tokens(2)])) == [*rows(tokens), {}, {}]
    assert len(tokens.take([])) == 0


def test_joined_bags_are_the_bag_of_all_words():
    """Pairs of words across texts are the only difference to one long text."""
    hashed = HashedNgrams(10_007)
    tokens = encode(["dog cat", "bread", "dog"], hashed)
    joined = rows(hashed.join(tokens, [np.array([0, 2]), np.array([], int), np.array([1])]))
    once = rows(tokens)
    summed = {key: once[0].get(key, 0) + once[2].get(key, 0) for key in {*once[0], *once[2]}}
    assert joined == [summed, {}, once[1]]


def test_joined_subwords_end_where_the_model_ends(subwords):
    tokens = encode(["ring gold", "novel", "boot heel lace sole"], subwords)
    parts = [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
    assert subwords.opening == 0  # as Qwen's; BERT's is 1
    joined = subwords.join(tokens, [np.array([1, 0]), np.array([2, 0, 1]), np.array([], int)])
    assert joined.ids[: joined.offsets[1]].tolist() == parts[1] + parts[0]
    assert joined.ids[joined.offsets[1] :].tolist() == parts[2]  # with a second text it would pass 16
    subwords.opening = 1
    joined = subwords.join(tokens, [np.array([1, 0])])
    subwords.opening = 0
    assert joined.ids.tolist() == parts[1] + parts[0][1:]


def test_long_texts_are_cut(subwords):
    tokens = encode(["novel " * 50, ""], subwords)
    assert tokens.lengths.tolist() == [16, 0]
    assert len(HashedNgrams(997, max_words=2).encode_text("one two three")) == len(
        HashedNgrams(997).encode_text("one two")
    )


# ---------------------------------------------------------------- the file


def test_a_second_start_reads_the_file(tmp_path, monkeypatch):
    hashed = HashedNgrams(997)
    first = build_cache(tmp_path, "titles", TEXTS, hashed)
    stamp = (tmp_path / "titles.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(HashedNgrams, "encode", lambda *_: pytest.fail("tokenized again"))
    second = build_cache(tmp_path, "titles", TEXTS, hashed)
    assert rows(first) == rows(second)
    assert isinstance(second.ids.base, np.memmap) or isinstance(second.ids, np.memmap)
    assert (tmp_path / "titles.safetensors").stat().st_mtime_ns == stamp
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"titles.safetensors", ".titles.safetensors.lock"}


def test_runs_that_start_together_write_the_file_once(tmp_path):
    class Slow(HashedNgrams):
        def encode(self, texts):
            time.sleep(0.2)
            encoded.append(len(texts))
            return super().encode(texts)

    encoded: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: build_cache(tmp_path, "codes", TEXTS, Slow(509)), range(4)))
    assert encoded == [len(TEXTS)]
    assert all(rows(tokens) == rows(encode(TEXTS, HashedNgrams(509))) for tokens in found)


@pytest.mark.parametrize("change", ["text", "order", "buckets", "length"])
def test_a_stale_file_is_written_anew(tmp_path, change):
    build_cache(tmp_path, "titles", TEXTS, HashedNgrams(997))
    texts = {"text": ["Cats", *TEXTS[1:]], "order": TEXTS[::-1]}.get(change, TEXTS)
    hashed = HashedNgrams(991 if change == "buckets" else 997, 3 if change == "length" else 512)
    assert rows(build_cache(tmp_path, "titles", texts, hashed)) == rows(encode(texts, hashed))


def test_texts_that_only_join_alike_are_other_texts(tmp_path):
    hashed = HashedNgrams(997)
    build_cache(tmp_path, "titles", ["ab", "c"], hashed)
    assert rows(build_cache(tmp_path, "titles", ["a", "bc"], hashed)) == rows(encode(["a", "bc"], hashed))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    build_cache(tmp_path, "titles", TEXTS, HashedNgrams(997))
    path = tmp_path / "titles.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-3] ^= 255
    path.write_bytes({"cut": content[:-9], "empty": b"", "text": b"no tensors at all"}.get(damage, content))
    with pytest.raises(InputError, match=r"titles.safetensors: token cache is damaged .*delete it"):
        build_cache(tmp_path, "titles", TEXTS, HashedNgrams(997))


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="model.base_model_name"):
        SubwordTokenizer(str(tmp_path / "nothing"), 16)
