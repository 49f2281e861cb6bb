"""The embedding file: `parent_asin` and a fixed-size list of float32 a row, checked as it is read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training_utils import InputError

ROWS_AT_ONCE = 8192  # of embeddings
ITEMS_AT_ONCE = 4096
# of pq.ParquetFile, which by itself keeps all that it has read, or a whole row group
STREAMED: dict[str, Any] = {"pre_buffer": False, "buffer_size": 2**20}


@dataclass
class EmbeddingDataset:
    """Items in file order."""

    ids: list[str]
    vectors: np.ndarray  # (N, E) float32
    fingerprint: str

    @classmethod
    def from_parquet(cls, path: str | Path, dim: int | None = None) -> "EmbeddingDataset":
        return read_item_embeddings(path, dim)


def read_item_embeddings(path: str | Path, dim: int | None = None) -> EmbeddingDataset:
    """The whole file, whose vectors are in memory once."""
    ids: list[str] = []
    vectors = np.empty((0, 0), dtype=np.float32)
    for names, part in embedding_blocks(path, dim):
        if not ids:
            vectors = np.empty((pq.read_metadata(path).num_rows, part.shape[1]), dtype=np.float32)
        vectors[len(ids) : len(ids) + len(part)] = part
        ids += names
    digest = hashlib.sha256("\0".join(ids).encode())
    digest.update(vectors)
    return EmbeddingDataset(ids, vectors, digest.hexdigest()[:16])


def embedding_blocks(path: str | Path, dim: int | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
    """Item ids and their vectors (B, E), in file order. A row that cannot be trained on is named: NaN, all
    zero, another width, a second row of the same item.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; embed_items.py writes it")
    seen: dict[str, int] = {}  # item -> its row
    width = 0
    try:
        with pq.ParquetFile(path, **STREAMED) as file:
            for name in ("parent_asin", "embedding"):
                names = file.schema_arrow.names
                if names.count(name) != 1:
                    have = ", ".join(names[:12])
                    raise InputError(f"{path}: no column {name!r}, or two of them (it has {have})")
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=["parent_asin", "embedding"]):
                batch.validate(full=True)  # ids are UTF-8
                first, ids = len(seen), batch.column("parent_asin").to_pylist()
                if None in ids:
                    raise InputError(f"{path}, row {first + ids.index(None) + 1}: has no parent_asin")
                ids = list(map(str, ids))
                vectors = _matrix(path, batch.column("embedding"), first, width)
                width = vectors.shape[1]
                if dim is not None and width != dim:
                    raise InputError(
                        f"{path}: embeddings have {width} numbers, --item_embedding_dim says {dim}; "
                        f"give --item_embedding_dim {width}, or embed again with --dim {dim}"
                    )
                _check_rows(path, ids, vectors, seen)
                yield ids, vectors
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: not a whole Parquet file ({reason}); write it again") from None
    if not seen:
        raise InputError(f"{path}: holds no row")


def parquet_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A Parquet file of items (only these columns), checked as it is read."""
    try:
        with pq.ParquetFile(path, **STREAMED) as file:
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise InputError(f"{path}: has two columns {twice!r}; rename one")
            for name in columns or []:
                if name not in file.schema_arrow.names:
                    raise InputError(
                        f"{path}: no column {name!r} (it has {', '.join(file.schema_arrow.names[:12])})"
                    )
            for batch in file.iter_batches(ITEMS_AT_ONCE, columns=columns):
                batch.validate(full=True)  # texts are UTF-8
                yield batch
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: not a whole Parquet file ({reason})") from None


def _matrix(path: Path, column: pa.Array, first: int, width: int) -> np.ndarray:
    """(B, E) float32 from a list column, fixed-size or not, of rows `first` on, all of `width`, if given.

    A float64 beyond float32 becomes infinite here, before the check for that.
    """
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise InputError(f"{path}: column 'embedding' holds {kind}, needed is a list of floats")
    if not pa.types.is_floating(kind.value_type):
        raise InputError(f"{path}: column 'embedding' holds lists of {kind.value_type}, needed are floats")
    if column.null_count:
        row = first + column.is_null().to_pylist().index(True)
        raise InputError(f"{path}, row {row + 1}: has no embedding; embed it again")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    width = width or max(int(lengths[0]), 1)
    if (lengths != width).any():
        row = int(np.flatnonzero(lengths != width)[0])
        raise InputError(
            f"{path}, row {first + row + 1}: embedding has {lengths[row]} numbers, needed are {width}"
        )
    values = pc.list_flatten(column)
    if values.null_count:
        row = first + values.is_null().to_pylist().index(True) // width
        raise InputError(f"{path}, row {row + 1}: embedding holds null; embed it again")
    with np.errstate(over="ignore"):
        single = values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return single.reshape(len(column), width)


def _check_rows(path: Path, ids: list[str], vectors: np.ndarray, seen: dict[str, int]) -> None:
    """Of the rows after those in `seen`, which then holds these too."""
    first = len(seen) + 1
    for fault, rows in (("not finite", ~np.isfinite(vectors).all(1)), ("all zero", ~vectors.any(1))):
        if rows.any():
            row = int(np.flatnonzero(rows)[0])
            raise InputError(f"{path}, row {first + row} ({ids[row]}): embedding is {fault}; embed it again")
    for row, item in enumerate(ids, first):
        if seen.setdefault(item, row) != row:
            raise InputError(f"{path}, row {row}: item {item} stands in row {seen[item]} too; keep one")
