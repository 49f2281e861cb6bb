"""The Census workbooks: every rule for the texts, the real files' counts, and files that cannot be used."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_census import ENGAGED, ROWS, write_workbooks

from naics.data import census
from naics.data.census_texts import cell_text, split_description, split_reference
from naics.data.workbooks import file_name
from naics.index_roles import normalize, trigrams
from training_utils import InputError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("census")
    census.preprocess(write_workbooks(folder / "raw"), folder)
    return folder


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("real")
    return folder, census.preprocess(real_data / "naics" / "2022", folder)


# ---------------------------------------------------------------- texts


def test_codes_levels_and_parents(tiny):
    taxonomy = census.load_taxonomy(tiny)
    assert taxonomy.codes[:3] == ("31", "321", "3211") and taxonomy.codes[12] == "44" and len(taxonomy) == 17
    assert taxonomy.levels.tolist()[:6] == [2, 3, 4, 5, 6, 5]
    assert taxonomy.codes[taxonomy.parents[8]] == "31"  # 331 is of the joined sector 31-33
    assert taxonomy.parents[0] == taxonomy.parents[12] == -1
    assert [taxonomy.codes[row] for row in taxonomy.ancestors[6]] == ["31", "321", "3211", "32112", "321121"]
    assert taxonomy.ancestors[1].tolist() == [0, 1, -1, -1, -1]
    assert taxonomy.sectors.tolist() == [0] * 12 + [12] * 5
    assert [taxonomy.codes[row] for row in taxonomy.leaves] == [
        "321110",
        "321121",
        "321129",
        "331110",
        "451110",
    ]
    for spelling, row in (
        ("31-33", 0),
        ("33", 0),
        (32, 0),
        ("44 - 45", 12),
        (45, 12),
        (331110, 11),
        ("31", 0),
    ):
        assert taxonomy.row(spelling) == row
    with pytest.raises(InputError, match="999999"):
        taxonomy.row("999999")


def test_titles_and_descriptions(tiny):
    taxonomy = census.load_taxonomy(tiny)
    titles = dict(zip(taxonomy.codes, taxonomy.titles, strict=True))
    assert (
        titles["31"] == "Making"
        and titles["321110"] == "Sawn Boards"
        and titles["321129"] == "Other Glued Boards"
    )
    texts = dict(zip(taxonomy.codes, taxonomy.descriptions, strict=True))
    assert texts["31"] == "Making of things. All of them."
    assert texts["321"] == "Goods & parts of wood. Doors;"
    assert texts["321110"] == texts["32111"] == f"{ENGAGED} sawing. See also U.S. rules."
    assert texts["3211"] == f"{ENGAGED} sawing. {ENGAGED} gluing."  # first sentences of its children
    assert texts["3311"] == texts["33111"] == f"{ENGAGED} casting bells."
    assert texts["4511"] == f"{ENGAGED} selling bells."
    assert texts["321121"] == f"{ENGAGED} plywood."


def test_examples_are_index_entries_of_that_role_else_illustrative_ones(tiny):
    taxonomy, index = census.load_taxonomy(tiny), census.load_index(tiny)
    texts = np.array(index.texts)
    for code in ("321110", "321121", "451110"):
        row = taxonomy.row(code)
        chosen = texts[(index.rows == row) & (index.roles == "examples")]
        if len(chosen):
            assert taxonomy.examples[row] == "; ".join(chosen)
    assert taxonomy.examples[taxonomy.row("331110")] == "Church bells; Hand bells"  # no entry at all
    assert taxonomy.examples[taxonomy.row("32112")] == "Plywood works; Veneer works"
    assert taxonomy.examples[taxonomy.row("31")] == ""


def test_an_illustrative_example_that_tells_a_held_out_entry_is_left_out(tmp_path):
    rows = [[331110, f"Bell number {number} of bronze"] for number in range(40)]
    described = [list(row) for row in ROWS["descriptions"]]
    described[10][2] = f"{ENGAGED} bells.\n\nIllustrative Examples:\n\n" + "\n".join(text for _, text in rows)
    raw = write_workbooks(tmp_path / "raw", index=rows, descriptions=described)
    counts = census.preprocess(raw, tmp_path)
    taxonomy, index = census.load_taxonomy(tmp_path), census.load_index(tmp_path)
    shown = taxonomy.examples[taxonomy.row("33111")].split("; ")
    held_out = set(np.array(index.texts)[np.isin(index.roles, ("validation", "test"))])
    assert held_out and shown != [""] and not held_out & set(shown)
    assert counts["illustrative_examples_left_out"] == 40 - len(shown)


def test_exclusions_stand_once_with_the_codes_they_name(tiny):
    taxonomy = census.load_taxonomy(tiny)
    excluded = dict(zip(taxonomy.codes, taxonomy.excluded, strict=True))
    named = {
        code: [taxonomy.codes[row] for row in rows]
        for code, rows in zip(taxonomy.codes, taxonomy.excluded_codes, strict=True)
    }
    assert named["32112"] == ["32111", "44"]  # 10 years name no code
    assert named["321121"] == ["321110", "321129"]  # not itself
    assert named["451110"] == named["31"] == []
    assert excluded["321121"].count("Sawing") == 1
    assert excluded["31"].startswith("Excluded from this sector is selling.")
    references = census.load_references(tiny)
    assert references.activities[0] == "Sawing boards" and references.activities[5] == "Selling bells"
    assert references.texts[0] == "Sawing boards--are classified in Industry 32111, Sawn Boards"
    assert [[taxonomy.codes[row] for row in rows] for rows in references.targets][1] == ["44"]
    assert references.rows[0] == taxonomy.row("32112")


@pytest.mark.parametrize(
    "value, text",
    [(111110, "111110"), (11.0, "11"), (None, ""), ("NULL", ""), (" a&amp;b\xa0 ", "a&b"), (1.5, "1.5")],
)
def test_cells(value, text):
    assert cell_text(value) == text


def test_forms_of_references_and_descriptions():
    known = {"111", "112110", "48"}
    assert split_reference("Keeping\u00a0bees is  also classified in 112110", "111", known)[1:] == (
        "Keeping bees",
        ["112110"],
    )
    text, activity, targets = split_reference(
        "The X, for Y,--are lclassified in Sector 48-49, or 11.", "111", known
    )
    assert (activity, targets) == ("The X, for Y", ["48"]) and text.endswith("or 11")
    assert split_description("") == ("", [], [])
    assert split_description("A.\n\nCross-reference is no heading here.")[0].endswith("here.")
    assert split_description("This subsector excludes b.  \n \n C.") == (
        "C.",
        [],
        ["This subsector excludes b."],
    )


# ---------------------------------------------------------------- files


def test_columns_and_types(tiny):
    table = pq.read_schema(tiny / "naics_descriptions.parquet")
    expected = "index: uint32 level: uint8 code: string title: string description: string examples: string "
    expected += "excluded: string excluded_codes: list<element: string>"
    assert " ".join(f"{field.name}: {field.type}" for field in table) == expected
    index = pq.read_table(tiny / "naics_index.parquet")
    assert [str(field.type) for field in index.schema] == ["uint32", "string", "string", "string"]
    assert index["entry_id"].to_pylist() == list(range(14))  # the "see" row is none


def test_the_same_seed_gives_the_same_files_and_another_other_roles(tiny, tmp_path):
    for name, seed in (("a", 42), ("b", 7)):
        census.preprocess(tiny / "raw", tmp_path / name, seed=seed)
    for file in ("naics_descriptions.parquet", "naics_index.parquet", "naics_cross_references.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tiny / file).read_bytes()
    roles = [census.load_index(tmp_path / name).roles.tolist() for name in "ab"]
    assert roles[0] != roles[1]


def test_the_headers_of_2017(tmp_path, tiny):
    census.preprocess(write_workbooks(tmp_path / "raw", 2017), tmp_path, year=2017)
    assert census.load_taxonomy(tmp_path).descriptions == census.load_taxonomy(tiny).descriptions
    assert census.load_references(tmp_path).texts == census.load_references(tiny).texts


# ---------------------------------------------------------------- what cannot be used


def test_missing_and_damaged_workbooks(tmp_path):
    raw = write_workbooks(tmp_path / "raw")
    path = raw / file_name("index", 2022)
    whole = path.read_bytes()
    for damage in (b"", b"not a workbook", whole[: len(whole) // 2]):
        path.write_bytes(damage)
        with pytest.raises(InputError, match="NAICS_Index_File.xlsx: not a readable workbook .*download"):
            census.preprocess(raw, tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="no such workbook; run `naics-gemini data download`"):
        census.preprocess(raw, tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def with_row(kind: str, row: list) -> dict[str, list[list]]:
    return {kind: [*ROWS[kind], row]}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"headers": {"index": ["NAICS22", "Words"]}}, r"Index_File.xlsx: no column for .*text"),
        ({"descriptions": []}, r"Descriptions.xlsx: no rows"),
        (with_row("codes", [18, 331110, "Bells"]), r"Codes.xlsx, row 20: code 331110 is at row 14 too"),
        (with_row("codes", [18, "33", "Making"]), r"Codes.xlsx, row 20: code 31 is at row 3 too"),
        (with_row("codes", [18, 332110, "Orphans"]), r"Codes.xlsx, row 20: code 332110 has no parent 33211"),
        (with_row("codes", [18, 339, None]), r"Codes.xlsx, row 20: code 339 has no title"),
        (with_row("codes", [18, None, "A title"]), r"Codes.xlsx, row 20: no code"),
        (with_row("codes", [18, "33I", "A title"]), r"Codes.xlsx, row 20: '33I' is no NAICS code"),
        (with_row("codes", [18, 339, "New"]), r"Codes.xlsx, row 20: code 339 is not in 2022_NAICS_Desc"),
        (
            with_row("descriptions", [339, "New", "Text."]),
            r"Descriptions.xlsx, row 19: code 339 is not in the codes",
        ),
        (
            with_row("descriptions", [321, "Twice", "Text."]),
            r"Descriptions.xlsx, row 19: code 321 is at row 3 too",
        ),
        (
            with_row("index", [999999, "Things"]),
            r"Index_File.xlsx, row 17: code 999999 is not in the codes file",
        ),
        (with_row("index", [3211, "Things"]), r"Index_File.xlsx, row 17: 3211 is no six-digit code"),
        (with_row("index", [321110, None]), r"Index_File.xlsx, row 17: code 321110 has no text"),
        (with_row("references", ["***", "Text"]), r"Cross_References.xlsx, row 9: no code"),
        (
            with_row("references", [111110, "Text"]),
            r"Cross_References.xlsx, row 9: code 111110 is not in the codes",
        ),
    ],
)
def test_rows_that_do_not_fit(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        census.preprocess(write_workbooks(tmp_path / "raw", **changed), tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


def test_parquet_files_that_do_not_fit(tiny, tmp_path):
    import pyarrow as pa

    with pytest.raises(InputError, match="no such file; run `naics-gemini data preprocess`"):
        census.load_taxonomy(tmp_path)
    path = tmp_path / "naics_descriptions.parquet"
    shutil.copy(tiny / path.name, path)
    table = pq.read_table(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="naics_descriptions.parquet: damaged"):
        census.load_taxonomy(tmp_path)
    for changed, message in (
        (table.drop_columns("excluded"), "no column excluded"),
        (
            pa.concat_tables([table, table.slice(1, 1)]),
            "row 18: code 321 stands at row 18|row 2: code 321 stands",
        ),
        (
            table.filter(pa.array([code != "3211" for code in table["code"].to_pylist()])),
            "row 3: code 32111 has no parent",
        ),
        (table.set_column(1, "level", pa.array([3] * 17, pa.uint8())), "row 1: '31' at level 3"),
    ):
        pq.write_table(changed, path)
        with pytest.raises(InputError, match=message):
            census.load_taxonomy(tmp_path)
    shutil.copy(tiny / path.name, path)
    index = pq.read_table(tiny / "naics_index.parquet")
    pq.write_table(index.set_column(1, "code", pa.array(["999999"] * 14)), tmp_path / "naics_index.parquet")
    with pytest.raises(InputError, match="naics_index.parquet: names code 999999"):
        census.load_index(tmp_path)
    codes = [*index["code"].to_pylist()[:-1], "3211"]  # no class of the training's queries
    pq.write_table(index.set_column(1, "code", pa.array(codes)), tmp_path / "naics_index.parquet")
    with pytest.raises(InputError, match="naics_index.parquet, row 14: .* is of 3211, no six-digit code"):
        census.load_index(tmp_path)


# ---------------------------------------------------------------- the real files of 2022


@pytest.mark.real_data
def test_real_counts(real):
    folder, counts = real
    taxonomy, index, references = (
        census.load_taxonomy(folder),
        census.load_index(folder),
        census.load_references(folder),
    )
    assert counts["codes"] == 2125 and list(counts["codes_by_level"].values()) == [20, 96, 308, 689, 1012]
    assert (counts["index_entries"], counts["index_rows_without_code"]) == (20_373, 25)
    assert (counts["cross_references"], counts["cross_references_naming_a_code"]) == (4_601, 4_533)
    sizes = "11:131 21:41 22:25 23:73 31:630 42:161 44:139 48:140 51:71 52:79 53:53 54:95 55:7 56:87 61:38"
    sizes += " 62:92 71:61 72:34 81:93 92:75"
    found = Counter(taxonomy.codes[row] for row in taxonomy.sectors)
    assert " ".join(f"{code}:{count}" for code, count in found.items()) == sizes
    children = Counter(taxonomy.parents[taxonomy.parents >= 0].tolist())
    assert sum(count == 1 for count in children.values()) == 690
    assert sum(count * (count - 1) // 2 for count in children.values()) == 2_394
    pairs = {(row, other) for row, named in enumerate(taxonomy.excluded_codes) for other in named}
    assert len(pairs) == 4_539 and len({frozenset(pair) for pair in pairs}) == 3_909
    assert sum(taxonomy.sectors[a] == taxonomy.sectors[b] for a, b in pairs) == 3_269
    assert sum(taxonomy.parents[a] == taxonomy.parents[b] for a, b in pairs) == 625
    assert set(taxonomy.codes) - {taxonomy.codes[row] for row in index.rows} >= {"112130", "541120"}
    assert len(set(index.rows.tolist())) == 1_010 and len(references.rows) == 4_601
    assert len(set(references.rows.tolist())) == 1_095


@pytest.mark.real_data
def test_real_texts_are_clean(real):
    taxonomy, references = census.load_taxonomy(real[0]), census.load_references(real[0])
    assert all(taxonomy.titles) and all(taxonomy.descriptions) and all(references.activities)
    texts = [*taxonomy.titles, *taxonomy.descriptions, *taxonomy.examples, *taxonomy.excluded]
    for dirt in (
        "<",
        "&amp;",
        "NULL",
        "\n",
        "\t",
        "\xa0",
        "  ",
        "Illustrative Example",
        "See industry",
        "as a Whole",
    ):
        assert not [text for text in texts if dirt in text], dirt
    assert not any("Cross-References" in text for text in taxonomy.descriptions)
    assert taxonomy.titles[taxonomy.row("11111")] == "Soybean Farming"  # no trilateral T
    assert not any("classified" in activity for activity in references.activities)
    assert sum(bool(taxonomy.excluded[row]) for row in range(2125) if taxonomy.levels[row] < 5) > 15


@pytest.mark.real_data
def test_real_held_out_entries_are_in_no_text_of_a_code(real):
    folder, _ = real
    taxonomy, index = census.load_taxonomy(folder), census.load_index(folder)
    references = census.load_references(folder)
    held_out = np.flatnonzero(np.isin(index.roles, ("validation", "test")))
    kept = np.flatnonzero(np.isin(index.roles, ("train", "examples")))
    shown = [text for examples in taxonomy.examples for text in examples.split("; ")]
    known = [index.texts[place] for place in kept]
    known += [*taxonomy.titles, *taxonomy.descriptions, *references.activities, *shown]
    assert not {normalize(index.texts[place]) for place in held_out} & {normalize(text) for text in known}
    sample = np.random.default_rng(0).choice(held_out, 15, replace=False)
    grams = list({trigrams(text) for text in known})
    for place in sample:
        asked = trigrams(index.texts[place])
        assert max(len(asked & other) / len(asked | other) for other in grams) < 0.9, index.texts[place]


@pytest.mark.real_data
def test_real_files_of_2017(real_data, tmp_path):
    raw = real_data / "naics" / "2017"
    if not raw.is_dir():
        pytest.skip(f"no 2017 workbooks at {raw}")
    counts = census.preprocess(raw, tmp_path, 2017)
    assert list(counts["codes_by_level"].values()) == [20, 99, 311, 709, 1057]
    assert (counts["index_entries"], counts["cross_references"]) == (20_057, 4_225)
