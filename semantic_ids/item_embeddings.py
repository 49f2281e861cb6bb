"""The embedding file: `parent_asin` and a fixed-size list of float32 a row, read whole and checked."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training_utils import InputError


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
    """Rows in file order. A row that cannot be trained on is named: NaN, all zero, another width, a second
    row of the same item."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; embed_items.py writes it")
    try:
        file = pq.ParquetFile(path)
        for name in ("parent_asin", "embedding"):
            names = file.schema_arrow.names
            if names.count(name) != 1:
                have = ", ".join(names[:12])
                raise InputError(f"{path}: no column {name!r}, or two of them (it has {have})")
        table = file.read(columns=["parent_asin", "embedding"])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}: not a whole Parquet file ({reason}); write it again") from None
    if table.num_rows == 0:
        raise InputError(f"{path}: holds no row")
    vectors = _matrix(path, table.column("embedding").combine_chunks())
    if dim is not None and vectors.shape[1] != dim:
        raise InputError(
            f"{path}: embeddings have {vectors.shape[1]} numbers, --item_embedding_dim says {dim}; "
            f"give --item_embedding_dim {vectors.shape[1]}, or embed again with --dim {dim}"
        )
    ids = [str(value) for value in table.column("parent_asin").to_pylist()]
    _check_rows(path, ids, table.column("parent_asin"), vectors)
    digest = hashlib.sha256("\0".join(ids).encode())
    digest.update(vectors)
    return EmbeddingDataset(ids, vectors, digest.hexdigest()[:16])


def _matrix(path: Path, column: pa.Array) -> np.ndarray:
    """(N, E) float32 from a fixed-size or an ordinary list column."""
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise InputError(f"{path}: column 'embedding' holds {kind}, needed is a list of floats")
    if not pa.types.is_floating(kind.value_type):
        raise InputError(f"{path}: column 'embedding' holds lists of {kind.value_type}, needed are floats")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{path}, row {row + 1}: has no embedding; embed it again")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any() or lengths[0] == 0:
        row = int(np.flatnonzero(lengths != max(lengths[0], 1))[0])
        raise InputError(
            f"{path}, row {row + 1}: embedding has {lengths[row]} numbers, row 1 has {lengths[0]}"
        )
    values = pc.list_flatten(column)
    if values.null_count:
        row = values.is_null().to_pylist().index(True) // int(lengths[0])
        raise InputError(f"{path}, row {row + 1}: embedding holds null; embed it again")
    flat = values.to_numpy(zero_copy_only=False)
    return np.array(flat.reshape(len(column), -1), dtype=np.float32)  # a copy: torch wants it writable


def _check_rows(path: Path, ids: list[str], column: pa.ChunkedArray, vectors: np.ndarray) -> None:
    finite = np.isfinite(vectors).all(1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise InputError(f"{path}, row {row + 1} ({ids[row]}): embedding is not finite; embed it again")
    empty = ~vectors.any(1)
    if empty.any():
        row = int(np.flatnonzero(empty)[0])
        raise InputError(f"{path}, row {row + 1} ({ids[row]}): embedding is all zero; embed it again")
    if column.null_count:
        raise InputError(f"{path}, row {column.is_null().to_pylist().index(True) + 1}: has no parent_asin")
    seen: dict[str, int] = {}
    for row, item in enumerate(ids, 1):
        if seen.setdefault(item, row) != row:
            raise InputError(f"{path}, row {row}: item {item} stands in row {seen[item]} too; keep one")
