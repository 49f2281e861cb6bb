"""Tiny embeddings of items, and the sizes of an RQ-VAE that trains on them in a second."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SMALL = (
    "--item_embedding_dim 24 --encoder_hidden_dims 32,16 --codebook_embedding_dim 8 --codebook_size 16 "
    "--batch_size 128 --warmup_steps 5 --max_lr 3e-3 --steps_per_val_log 10 --device cpu --val_split 0.1"
)


def write_embeddings(path: Path, vectors: np.ndarray, ids: list | None = None) -> Path:
    ids = ids or [f"B{number:05}" for number in range(len(vectors))]
    lists = pa.FixedSizeListArray.from_arrays(vectors.astype(np.float32).ravel(), vectors.shape[1])
    pq.write_table(pa.table({"parent_asin": ids, "embedding": lists}), path)
    return path


def clusters(count: int = 600, width: int = 24) -> np.ndarray:
    """Unit vectors around 20 centres."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, width))[rng.integers(20, size=count)] + 0.3 * rng.normal(
        size=(count, width)
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
