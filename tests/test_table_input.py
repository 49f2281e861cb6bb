"""Tables in every form give the same rows in order, values stay as they were, and errors name file and row.

python -m pytest tests/test_table_input.py
"""

import gzip
import io
import itertools
import json
import sys
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from category_classification import table_input
from category_classification.table_input import read_table_batches
from training_utils import InputError

ROWS = [
    {"title": 'Ring "Aurora", 925', "price": "9.90", "note": ""},
    {"title": "línea 1\nlínea 2", "price": "007", "note": "NULL"},
    {"title": " spaces kept ", "price": "1e3", "note": "\t"},
    {"title": "靴", "price": "", "note": "nan"},
]


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def write(folder: Path, form: str) -> Path:
    path = folder / f"rows.{form}"
    if form.startswith("csv"):
        text = "title,price,note\r\n" + "".join(",".join(map(quoted, row.values())) + "\r\n" for row in ROWS)
    elif form.startswith("jsonl"):
        text = "".join(json.dumps(row) + "\n\n" for row in ROWS)
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    path.write_bytes(gzip.compress(text.encode()) if form.endswith(".gz") else text.encode())
    return path


def rows_of(source: str, **options) -> list[tuple]:
    batches = list(read_table_batches(source, **options))
    return [row for b in batches for row in zip(*(b.column(name) for name in ROWS[0]), strict=True)]


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_form_gives_the_rows_unchanged(tmp_path, form: str, batch_rows: int) -> None:
    path = write(tmp_path, form)
    assert rows_of(str(path), batch_rows=batch_rows) == [tuple(row.values()) for row in ROWS]
    sizes = [len(batch) for batch in read_table_batches(str(path), batch_rows=batch_rows)]
    assert sum(sizes) == 4 and max(sizes) <= batch_rows


@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl"])
def test_standard_input(tmp_path, monkeypatch, form: str) -> None:
    stream = io.TextIOWrapper(io.BufferedReader(io.BytesIO(write(tmp_path, form).read_bytes())))
    monkeypatch.setattr(sys, "stdin", stream)
    assert rows_of("-", format=form.split(".")[0]) == [tuple(row.values()) for row in ROWS]


def test_tab_separated_with_byte_order_mark(tmp_path) -> None:
    (tmp_path / "rows.tsv").write_bytes(b"\xef\xbb\xbftitle\tprice\nRing, gold\t5\n\nShoe\t6\n")
    (batch,) = read_table_batches(str(tmp_path / "rows.tsv"))
    assert batch.column_names == ["title", "price"]
    assert batch.column("title") == ["Ring, gold", "Shoe"] and batch.row_numbers == [2, 4]


def test_types_and_nested_values_are_kept(tmp_path) -> None:
    table = pa.table({"when": [datetime(2020, 1, 2)], "tags": [["a", None]], "n": pa.array([7], pa.int8())})
    pq.write_table(table, tmp_path / "t.parquet")
    (batch,) = read_table_batches(str(tmp_path / "t.parquet"))
    assert pa.Table.from_batches([batch.data]).equals(table)
    objects = [{"n": 12345678901234567890123, "x": {"y": [1.0, None]}}, {"other": "é\ud800"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, objects)))
    (batch,) = read_table_batches(str(tmp_path / "t.jsonl"))
    assert batch.data == objects
    assert batch.column("other") == [None, "é\ud800"] and batch.column_names == ["n", "x", "other"]


def test_reading_is_lazy() -> None:
    """The first batch of an endless table arrives after little more than its own rows were read."""

    class Endless(io.RawIOBase):
        taken = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            self.taken += len(buffer)
            buffer[:] = (b"a,b\n" * (len(buffer) // 4 + 1))[: len(buffer)]
            return len(buffer)

    source = Endless()
    lines = table_input._lines(io.BufferedReader(source, 4096), "endless")
    batches = table_input._delimited_batches(lines, "endless", None, 10, pytest.fail, ",")
    assert len(list(itertools.islice(batches, 3))) == 3
    assert source.taken < 16_384


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("absent.csv", None, ["absent.csv", "no such file"]),
        ("empty.csv", b"", ["empty.csv", "empty"]),
        ("rows.xlsx", b"PK", ["rows.xlsx", ".csv"]),
        ("rows.csv", b"a;b\n1;2\n", ["'title'", "'a;b'", "separated"]),
        ("rows.csv", b"title,title\n1,2\n", ["2 columns", "'title'"]),
        ("rows.csv", b"title,b\n1,2\n1,2,3\n", ["line 3", "3 fields", "header has 2"]),
        ("rows.csv", b"title,b\n1,2\n\xff\xfe,2\n", ["line 3", "byte 1", "UTF-8"]),
        ("rows.csv", b'title,b\n1,2\n1,"open\n' + b"x\n" * 9_000_000, ["line", "quote"]),
        ("rows.csv", b"title\n" + b"x" * 17_000_000, ["line 2", "16 MiB"]),
        ("rows.csv", b"PAR1\x15\x04\x15", ["Parquet"]),
        (
            "rows.csv.gz",
            gzip.compress(b"title\n" + bytes(range(32, 127)) * 999, mtime=0)[:80],
            ["after line", "gzip"],
        ),
        ("rows.jsonl", b'{"title": 1}\n{"title": \n', ["line 2", "bad_json"]),
        ("rows.jsonl", b'{"title": 1}\n[1]\n', ["line 2", "not_object"]),
        ("rows.jsonl", b'[{"title": 1}]', ["JSON array", "jq"]),
        ("rows.jsonl", b'{"name": 1}\n', ["'title'", "'name'"]),
        ("rows.jsonl", b'{"title": ' + b"[" * 100_000 + b"\n", ["line 1", "bad_json"]),
        ("rows.parquet", b"", ["rows.parquet", "Parquet"]),
        ("rows.parquet", b"PAR1 cut off", ["rows.parquet", "Parquet"]),
    ],
)
def test_errors_are_one_line_naming_file_and_row(
    tmp_path, name: str, content: bytes | None, words: list
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_table_batches(str(path), ["title"]))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 and str(path) in message
    for word in words:
        assert word in message


def test_damaged_parquet_page(tmp_path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"title": [f"title {n}" for n in range(5000)]}), path, compression="gzip")
    damaged = bytearray(path.read_bytes())
    damaged[2000:4000] = bytes(2000)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="rows.parquet"):
        list(read_table_batches(str(path)))


def test_bad_rows_can_be_taken_instead(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("title,b\n1,2\n1\n3,4\n5,6,7\n")
    bad = []
    batches = list(read_table_batches(str(path), on_bad_row=lambda *row: bad.append(row)))
    assert [batch.column("title") for batch in batches] == [["1", "3"]]
    assert [(row, raw) for row, _, raw in bad] == [(3, "1"), (5, "5,6,7")]


def test_standard_input_needs_a_format_and_no_parquet() -> None:
    with pytest.raises(InputError, match="--format"):
        list(read_table_batches("-"))
    with pytest.raises(InputError, match="Parquet"):
        list(read_table_batches("-", format="parquet"))
