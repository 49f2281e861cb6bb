"""Write rows read by table_input.py with columns added: CSV, TSV, JSON lines (also gzipped) or Parquet.

Values stay as they were read. JSON lines that go to JSON lines keep their bytes, the added columns follow
before the closing brace. Elsewhere: nested values become JSON in a CSV field, NaN becomes null in JSON, dates
and decimals become strings in both.
"""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from category_classification.table_input import TableBatch
from training_utils import InputError

DELIMITERS = {"csv": ",", "tsv": "\t"}
# What a value raises that the form cannot hold: mixed types, integers past 64 bits, half a surrogate pair.
NO_FIT = (pa.ArrowException, OverflowError, UnicodeError)


def json_schema(batches: Iterable[TableBatch], form: str) -> pa.Schema | None:
    """Columns of JSON objects, and for Parquet their types, such that all the batches fit."""
    schema = pa.schema([])
    for batch in batches:
        if form == "parquet":
            try:
                found = pa.schema([(name, pa.array(batch.column(name)).type) for name in batch.column_names])
                schema = pa.unify_schemas([schema, found], promote_options="permissive")
            except NO_FIT as error:
                raise _no_fit(batch, form, str(error)) from None
        else:
            names = dict.fromkeys([*schema.names, *batch.column_names])
            schema = pa.schema([(name, pa.null()) for name in names])
    return schema


def _no_fit(batch: TableBatch, form: str, reason: str) -> InputError:
    rows = f"rows {batch.row_numbers[0]} to {batch.row_numbers[-1]}"
    reason = " ".join(reason.split())[:120]
    return InputError(f"{batch.source}, {rows}: do not fit {form} ({reason}); name an --output in .jsonl")


class TableWriter:
    """One table to one byte stream. `schema` describes the columns that come in, `added` the new ones."""

    def __init__(self, file: BinaryIO, form: str, zipped: bool, schema: pa.Schema, added: pa.Schema) -> None:
        if form != "csv" and form != "tsv" and len(set(schema.names)) < len(schema.names):
            twice = next(name for name in schema.names if schema.names.count(name) > 1)
            raise InputError(f"two columns are called {twice!r}: rename one, or name an --output in .csv")
        self.form, self.schema, self.added, self._open = form, schema, added, ExitStack()
        if zipped:
            file = self._open.enter_context(gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0))
        self.file = file
        if form in DELIMITERS:
            self._write_fields([[*schema.names, *added.names]])
        elif form == "parquet":
            columns = pa.schema([*schema, *added], schema.metadata)
            try:
                self.parquet = self._open.enter_context(pq.ParquetWriter(file, columns, compression="zstd"))
            except NO_FIT as error:
                reason = " ".join(str(error).split())[:120]
                raise InputError(f"Parquet cannot hold these columns ({reason}); name another form") from None

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def write(self, batch: TableBatch, added: dict[str, list]) -> None:
        """The rows of a batch, each with its values of the added columns."""
        try:
            if self.form == "parquet":
                self._write_parquet(batch, added)
            elif self.form == "jsonl":
                self._write_json(batch, added)
            else:
                rows = zip(*self._columns(batch), *added.values(), strict=True)
                self._write_fields([_field(value) for value in row] for row in rows)
        except NO_FIT as error:
            raise _no_fit(batch, self.form, str(error)) from None

    def _columns(self, batch: TableBatch) -> list[list]:
        """The values that came in, one list a column."""
        if isinstance(batch.data, pa.RecordBatch):
            return [column.to_pylist() for column in batch.data.columns]
        unknown = set(batch.column_names) - set(self.schema.names)
        if unknown:
            raise _no_fit(batch, self.form, f"the key {min(unknown)!r} first occurs here")
        return [[row.get(name) for row in batch.data] for name in self.schema.names]

    def _write_fields(self, rows: Iterable[list[str]]) -> None:
        text = io.StringIO(newline="")
        plain, quoted = (
            csv.writer(text, delimiter=DELIMITERS[self.form], lineterminator="\n", quoting=quoting)
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        )
        for row in rows:  # a bare carriage return would end the row for a reader
            (quoted if any("\r" in field for field in row) else plain).writerow(row)
        self.file.write(text.getvalue().encode("utf-8"))

    def _write_json(self, batch: TableBatch, added: dict[str, list]) -> None:
        more = [dict(zip(added, values, strict=True)) for values in zip(*added.values(), strict=True)]
        if isinstance(batch.data, pa.RecordBatch):
            rows = zip(*self._columns(batch), strict=True)
            found = [dict(zip(self.schema.names, values, strict=True)) for values in rows]
            lines = [_dump(row | extra) for row, extra in zip(found, more, strict=True)]
        else:
            lines = [_splice(*row) for row in zip(batch.lines, batch.data, more, strict=True)]
        self.file.write(b"".join(lines))

    def _write_parquet(self, batch: TableBatch, added: dict[str, list]) -> None:
        columns = [*added.values()]
        if isinstance(batch.data, pa.RecordBatch):
            arrays, kinds = batch.data.columns, self.added.types
        else:
            arrays, kinds = [], [*self.schema.types, *self.added.types]
            columns = [*self._columns(batch), *columns]
        arrays += [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
        self.parquet.write_table(pa.Table.from_arrays(arrays, schema=self.parquet.schema))


def _splice(line: bytes, row: dict, added: dict) -> bytes:
    """The line as it stood, with members added."""
    line = line.strip()
    if line[:1] != b"{" or line[-1:] != b"}":  # after a byte order mark, say
        return _dump(row | added)
    inner = line[1:-1].strip()
    return b"{" + inner + (b", " if inner else b"") + _dump(added)[1:]


def _dump(row: dict) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:  # NaN or infinity, which JSON lacks
        text = json.dumps(_finite(row), ensure_ascii=False, default=_plain)
    return text.encode("utf-8") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> str:
    """A date, decimal or byte string as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _field(value: Any) -> str:
    """A value as a CSV field; null is empty."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    return _plain(value)
