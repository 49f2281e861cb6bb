"""Stream a table (CSV, TSV, JSON lines or Parquet, the text forms also gzipped) in batches of rows, in order.

    for batch in read_table_batches("offers.csv.gz"):
        texts = batch.column("title")

Memory holds one batch, whatever the size of the file. Values stay as they were: CSV fields are strings
unchanged, Parquet columns keep their types, JSON objects are dicts as parsed. `-` reads standard input and
needs the format named. What cannot be read raises InputError with the file and the row; `on_bad_row` takes
single bad rows instead.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from training_utils import InputError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
MAX_LINE_BYTES = 16 * 2**20  # a longer line is damage, and reading it whole would break the memory bound
UNLIMITED = 2**62
END = "\4end of table\4"  # a line put after the last: a quote left open would swallow it

# (line or row number, reason, start of the raw row) -> None
BadRow = Callable[[int, str, str], None]


@dataclass(frozen=True)
class TableBatch:
    """Consecutive rows: a RecordBatch (CSV: strings; Parquet: as stored) or a list of dicts (JSON lines)."""

    source: str
    row_numbers: list[int]  # the line in a text file, the row counted from 1 in Parquet
    data: pa.RecordBatch | list[dict]
    lines: list[bytes] | None = None  # JSON lines as they stood, with `keep_lines`

    def __len__(self) -> int:
        return len(self.row_numbers)

    @property
    def column_names(self) -> list[str]:
        if isinstance(self.data, pa.RecordBatch):
            return self.data.schema.names
        return list(dict.fromkeys(key for row in self.data for key in row))

    def column(self, name: str) -> list:
        """The values of one column; a JSON object without the key counts as None."""
        if isinstance(self.data, pa.RecordBatch):
            require_columns(self.source, [name], self.column_names)
            try:
                return self.data.column(name).to_pylist()
            except UnicodeDecodeError:
                rows = f"rows {self.row_numbers[0]} to {self.row_numbers[-1]}"
                raise InputError(
                    f"{self.source}, {rows}: column {name!r} holds text that is not UTF-8: write it again"
                ) from None
        values = [row.get(name) for row in self.data]
        if all(value is None for value in values):
            require_columns(self.source, [name], self.column_names)
        return values


def require_columns(source: str, wanted: list[str], present: list[str]) -> None:
    """Raise InputError naming the columns there are unless each wanted one occurs, and once."""
    for name in wanted:
        if name not in present:
            listed = ", ".join(repr(column) for column in present[:20]) + (
                ", ..." if len(present) > 20 else ""
            )
            hint = ""
            if len(present) == 1 and any(mark in present[0] for mark in ";\t|"):
                hint = " (is it separated by something other than the format's delimiter?)"
            raise InputError(f"{source}: no column {name!r}; it has {listed or 'none'}{hint}")
        if present.count(name) > 1:
            raise InputError(
                f"{source}: {present.count(name)} columns are called {name!r}: rename all but one"
            )


def table_format(source: str, given: str | None = None) -> str:
    """The format given, or the one that the file's name tells."""
    if given:
        return given
    if source == "-":
        raise InputError("standard input: name its form with --format csv, tsv or jsonl")
    suffix = Path(source.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"{source}: cannot tell the form from the name: use .csv, .tsv, .jsonl (+ .gz) or .parquet"
        )
    return FORMATS[suffix]


def read_table_batches(
    source: str,
    columns: list[str] | None = None,
    batch_rows: int = 4096,
    format: str | None = None,
    on_bad_row: BadRow | None = None,
    batch_bytes: int = UNLIMITED,
    keep_lines: bool = False,
) -> Iterator[TableBatch]:
    """Yield the rows in order. `columns` names those needed: they must exist, and Parquet reads no others.

    A batch ends after `batch_rows` rows, or sooner when they reach about `batch_bytes`.
    """
    form = table_format(source, format)
    name = "standard input" if source == "-" else source
    if form == "parquet":
        yield from _parquet_batches(source, columns, batch_rows, batch_bytes)
        return
    with ExitStack() as stack:
        lines = _lines(_open_bytes(source, stack), name)
        bad_row = on_bad_row or _raise_bad_row(name)
        if form == "jsonl":
            yield from _jsonl_batches(lines, name, columns, batch_rows, bad_row, keep_lines, batch_bytes)
        else:
            delimiter = {"csv": ",", "tsv": "\t"}[form]
            yield from _delimited_batches(lines, name, columns, batch_rows, bad_row, delimiter, batch_bytes)


def _raise_bad_row(name: str) -> BadRow:
    def raise_it(row: int, reason: str, raw: str) -> None:
        raise InputError(f"{name}, line {row}: {reason}: {raw[:80]!r}")

    return raise_it


# ---------------------------------------------------------------- lines of text files


