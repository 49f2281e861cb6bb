"""Tables of texts in, the same rows with added columns out: CSV, JSON lines or Parquet, a chunk at a time."""

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from training_utils import InputError, replacing

FORMS = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
CHUNK_ROWS = 1024
CSV_BLOCK = 2**18  # bytes


@dataclass(frozen=True)
class Chunk:
    """Rows in order: a RecordBatch (CSV: all strings) or a list of objects, and the texts of one column."""

    rows: pa.RecordBatch | list[dict[str, Any]]
    texts: list[str]


def form_of(path: Path) -> str:
    if path.suffix.lower() not in FORMS:
        raise InputError(f"{path}: name a .csv, .jsonl or .parquet file")
    return FORMS[path.suffix.lower()]


def check_files(source: Path, out: Path) -> None:
    """Whether `source` can be read and `out` written, before anything is loaded."""
    if not source.is_file():
        raise InputError(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}; name a table")
    if form_of(source) != form_of(out):
        raise InputError(f"--out {out}: give it the form of --file, {source.suffix}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and (out.is_dir() or out.samefile(source)):
        raise InputError(f"--out {out}: is {'a folder' if out.is_dir() else 'the input'}; name another file")


def read_chunks(path: Path, column: str) -> Iterator[Chunk]:
    """The rows of a table with the texts of `column`; a missing one is an empty text."""
    if form_of(path) == "jsonl":
        yield from _json_chunks(path, column)
        return
    try:
        # The first batch has no rows: it checks the columns, and is all of a table without rows.
        for batch in _csv_batches(path) if form_of(path) == "csv" else _parquet_batches(path):
            _check_column(path, column, batch.schema.names)
            texts = batch.column(column).to_pylist()
            yield Chunk(batch, ["" if text is None else str(text) for text in texts])
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: not a whole {form_of(path)} table ({reason})") from None


def _check_column(path: Path, column: str, names: list[str]) -> None:
    if names.count(column) != 1:
        held = ", ".join(names[:20])
        raise InputError(
            f"{path}: {names.count(column) or 'no'} column {column!r} (it has {held}); see --column"
        )


def _csv_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        names = next(csv.reader(file), None)
    if not names:
        raise InputError(f"{path}: is empty; its first line must name the columns")
    reader = pa_csv.open_csv(
        path,
        pa_csv.ReadOptions(block_size=CSV_BLOCK),
        pa_csv.ParseOptions(newlines_in_values=True),
        pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )
    yield _no_rows(reader.schema)
    for batch in reader:
        for start in range(0, len(batch), CHUNK_ROWS):
            yield batch.slice(start, CHUNK_ROWS)


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    # Otherwise all that was read would stay in memory.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
        names = file.schema_arrow.names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{path}: has two columns {twice!r}; rename one")
        yield _no_rows(file.schema_arrow)
        yield from file.iter_batches(CHUNK_ROWS)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _json_chunks(path: Path, column: str) -> Iterator[Chunk]:
    rows: list[dict[str, Any]] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # the latter of brackets nested without end
                raise InputError(f"{path}, line {number}: is no JSON; write one object a line") from None
            if not isinstance(row, dict) or column not in row:
                raise InputError(f"{path}, line {number}: no object with {column!r}; see --column")
            rows.append(row)
            if len(rows) == CHUNK_ROWS:
                yield _json_chunk(rows, column)
                rows = []
    if rows:
        yield _json_chunk(rows, column)


def _json_chunk(rows: list[dict[str, Any]], column: str) -> Chunk:
    # Half a surrogate pair (an emoji cut in two) is no character: what is asked has a "?" in its place.
    texts = ["" if row[column] is None else str(row[column]) for row in rows]
    return Chunk(rows, [text.encode(errors="replace").decode() for text in texts])


def json_line(row: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair: out as it came in, escaped
        return (json.dumps(row) + "\n").encode()


class TableWriter:
    """Chunks with added columns to `path`, which appears when it is whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path, self._stack, self._writer = path, ExitStack(), None

    def __enter__(self) -> "TableWriter":
        self._file: BinaryIO = self._stack.enter_context(replacing(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._writer is not None:
            self._writer.close()  # after an error too: it would else do so when the file is closed
        return self._stack.__exit__(kind, error, trace)

    def write(self, chunk: Chunk, added: dict[str, pa.Array]) -> None:
        if isinstance(chunk.rows, pa.RecordBatch):
            names = set(chunk.rows.schema.names)
        else:
            names = set().union(*chunk.rows)  # each row may have names of its own
        if clash := next((name for name in added if name in names), None):
            raise InputError(f"--file: has a column {clash!r} already; rename it")
        if isinstance(chunk.rows, list):
            columns = zip(*(values.to_pylist() for values in added.values()), strict=True)
            for row, values in zip(chunk.rows, columns, strict=True):
                self._file.write(json_line(row | dict(zip(added, values, strict=True))))
            return
        batch = chunk.rows
        for name, values in added.items():
            batch = batch.append_column(name, values)
        if self._writer is None:
            make = pa_csv.CSVWriter if form_of(self.path) == "csv" else pq.ParquetWriter
            self._writer = make(self._file, batch.schema)
        self._writer.write_batch(batch)
