"""Raw item metadata in the forms it comes in, as plain dicts, streamed in order.

JSON lines of Amazon Reviews 2023 (`parent_asin`) or 2014 and 2018 (`asin`; the 2014 files hold Python
literals), one JSON object id -> fields (on one line or more), CSV, TSV and Parquet; text forms also gzipped.
"""

import ast
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.item_embeddings import STREAMED
from training_utils import InputError

MAX_LINE_BYTES = 16 * 2**20  # a longer line is damage, unless it is all there is
# How a file starts that is one object (or list) of objects, rather than an item: it is parsed whole
TABLE_START = re.compile(rb'\s*(?:\{\s*"(?:[^"\\]|\\.)*"\s*:|\[)\s*\{')
ROWS_AT_ONCE = 4096

Row = tuple[int, dict[str, Any] | None]  # its number, and None where it cannot be read


def read_items(path: str) -> Iterator[Row]:
    """(line or row number, fields) of every item; a line that is no object gives None."""
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{path}: {'is a folder, not a file' if source.is_dir() else 'no such file'}")
    name = source.name.lower().removesuffix(".gz")
    if name.endswith((".parquet", ".pq")):
        yield from _parquet(path)
        return
    try:
        with ExitStack() as stack:
            file = stack.enter_context(source.open("rb"))
            if file.peek(2)[:2] == b"\x1f\x8b":
                file = io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=file)), 2**18)
            if name.endswith((".csv", ".tsv")):
                yield from _delimited(path, file, "\t" if name.endswith(".tsv") else ",")
            elif name.endswith((".jsonl", ".ndjson", ".json")):
                yield from _json(path, file)
            else:
                raise InputError(f"{path}: name it .jsonl, .json, .csv, .tsv (each also .gz) or .parquet")
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path}: damaged ({error}); copy the file again") from None


def _json(path: str, file: io.BufferedReader) -> Iterator[Row]:
    """Lines, or one object of objects; which of them shows in the first line.

    An object of objects takes memory in proportion to the file, lines do not.
    """
    first = file.readline(MAX_LINE_BYTES)
    try:
        whole = not isinstance(json.loads(first), dict) or _is_table(json.loads(first))
    except (ValueError, RecursionError):
        cut = len(first) == MAX_LINE_BYTES
        whole = first.strip() in (b"{", b"[") or (cut and bool(TABLE_START.match(first)))
    if not whole:
        number = 0
        line = first
        while line:
            number += 1
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise InputError(
                    f"{path}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB: is this metadata?"
                )
            if not line.isspace():
                yield number, _object(line)
            line = file.readline(MAX_LINE_BYTES)
        return
    try:
        items = json.loads(first + file.read())
    except MemoryError:
        raise InputError(f"{path}: too large to be parsed whole; write one object a line (.jsonl)") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({error}); one object a line, or one object of all items"
        ) from None
    if isinstance(items, dict):
        items = [{"id": key, **value} if isinstance(value, dict) else None for key, value in items.items()]
    if not isinstance(items, list):
        raise InputError(f"{path}: holds {type(items).__name__}, needed are objects")
    for number, item in enumerate(items, 1):
        yield number, item if isinstance(item, dict) else None


def _is_table(value: dict[str, Any]) -> bool:
    """Whether an object maps ids to objects, rather than being an item itself."""
    return bool(value) and all(isinstance(item, dict) for item in value.values())


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        try:  # the 2014 files
            value = ast.literal_eval(line.decode().strip()) if line.startswith(b"{'") else None
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _delimited(path: str, file: io.BufferedReader, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter)
    try:
        header = next(reader, None)
        if not header:
            raise InputError(f"{path}: empty: a header line with column names is needed")
        for row in reader:
            if row:
                fits = len(row) == len(header)
                yield reader.line_num, dict(zip(header, row, strict=True)) if fits else None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}, line {reader.line_num + 1}: {error}") from None


def _parquet(path: str) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path, **STREAMED) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"{path}, after row {number}: not a whole Parquet file ({reason})") from None
