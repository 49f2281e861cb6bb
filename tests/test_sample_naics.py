"""The imitation of the Census workbooks: equal bytes from a seed, official form, dirt, something to learn."""

import hashlib
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from conftest import ROOT, run_script
from sklearn.feature_extraction.text import TfidfVectorizer

from naics.data import census
from naics.data.triplets import count_triplets

SCRIPTS = ROOT / "scripts"
NAMES = (
    "2-6 digit_2022_Codes",
    "2022_NAICS_Descriptions",
    "2022_NAICS_Index_File",
    "2022_NAICS_Cross_References",
)
FILES = [f"{name}.xlsx" for name in NAMES]


def write(folder: Path, seed: int = 0, hash_seed: str = "0") -> dict[str, str]:
    """Written by a process of its own; returns the digest of each file."""
    folder.mkdir()
    code = f"from sample_naics import *; write_naics(Path({str(folder)!r}), {seed})"
    env = {"PYTHONPATH": str(SCRIPTS), "PYTHONHASHSEED": hash_seed}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True)
    return digests(folder)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "raw" / "2022").iterdir()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("naics") / "a"
    write(folder)
    census.preprocess(folder / "raw" / "2022", folder)
    return folder


@pytest.fixture(scope="module")
def sheets(folder) -> list[list[tuple]]:
    found = []
    for name in FILES:
        book = openpyxl.load_workbook(folder / "raw" / "2022" / name)
        assert len(book.worksheets) == 1
        found.append(list(book.active.iter_rows(values_only=True)))
    return found


def test_the_same_seed_gives_the_same_bytes_and_another_others(folder, tmp_path):
    first = digests(folder)
    assert sorted(first) == sorted(FILES)
    time.sleep(2)  # the times in a zip are in steps of two seconds
    assert write(tmp_path / "again", hash_seed="7") == first
    other = write(tmp_path / "other", seed=1)
    assert all(other[name] != first[name] for name in FILES)


def test_make_sample_data_writes_this_part(folder, tmp_path):
    result = run_script(SCRIPTS / "make_sample_data.py", "--out", tmp_path, "--only", "naics")
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "naics") == digests(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["naics"]
    assert re.search(r"214 +[\d,]+ +\S*2022_NAICS_Descriptions.xlsx", result.stdout)


def test_the_form_is_the_official_one(sheets):
    codes, descriptions, index, references = sheets
    assert codes[0] == ("Seq. No.", "2022 NAICS US   Code", "2022 NAICS US Title", None, None)
    assert not any(codes[1]) and [row[0] for row in codes[2:]] == list(range(1, len(codes) - 1))
    assert descriptions[0] == ("Code", "Title", "Description") and references[0] == (
        "Code",
        "Cross-Reference",
    )
    assert index[0] == ("NAICS22", "INDEX ITEM DESCRIPTION")
    assert [row[1] for row in codes[2:]] == [row[0] for row in descriptions[1:]]
    texts = [row[1] for row in codes[2:] if isinstance(row[1], str)]
    assert texts == ["31-33", "44-45"] and all(
        isinstance(row[1], int) for row in codes[2:] if row[1] not in texts
    )
    numbers = [int(str(row[1])[:2].ljust(6, "0")) for row in codes[2:]]
    assert numbers == sorted(numbers)
    assert {len(str(row[0])) for row in references[1:]} == {5, 6}


def test_dirt(sheets):
    codes, descriptions, index, references = sheets
    assert 60 < sum(row[2] != row[2].strip() for row in codes[2:]) < 150
    assert sum(row[1].rstrip().endswith("T") for row in descriptions[1:]) > 80
    cells = [row[2] for row in descriptions[1:]]
    assert sum(cell == "NULL" for cell in cells) > 5
    assert sum(cell.startswith("See industry description for ") for cell in cells) > 30
    for dirt in (
        "Illustrative Examples:\n",
        "Cross-References. Estab",
        "&amp;",
        "\xa0",
        "The Sector as a Whole",
        "\t",
    ):
        assert sum(dirt in cell for cell in cells) >= 3, dirt
    assert sum(row[0] == "******" for row in index) == 4
    assert any("Sector 31-33" in row[1] or "Sector 44-45" in row[1] for row in references[1:])
    assert any(row[1].startswith("Establishments primarily") for row in references[1:])
    assert any(row[1].endswith("; and") for row in references[1:])


def test_the_taxonomy_and_what_was_read(folder):
    taxonomy, index = census.load_taxonomy(folder), census.load_index(folder)
    assert 150 <= len(taxonomy) <= 250 and Counter(taxonomy.levels.tolist())[2] == 5
    assert (
        len(
            {
                code[:2]
                for code in taxonomy.codes
                if taxonomy.codes[taxonomy.sectors[taxonomy.row(code)]] == "31"
            }
        )
        == 3
    )
    children = Counter(taxonomy.parents[taxonomy.levels == 6].tolist())
    assert 40 < sum(count == 1 for count in children.values()) < 70 and max(children.values()) >= 3
    assert all(taxonomy.descriptions) and not any("NULL" in text for text in taxonomy.descriptions)
    per_code = Counter(index.rows.tolist())
    assert len(taxonomy.leaves) - len(per_code) == 2 and 5 <= np.median(list(per_code.values())) <= 9
    texts = defaultdict(set)
    for row, text in zip(index.rows, index.texts, strict=True):
        texts[text].add(int(row))
    assert all(len(rows) == 1 for rows in texts.values())
    roles = Counter(index.roles.tolist())
    assert roles["validation"] > 80 and roles["test"] > 60 and roles["train"] > 150
    assert all(count_triplets(taxonomy, "corrected").values())  # every hardness is there


def test_words_find_the_code_but_not_always(folder):
    """TF-IDF over titles, descriptions and examples, and over training entries too: better, not perfect."""
    taxonomy, index = census.load_taxonomy(folder), census.load_index(folder)
    held_out = np.isin(index.roles, ("validation", "test"))
    texts = np.array(index.texts)

    def top1(with_entries: bool) -> float:
        documents = []
        for row in taxonomy.leaves:
            own = texts[(index.rows == row) & (index.roles == "train")] if with_entries else []
            documents.append(
                " ".join([taxonomy.titles[row], taxonomy.descriptions[row], taxonomy.examples[row], *own])
            )
        words = TfidfVectorizer(sublinear_tf=True)
        known = words.fit_transform(documents)
        scores = (words.transform(texts[held_out]) @ known.T).toarray()
        return float((taxonomy.leaves[scores.argmax(1)] == index.rows[held_out]).mean())

    plain, with_entries = top1(False), top1(True)
    assert 0.3 < plain < 0.85 and plain + 0.05 < with_entries < 0.97, (plain, with_entries)