def _open_bytes(source: str, stack: ExitStack) -> BinaryIO:
    """A byte stream of the file or standard input, unpacked when it starts with gzip's two magic bytes."""
    if source == "-":
        stream = sys.stdin.buffer
    else:
        path = Path(source)
        if not path.is_file():
            raise InputError(f"{source}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
        stream = stack.enter_context(path.open("rb"))
    if stream.peek(2)[:2] == b"\x1f\x8b":
        stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
        stream = io.BufferedReader(stream, 2**18)
    return stream


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines with their line ends; damaged gzip and endless lines become InputError."""
    number = 0
    while True:
        try:
            line = stream.readline(MAX_LINE_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{name}, after line {number}: damaged gzip ({error}): copy the file again"
            ) from None
        if not line:
            return
        number += 1
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise InputError(
                f"{name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB: is this a text table?"
            )
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            if line.startswith(b"PAR1"):
                raise InputError(f"{name}: a Parquet file: name it .parquet")
        yield number, line


def _decode(line: bytes, number: int, name: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {number}: byte {error.start + 1} is not UTF-8: convert the file (iconv -t utf-8)"
        ) from None


def _delimited_batches(
    lines: Iterator[tuple[int, bytes]],
    name: str,
    columns: list[str] | None,
    batch_rows: int,
    on_bad_row: BadRow,
    delimiter: str,
    batch_bytes: int = UNLIMITED,
) -> Iterator[TableBatch]:
    csv.field_size_limit(MAX_LINE_BYTES)
    texts = (_decode(line, number, name) for number, line in lines)
    reader = csv.reader(chain(texts, [END]), delimiter=delimiter)
    header: list[str] | None = None
    rows, numbers, size = [], [], 0
    while True:
        before = reader.line_num
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{name}, line {reader.line_num}: {error}: is a quote left open?") from None
        if row and row[-1].endswith(END):
            if reader.line_num > before + 1:
                raise InputError(f"{name}, line {before + 1}: a quote is left open to the end of the file")
            row = None
        if row and header is None:
            header = row
            require_columns(name, columns or [], header)
        elif row and len(row) != len(header):
            reason = f"wrong_field_count ({len(row)} fields, the header has {len(header)})"
            on_bad_row(reader.line_num, reason, delimiter.join(row))
        elif row:
            rows.append(row)
            numbers.append(reader.line_num)
            size += sum(map(len, row))
        full = len(rows) == batch_rows or size >= batch_bytes
        if rows and (full or row is None):
            arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield TableBatch(name, numbers, pa.RecordBatch.from_arrays(arrays, names=header))
            rows, numbers, size = [], [], 0
        if row is None:
            break
    if header is None:
        raise InputError(f"{name}: empty: a header line with column names is needed")


def _jsonl_batches(
    lines: Iterator[tuple[int, bytes]],
    name: str,
    columns: list[str] | None,
    batch_rows: int,
    on_bad_row: BadRow,
    keep_lines: bool,
    batch_bytes: int,
) -> Iterator[TableBatch]:
    rows: list[dict] = []
    numbers: list[int] = []
    kept: list[bytes] = []
    size, checked = 0, not columns
    for number, line in lines:
        if line.isspace():
            continue
        if number == 1 and line.lstrip().startswith(b"["):
            raise InputError(f"{name}: a JSON array; one object a line is needed (jq -c '.[]')")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            on_bad_row(number, "bad_json", line[:400].decode("utf-8", "replace").rstrip())
            continue
        if not isinstance(row, dict):
            on_bad_row(number, "not_object", line[:400].decode("utf-8", "replace").rstrip())
            continue
        rows.append(row)
        numbers.append(number)
        size += len(line)
        if keep_lines:
            kept.append(line)
        if len(rows) == batch_rows or size >= batch_bytes:
            checked = checked or _check_keys(name, columns, rows)
            yield TableBatch(name, numbers, rows, kept if keep_lines else None)
            rows, numbers, kept, size = [], [], [], 0
    if rows:
        checked = checked or _check_keys(name, columns, rows)
        yield TableBatch(name, numbers, rows, kept if keep_lines else None)


def _check_keys(name: str, columns: list[str], rows: list[dict]) -> bool:
    require_columns(name, columns, list(dict.fromkeys(key for row in rows for key in row)))
    return True


def _parquet_batches(
    source: str, columns: list[str] | None, batch_rows: int, batch_bytes: int
) -> Iterator[TableBatch]:
    if source == "-":
        raise InputError("standard input: Parquet cannot be streamed: give a file, or --format csv or jsonl")
    if not Path(source).is_file():
        raise InputError(f"{source}: no such file")
    row = 0
    try:
        # Otherwise a whole row group's columns would be in memory at once.
        with pq.ParquetFile(source, pre_buffer=False, buffer_size=2**20) as file:
            require_columns(source, columns or [], file.schema_arrow.names)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            row_bytes = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
            batch_rows = max(1, min(batch_rows, batch_bytes // max(row_bytes, 1)))
            for batch in file.iter_batches(batch_rows, columns=columns, use_threads=False):
                numbers = list(range(row + 1, row + 1 + len(batch)))
                yield TableBatch(source, numbers, batch)
                row += len(batch)
    except (pa.ArrowException, OSError) as error:
        detail = str(error).splitlines()[0][:150]
        raise InputError(f"{source}, after row {row}: not a whole Parquet file ({detail})") from None
