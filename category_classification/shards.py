"""Finished pieces of a preparation: one shard a unit of work, made by worker processes beside OUT.

A unit is a member of the zip or a stretch of a table. It leaves four files, of which `.json`, the last to
appear, says that the unit is done: a run that was killed goes on with the units that have none. A worker
holds one batch of rows, at most BATCH_ROWS rows or BATCH_CHARACTERS characters, whatever the size of its
unit, and 8 to 240 bytes a kept row of the unit for the keys of the split.
"""

import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from category_classification.row_keys import (
    NEAR_DUPLICATE_KEYS,
    group_keys,
    near_duplicate_keys,
    text_keys,
)
from training_utils import InputError, replacing, write_json

BATCH_ROWS = 4096
BATCH_CHARACTERS = 2**21
RAW_CHARACTERS = 300  # of a rejected row are kept
LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class ShardFiles:
    """The files of one unit."""

    folder: Path
    index: int

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.index:06d}{suffix}"

    @property
    def done(self) -> bool:
        return self.path(".json").exists()

    def summary(self) -> dict:
        return json.loads(self.path(".json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ShardColumns:
    """Which columns a shard has besides text, label and cluster, and what keeps rows together."""

    language: bool = False  # given by the input or identified
    identify_language: bool = False
    near_duplicates: bool = False  # rows without a group of their own

    @property
    def schema(self) -> pa.Schema:
        fields = [("text", pa.string()), ("label", pa.int64()), ("cluster", pa.int64())]
        fields += [("language", pa.string())] * self.language
        fields += [("language_probability", pa.float32())] * self.identify_language
        return pa.schema(fields)

    def keys(self, texts: list[str], clusters: list[int]) -> np.ndarray:
        """(N, keys) uint64: rows that share one belong together, see row_keys.py."""
        if self.near_duplicates:
            return near_duplicate_keys(texts)
        return np.stack([group_keys(np.array(clusters, dtype=np.int64)), text_keys(texts)], axis=1)


class ShardWriter:
    """Collects the rows of one unit; `close` puts all its files in place."""

    def __init__(self, files: ShardFiles, columns: ShardColumns) -> None:
        self.files, self.columns, self.schema = files, columns, columns.schema
        self.reasons: Counter[str] = Counter()
        self.rows = 0
        width = NEAR_DUPLICATE_KEYS if columns.near_duplicates else 2
        self.keys = [np.zeros((0, width), dtype=np.uint64)]
        self.parquet_aside, self.rejected_aside = (
            files.path(".parquet.tmp"),
            files.path(".rejected.jsonl.tmp"),
        )
        self.parquet_file = self.parquet_aside.open("wb")
        self.parquet = pq.ParquetWriter(self.parquet_file, self.schema, compression="zstd")
        self.rejected = self.rejected_aside.open("w", encoding="utf-8")
        self._start_batch()

    def _start_batch(self) -> None:
        self.batch: list[tuple[str, int, int, str]] = []
        self.characters = 0

    def add(self, text: str, label: int, cluster: int, language: str = "") -> None:
        self.batch.append((text, label, cluster, language))
        self.characters += len(text)
        if len(self.batch) == BATCH_ROWS or self.characters >= BATCH_CHARACTERS:
            self._write_batch()

    def count(self, reason: str) -> None:
        self.reasons[reason] += 1

    def reject(self, source: str, line: int, reason: str, raw: str) -> None:
        """Count the row under the first word of the reason, and keep its start for the reader."""
        self.reasons[reason.split(" ")[0]] += 1
        record = {"file": source, "line": line, "reason": reason, "text": raw[:RAW_CHARACTERS]}
        self.rejected.write(json.dumps(record) + "\n")

    def _write_batch(self) -> None:
        texts, labels, clusters, languages = (list(column) for column in zip(*self.batch, strict=True))
        columns = {"text": texts, "label": labels, "cluster": clusters, "language": languages}
        if self.columns.identify_language:
            from category_classification.language_id import identify

            columns["language"], columns["language_probability"] = identify(texts)
        arrays = [pa.array(columns[field.name], field.type) for field in self.schema]
        self.parquet.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self.keys.append(self.columns.keys(texts, clusters))
        self.rows += len(texts)
        self._start_batch()

    def close(self) -> dict:
        if self.batch:
            self._write_batch()
        self.parquet.close()
        for file, aside, suffix in (
            (self.parquet_file, self.parquet_aside, ".parquet"),
            (self.rejected, self.rejected_aside, ".rejected.jsonl"),
        ):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(aside, self.files.path(suffix))
        save_array(self.files.path(".keys.npy"), np.concatenate(self.keys))
        summary = {"rows": self.rows, "reasons": dict(self.reasons)}
        write_json(self.files.path(".json"), summary)
        return summary


def save_array(path: Path, array: np.ndarray) -> None:
    """As numpy.save, written aside first; unlike it, a full disk is reported as such."""
    with replacing(path) as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


# ---------------------------------------------------------------- the folder beside OUT


def claim_folder(partial: Path, fingerprint: str) -> TextIO:
    """Make or take over the work folder; the open file returned is its lock.

    Work on other input or with other arguments than `fingerprint` stands for is thrown away.
    """
    work = partial / "work.json"
    if partial.exists() and (
        not partial.is_dir() or (any(partial.iterdir()) and not (partial / "lock").exists())
    ):
        raise InputError(
            f"{partial}: in the way, and not made by this script: move it or choose another --out"
        )
    partial.mkdir(parents=True, exist_ok=True)
    lock = (partial / "lock").open("w")
    deadline = time.monotonic() + LOCK_SECONDS  # the workers of a killed run hold it for a moment longer
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InputError(f"{partial}: another run is at work there: let it end first") from None
            time.sleep(0.1)
    if work.exists() and json.loads(work.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
        print(
            f"{partial}: unfinished work on other input or with other arguments is discarded", file=sys.stderr
        )
        work.unlink()
    if not work.exists():
        for path in partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        write_json(work, {"fingerprint": fingerprint})
    (partial / "shards").mkdir(exist_ok=True)
    return lock


# ---------------------------------------------------------------- workers


def run_units(function: Callable, units: Iterable[tuple], workers: int) -> Iterator:
    """Results of function(*unit) as they come; at most two units a worker are taken in advance."""
    if workers == 1:
        yield from (function(*unit) for unit in units)
        return
    # Forked workers share the loaded libraries with the parent instead of importing them again.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),)) as pool:
        pending = set()
        try:
            for unit in units:
                pending.add(pool.submit(function, *unit))
                if len(pending) == 2 * workers:
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            yield from (future.result() for future in as_completed(pending))
        except BrokenProcessPool:
            raise InputError(
                "a worker was killed, perhaps for want of memory: run again with fewer --workers to go on"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Ctrl-C is for the parent; a worker whose parent was killed ends itself instead of waiting for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
