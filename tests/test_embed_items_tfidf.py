"""embed_items_tfidf.py: cosines of TF-IDF itself where no axis is left out, and one line for bad input."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_refused, make_texts, run_main

from semantic_ids import embed_items_tfidf
from semantic_ids.item_embeddings import read_item_embeddings


def tfidf_cosines(texts: list[str]) -> np.ndarray:
    """Written out: (1 + ln count) * (1 + ln((1 + N) / (1 + texts with the term)))."""
    words = [text.lower().split() for text in texts]
    terms = [row + [f"{a} {b}" for a, b in zip(row, row[1:], strict=False)] for row in words]
    names = sorted({term for row in terms for term in row})
    weights = np.zeros((len(texts), len(names)))
    for row, found in enumerate(terms):
        for term in set(found):
            with_term = sum(term in other for other in terms)
            rarity = 1 + math.log((1 + len(texts)) / (1 + with_term))
            weights[row, names.index(term)] = (1 + math.log(found.count(term))) * rarity
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return weights @ weights.T


def write(path, texts, ids=None):
    ids = ids or [f"B{number:03}" for number in range(len(texts))]
    pq.write_table(pa.table({"parent_asin": ids, "item_context": texts, "brand": ["x"] * len(texts)}), path)
    return path


def embed(items, output, *flags):
    return run_main(embed_items_tfidf.main, "--items", items, "--output", output, *flags)


def test_cosines_are_those_of_tfidf():
    texts = [*make_texts(40, seed=3)[0], "novel novel novel ring"]
    vectors = embed_items_tfidf.embed_texts(texts, len(texts) - 1, seed=0).astype(np.float64)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    # One axis of 41 is left out: what it carried is small, and nothing else may differ.
    assert np.abs(vectors @ vectors.T - tfidf_cosines(texts)).mean() < 5e-3


def test_a_run_keeps_the_table_and_repeats(tmp_path):
    items = write(tmp_path / "items.parquet", make_texts(60, seed=4)[0])
    for name in ("a.parquet", "b.parquet"):
        result = embed(items, tmp_path / name, "--dim", 16)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["parent_asin", "item_context", "brand", "embedding"]
    assert read_item_embeddings(tmp_path / "a.parquet", 16).vectors.shape == (60, 16)


def test_bad_input_is_named(tmp_path):
    output = tmp_path / "out.parquet"
    assert_refused(embed(tmp_path / "none.parquet", output), "none.parquet: no such file")
    items = write(tmp_path / "items.parquet", ["a ring", "a shoe", "a novel"])
    assert_refused(embed(items, output), "--dim 1024", "name 2 or fewer")
    assert_refused(embed(items, output, "--dim", 0), "--dim")
    assert_refused(embed(items, output, "--dim", 2, "--seed", -1), "--seed")
    write(items, ["a ring", "a shoe", "! ?", "silver chain"])
    assert_refused(embed(items, output, "--dim", 2), "row 3: the text of B002 holds no word")
    write(items, ["!", "?"])
    assert_refused(embed(items, output, "--dim", 1), "no text holds a word")
    pq.write_table(pa.table({"parent_asin": ["1"]}), items)
    assert_refused(embed(items, output), "no column 'item_context'")
    items.write_bytes(items.read_bytes()[:100])
    assert_refused(embed(items, output), "not a whole Parquet file")
    assert not output.exists()
