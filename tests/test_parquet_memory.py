"""What streams a Parquet file holds a part of it, where pyarrow by itself keeps all that it has read."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from category_classification.table_input import read_table_batches
from naics.search_files import read_chunks
from semantic_ids.embed_items import parquet_batches
from semantic_ids.item_embeddings import embedding_blocks
from semantic_ids.item_sources import read_items
from semantic_ids.tokenize_items import read_texts

ROWS, DIM = 60_000, 128
MEGABYTE = 2**20
READERS = {
    "embedding_blocks": embedding_blocks,
    "read_texts": read_texts,
    "parquet_batches": parquet_batches,
    "read_items": lambda path: read_items(str(path)),
    "read_chunks": lambda path: read_chunks(path, "item_context"),
    "read_table_batches": lambda path: read_table_batches(str(path), batch_rows=4096),
}


@pytest.fixture(scope="module", params=[ROWS, 1000], ids=["one row group", "many"])
def file(request, tmp_path_factory):
    generator = np.random.default_rng(0)
    texts = [generator.bytes(200).hex() for _ in range(ROWS)]
    vectors = generator.normal(size=(ROWS, DIM)).astype(np.float32)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    ids = [f"B{row:09}" for row in range(ROWS)]
    table = pa.table({"parent_asin": ids, "item_context": texts, "embedding": embedding})
    path = tmp_path_factory.mktemp("parquet") / "items.parquet"
    pq.write_table(table, path, row_group_size=request.param)
    return path


@pytest.mark.parametrize("name", READERS)
def test_a_reader_holds_a_part_of_the_file(name, file):
    before, most, blocks = pa.total_allocated_bytes(), 0, 0
    for _ in READERS[name](file):
        most, blocks = max(most, pa.total_allocated_bytes() - before), blocks + 1
    assert blocks > 5 and file.stat().st_size > 40 * MEGABYTE
    assert most < 24 * MEGABYTE, f"{most / MEGABYTE:.0f} MB of {file.stat().st_size / MEGABYTE:.0f}"
