"""Write a `datasets.DatasetDict` to disk split by split from Parquet shards, without holding it in memory.

`DatasetDict.save_to_disk` wants whole datasets, each of which would first be copied to a cache. Here every
row is read once and goes into the Arrow stream of each split it belongs to; what else `load_from_disk`
looks for is two small JSON files a split.
"""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, DatasetInfo, Features, Value

from category_classification.shards import ShardFiles

SPLITS = ("train", "validation", "test")  # by side: TRAIN, VALIDATION, TEST
BATCH_ROWS = 4096
ARROW_FILE = "data-00000-of-00001.arrow"


def dataset_features(schema: pa.Schema, names: list[str]) -> Features:
    """The columns of the shards, with the class names."""
    kinds = {"text": Value("string"), "label": ClassLabel(names=names), "cluster": Value("int64")}
    kinds |= {"language": Value("string"), "language_probability": Value("float32")}
    return Features({name: kinds[name] for name in schema.names})


class SplitWriter:
    """One split: its Arrow stream, and the counts that the summary shows."""

    def __init__(self, folder: Path, features: Features, fingerprint: str) -> None:
        folder.mkdir()
        self.folder, self.features, self.fingerprint = folder, features, fingerprint
        self.file = (folder / ARROW_FILE).open("wb")
        self.stream = pa.ipc.new_stream(self.file, features.arrow_schema)
        self.pending: list[pa.Table] = []
        self.pending_rows = self.rows = 0
        self.classes = np.zeros(features["label"].num_classes, dtype=np.int64)
        self.languages: Counter[str] = Counter()

    def write(self, table: pa.Table) -> None:
        self.rows += len(table)
        self.classes += np.bincount(table["label"].to_numpy(), minlength=len(self.classes))
        if "language" in table.column_names:
            for entry in pc.value_counts(table["language"]).to_pylist():
                self.languages[entry["values"]] += entry["counts"]
        # Small record batches make random access slow, so those of the small splits are joined.
        self.pending.append(table)
        self.pending_rows += len(table)
        if self.pending_rows >= BATCH_ROWS // 4:
            self._write_pending()

    def _write_pending(self) -> None:
        if self.pending:
            self.stream.write_table(pa.concat_tables(self.pending).combine_chunks())
        self.pending, self.pending_rows = [], 0

    def close(self) -> dict:
        self._write_pending()
        self.stream.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        DatasetInfo(features=self.features).write_to_directory(str(self.folder))
        state = {
            "_data_files": [{"filename": ARROW_FILE}],
            "_fingerprint": self.fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": self.folder.name,
        }
        (self.folder / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True), encoding="utf-8")
        classes = dict(zip(self.features["label"].names, self.classes.tolist(), strict=True))
        counts = {"rows": self.rows, "classes": classes}
        return counts | ({"languages": dict(self.languages.most_common())} if self.languages else {})


def write_dataset(
    folder: Path,
    shards: list[ShardFiles],
    names: list[str],
    label_numbers: np.ndarray,
    clusters: np.ndarray | None,
    sides: np.ndarray | None,
    full_name: str,
    fingerprint: str,
) -> dict[str, dict]:
    """Write the splits into `folder` and count their rows by class and language.

    `label_numbers` turns the labels of the shards into places in `names`; `clusters` replaces that column;
    `sides` holds the split of each row, and None writes the full split alone.
    """
    schema = pq.read_schema(shards[0].path(".parquet"))
    features = dataset_features(schema, names)
    splits = [full_name, *(SPLITS if sides is not None else ())]
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}), encoding="utf-8")
    writers = [SplitWriter(folder / name, features, fingerprint) for name in splits]

    start = 0
    for shard in shards:
        # Otherwise all that was read would stay in memory.
        with pq.ParquetFile(shard.path(".parquet"), pre_buffer=False, buffer_size=2**20) as file:
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                rows = slice(start, start + len(batch))
                start += len(batch)
                columns = dict(zip(schema.names, batch.columns, strict=True))
                columns["label"] = pa.array(label_numbers[columns["label"].to_numpy()])
                if clusters is not None:
                    columns["cluster"] = pa.array(clusters[rows], pa.int64())
                table = pa.Table.from_arrays(list(columns.values()), schema=features.arrow_schema)
                writers[0].write(table)
                for side, writer in enumerate(writers[1:]):
                    writer.write(table.filter(pa.array(sides[rows] == side)))
    return {writer.folder.name: writer.close() for writer in writers}
