"""Item texts -> embeddings without a pretrained model: TF-IDF of words and word pairs, then a truncated SVD.

    poetry run python semantic_ids/embed_items_tfidf.py

In: the Parquet file of prepare_items.py. Out: that table with `embedding`, as embed_items.py writes it. Its
axes come from these items alone, so an item that is added later changes all vectors a little: for
a catalogue that grows, embed with a model.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.item_embeddings import parquet_batches
from training_utils import InputError, replacing, run_script

POWER_ITERATIONS = 2  # of the randomized SVD; more change cosines by less than 1e-3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--category", default="Video_Games", help="names the default files")
    add("--data_dir", type=Path, default=Path("data"), help="folder that holds output/")
    add("--items", type=Path, help="default: DATA_DIR/output/CATEGORY_items_updated.parquet")
    add("--output", type=Path, help="default: DATA_DIR/output/CATEGORY_items_with_embeddings.parquet")
    add("--dim", type=int, default=1024, help="numbers an embedding; fewer than there are items")
    add("--seed", type=int, default=0, help="of the randomized SVD")
    args = parser.parse_args()
    output = args.data_dir / "output"
    args.items = args.items or output / f"{args.category}_items_updated.parquet"
    args.output = args.output or output / f"{args.category}_items_with_embeddings.parquet"
    if args.dim < 1 or not 0 <= args.seed < 2**32:
        raise InputError("--dim: 1 or more; --seed: from 0 to 2^32 - 1")
    return args


def read_items(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{path}: no such file; prepare_items.py writes it")
    batches = list(parquet_batches(path, ["parent_asin", "item_context"]))
    batches = [batch.select(["parent_asin", "item_context"]) for batch in batches]
    if not sum(map(len, batches)):
        raise InputError(f"{path}: holds no row")
    return pa.Table.from_batches(batches)


def embed_texts(texts: list[str], dim: int, seed: int) -> np.ndarray:
    """(N, dim) float32 of length 1; a text without any word stays all zero."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Sublinear: a word that a description repeats ten times says little more than one it has once.
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+", dtype=np.float32
    )
    try:
        terms = vectorizer.fit_transform(texts)
    except ValueError:  # an empty vocabulary
        raise InputError("no text holds a word") from None
    if dim >= min(terms.shape):
        raise InputError(
            f"--dim {dim}: {terms.shape[0]:,} items with {terms.shape[1]:,} terms give fewer numbers; "
            f"name {min(terms.shape) - 1} or fewer"
        )
    svd = TruncatedSVD(dim, n_iter=POWER_ITERATIONS, random_state=seed)
    vectors = svd.fit_transform(terms).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def main() -> None:
    args = parse_args()
    items = read_items(args.items)
    texts = [str(text or "") for text in items.column("item_context").to_pylist()]
    vectors = embed_texts(texts, args.dim, args.seed)
    empty = np.flatnonzero(~vectors.any(1))
    if len(empty):
        row = int(empty[0])
        name = items.column("parent_asin")[row]
        raise InputError(f"{args.items}, row {row + 1}: the text of {name} holds no word; leave the item out")

    args.output.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_batches(parquet_batches(args.items))
    if "embedding" in table.column_names:
        table = table.drop_columns("embedding")
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), args.dim)
    with replacing(args.output) as file:
        pq.write_table(table.append_column("embedding", column), file, compression="zstd")
    print(f"{args.output}: {len(texts):,} items, {args.dim} numbers each")


if __name__ == "__main__":
    run_script(main)
