"""prepare_items.py on every form of metadata, its dirt, and what it refuses."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_refused, run_main

from semantic_ids import prepare_items
from semantic_ids.item_sources import MAX_LINE_BYTES
from semantic_ids.prepare_items import category_text, plain_text


def prepare(source, out, *flags):
    return run_main(prepare_items.main, "--input", source, "--output", out / "items.parquet", *flags)


def rows(out):
    return pq.read_table(out / "items.parquet").to_pylist()


AMAZON = [
    {
        "parent_asin": "B01",
        "title": "Zelda &amp;amp; Link",
        "description": ["<p>An <b>open</b> world.</p>", "Great\n\tfun"],
        "categories": ["Video Games", "Switch"],
        "store": "Nintendo",
        "details": {"Platform": "Switch", "Genre": "Adventure"},
    },
    {"parent_asin": "B02", "title": "Pad", "description": [], "categories": [], "store": None, "details": {}},
    {"parent_asin": "B01", "title": "Zelda", "features": ["x"], "details": {"Franchise": "Zelda"}},
    {
        "parent_asin": "B03",
        "title": None,
        "description": None,
        "categories": [],
        "details": {"Genre": "None"},
    },
    {"parent_asin": "B04", "title": "Pad", "description": [], "categories": [], "store": None, "details": {}},
]
CONTEXT = (
    "Product: Zelda & Link\nDescription: An open world. Great fun\nCategory: Video Games, Switch\n"
    "Platform: Switch\nGenre: Adventure\nBrand: Nintendo\nFranchise: Zelda"
)


def write_lines(path, items, extra=""):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.write("\n".join(map(json.dumps, items)) + "\n" + extra)
    return path


@pytest.mark.parametrize("name", ["meta.jsonl", "meta.jsonl.gz", "meta.json"])
def test_amazon_2023(tmp_path, name):
    source = write_lines(tmp_path / name, AMAZON, '{"parent_asin": "B05", "tit\n[1]\n{"title": "no id"}\n')
    result = prepare(source, tmp_path)
    assert result.returncode == 0, result.stderr
    found = rows(tmp_path)
    assert [row["parent_asin"] for row in found] == ["B02", "B01", "B04"]  # B01 where its last row stood
    assert found[1]["item_context"] == CONTEXT and found[1]["title"] == "Zelda & Link"
    assert found[0]["item_context"].startswith(
        "Product: Pad\nDescription: \nCategory: \nPlatform: N/A\nGenre: Unknown"
    )
    assert [row["duplicate_of"] for row in found] == [None, None, "B02"]
    summary = json.loads((tmp_path / "items.summary.json").read_text())
    assert summary["items"] == 3 and summary["text duplicates"] == 1
    assert summary["left out"] == {"not an object": 2, "no id": 1, "no text": 1}


def test_python_literals_of_2014(tmp_path):
    item = {"asin": "A1", "title": "It's", "categories": [["Games", "PC"], ["Games", "Action"]], "brand": "X"}
    (tmp_path / "meta.json").write_text(repr(item) + "\n" + repr({**item, "asin": "A2"}) + "\n")
    assert prepare(tmp_path / "meta.json", tmp_path).returncode == 0
    assert [row["parent_asin"] for row in rows(tmp_path)] == ["A1", "A2"]
    assert rows(tmp_path)[0]["categories"] == "Games, PC, Action"


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_of_items(tmp_path, indent):
    items = {
        "0": {"title": "Kit", "description": "['Relay, <br>500%', 'Starts']", "brand": "S", "categories": ""}
    }
    (tmp_path / "items.json").write_text(json.dumps(items, indent=indent))
    assert prepare(tmp_path / "items.json", tmp_path).returncode == 0
    (row,) = rows(tmp_path)
    assert row["item_context"] == "Product: Kit\nDescription: Relay, 500% Starts\nCategory: \nBrand: S"


def test_an_object_of_items_on_one_long_line(tmp_path):
    """Longer than any single item may be, as json.dump writes a whole catalogue."""
    items = {str(number): {"title": f"Kit {number}", "description": "x " * 2000} for number in range(5000)}
    source = tmp_path / "items.json"
    source.write_text(json.dumps(items))
    assert source.stat().st_size > MAX_LINE_BYTES
    result = prepare(source, tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["title"] for row in rows(tmp_path)] == [f"Kit {number}" for number in range(5000)]
    source.write_text(json.dumps({"id": "1", "title": "x" * MAX_LINE_BYTES}) + "\n")  # one item
    assert_refused(prepare(source, tmp_path), "line 1: longer than 16 MiB")


@pytest.mark.parametrize(
    "written", ['{"Genre": "Puzzle", "Batteries": true, "Note": null}', "{'Genre': 'Puzzle', 'Note': None}"]
)
def test_details_written_as_json_or_python(tmp_path, written):
    item = {"parent_asin": "B01", "title": "Kit", "details": written}
    assert prepare(write_lines(tmp_path / "meta.jsonl", [item]), tmp_path).returncode == 0
    assert rows(tmp_path)[0]["genre"] == "Puzzle"


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "own.parquet"])
def test_own_tables_by_column_names(tmp_path, name):
    table = {"sku": ["1", "2"], "label": ["boot", "ring"], "text": ["of leather, brown", "of gold"]}
    if name.endswith("parquet"):
        pq.write_table(pa.table(table), tmp_path / name)
    else:
        mark = "," if name.endswith("csv") else "\t"
        lines = [
            mark.join(table),
            *(mark.join(f'"{v}"' for v in row) for row in zip(*table.values(), strict=True)),
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    flags = "--id_column sku --title_column label --description_column text".split()
    assert prepare(tmp_path / name, tmp_path, *flags).returncode == 0
    assert [row["item_context"] for row in rows(tmp_path)][
        1
    ] == "Product: ring\nDescription: of gold\nCategory: "


def test_filters_count_what_they_leave_out(tmp_path):
    source = write_lines(tmp_path / "meta.jsonl", AMAZON)
    assert prepare(source, tmp_path, "--min_title", 4).returncode == 0
    summary = json.loads((tmp_path / "items.summary.json").read_text())
    assert summary["items"] == 1 and summary["left out"]["title too short"] == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (float("nan"), ""), ("a < b and c > d", "a < b and c > d"), ("[no list]", "[no list]"),
        ("x<script>alert(1)</script>y", "x y"), ("&lt;b&gt;bold&lt;/b&gt;", "bold"), (3.5, "3.5"),
        ("['a', 'b", "['a', 'b"), ("['it's', \"5\" pipe\\n\"]", 'it\'s 5" pipe'), (["a", ["b", None]], "a b"),
    ],
)  # fmt: skip
def test_plain_text(value, text):
    assert plain_text(value) == text


def test_category_text_keeps_each_name_once():
    assert category_text([["A", "B"], ["A", "C"]]) == "A, B, C"
    assert category_text("A > B") == "A > B"


def test_bad_input_is_named_and_leaves_the_older_output(tmp_path):
    (tmp_path / "items.parquet").write_text("older")

    def refused(name, content, *words, flags=()):
        (tmp_path / name).write_bytes(content)
        assert_refused(prepare(tmp_path / name, tmp_path, *flags), *words)
        assert (tmp_path / "items.parquet").read_text() == "older"

    line = json.dumps(AMAZON[0]).encode() + b"\n"
    refused("a.jsonl", b"", "holds no item")
    refused("a.jsonl", b"\x00\x01\x02\n", "holds no item")
    refused("a.txt", line, "name it .jsonl")
    refused("a.jsonl", line, "no column 'sku'", "parent_asin", flags=["--id_column", "sku"])
    refused("a.jsonl.gz", gzip.compress(line * 500)[:60], "damaged")
    refused("a.csv", b"", "header")
    refused("a.csv", b"id,title\n1,\xff\xfe\n", "line")
    refused("a.parquet", b"PAR1 broken", "not a whole Parquet file")
    refused("a.json", b"{\n 1: 2\n}", "not JSON")
    assert_refused(prepare(tmp_path / "none.jsonl", tmp_path), "no such file")


@pytest.mark.real_data
def test_the_real_items(real_data, tmp_path):
    assert (
        prepare(real_data / "semantic_ids/Industrial_and_Scientific.item.json.gz", tmp_path).returncode == 0
    )
    found = rows(tmp_path)
    assert len(found) >= 3680 and all("<br" not in row["item_context"] for row in found)
    assert sum(row["duplicate_of"] is not None for row in found) >= 5
    assert not any(row["description"] and row["description"].startswith("['") for row in found)
