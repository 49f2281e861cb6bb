"""The four official Census workbooks of a year: sheets found by their headers, rows checked.

Headers are found by pattern, since their spelling changes with the edition ("2022 NAICS US   Code").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naics.data.census_texts import (
    cell_text,
    fill_descriptions,
    flat,
    parent_code,
    sheet_code,
    split_description,
    split_reference,
)
from training_utils import InputError

FILES = {  # kind: official file name of a year, and a pattern for the header of each column
    "codes": ("2-6 digit_{year}_Codes.xlsx", {"code": r"naics.*\bcode", "title": r"naics.*\btitle"}),
    "descriptions": (
        "{year}_NAICS_Descriptions.xlsx",
        {
            "code": r"(naics.*)?code\b",
            "title": r"(naics.*)?title\b",
            "description": r"(naics.*)?description\b",
        },
    ),
    "index": ("{year}_NAICS_Index_File.xlsx", {"code": r"naics", "text": r"index item"}),
    "references": (
        "{year}_NAICS_Cross_References.xlsx",
        {"code": r"(naics.*)?code\b", "text": r"cross[- ]*reference"},
    ),
}
HEADER_ROWS = 20  # a header stands in one of the first rows


@dataclass(frozen=True)
class Row:
    where: str  # "file, row 7"
    code: str  # "" where the row names none
    cells: dict[str, str]


@dataclass(frozen=True)
class Census:
    """What the four workbooks say, before roles are drawn. Lists by code are in workbook order."""

    year: int
    codes: list[str]
    titles: list[str]
    descriptions: list[str]
    illustrations: list[list[str]]  # lines of "Illustrative Examples"
    excluding: list[list[str]]  # paragraphs on what a code excludes
    entries: list[tuple[str, str]]  # code, text
    see_rows: int  # index rows that name no code
    references: list[tuple[str, str, str, list[str]]]  # code, text, activity, targets


def read_census(folder: Path, year: int) -> Census:
    """The four official workbooks of a year."""
    codes = read_rows(folder, "codes", year)
    check_tree(codes)
    known = {row.code for row in codes}
    sheets = {kind: read_rows(folder, kind, year) for kind in ("descriptions", "index", "references")}
    for kind, rows in sheets.items():
        check_codes(rows, known, of_index=kind == "index")
    described = by_code(sheets["descriptions"])
    parts = []
    for row in codes:
        if row.code not in described:
            name = file_name("descriptions", year)
            raise InputError(f"{row.where}: code {row.code} is not in {name}; use files of one year")
        parts.append(split_description(described[row.code].cells["description"]))
    descriptions, illustrations, excluding = map(list, zip(*parts, strict=True))
    return Census(
        year,
        [row.code for row in codes],
        [flat(row.cells["title"]) for row in codes],
        fill_descriptions([row.code for row in codes], descriptions),
        illustrations,
        excluding,
        [(row.code, flat(row.cells["text"])) for row in sheets["index"] if row.code],
        sum(not row.code for row in sheets["index"]),
        [(row.code, *split_reference(row.cells["text"], row.code, known)) for row in sheets["references"]],
    )


def file_name(kind: str, year: int) -> str:
    return FILES[kind][0].format(year=year)


def read_rows(folder: Path, kind: str, year: int) -> list[Row]:
    """The rows of one workbook that are not blank, under its header."""
    path = Path(folder) / file_name(kind, year)
    values = read_cells(path)
    header, places = find_header(path, values[:HEADER_ROWS], FILES[kind][1])
    rows = []
    for number, cells in enumerate(values[header + 1 :], header + 2):
        row = {name: cell_text(cells[place]) if place < len(cells) else "" for name, place in places.items()}
        if any(row.values()):
            where = f"{path}, row {number}"
            rows.append(Row(where, sheet_code(row.pop("code"), where), row))
    if not rows:
        raise InputError(f"{path}: no rows under the header; download the workbook again")
    return rows


def read_cells(path: Path) -> list[tuple[Any, ...]]:
    """All cells of a workbook's first sheet."""
    import openpyxl

    if not path.is_file():
        raise InputError(f"{path}: no such workbook; run `naics-gemini data download` or put it there")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            return list(book.worksheets[0].iter_rows(values_only=True))
        finally:
            book.close()
    except Exception as error:  # a damaged zip or sheet fails in many ways
        reason = type(error).__name__
        raise InputError(f"{path}: not a readable workbook ({reason}); download it again") from None


def find_header(
    path: Path, rows: list[tuple[Any, ...]], patterns: dict[str, str]
) -> tuple[int, dict[str, int]]:
    """The header's row, and the place in it of each column."""
    best: dict[str, int] = {}
    for number, cells in enumerate(rows):
        places: dict[str, int] = {}
        for place, cell in enumerate(cells):
            name = flat(cell_text(cell)).lower()
            for column, pattern in patterns.items():
                if re.match(rf"(\d{{4}} )?{pattern}", name):
                    places.setdefault(column, place)
        if len(places) == len(patterns):
            return number, places
        best = max(best, places, key=len)
    missing = ", ".join(column for column in patterns if column not in best)
    raise InputError(f"{path}: no column for {missing} in its first rows; use the official workbook")


def check_tree(rows: Sequence[Row]) -> None:
    """Every code stands once, with a title, and its parent is there."""
    known = by_code(rows)
    for row in rows:
        parent = parent_code(row.code) if row.code else None
        if not row.code or not row.cells["title"]:
            what = f"code {row.code} has no title" if row.code else "no code"
            raise InputError(f"{row.where}: {what}; fill the cell or remove the row")
        if parent and parent not in known:
            raise InputError(f"{row.where}: code {row.code} has no parent {parent}; add a row for it")


def by_code(rows: Sequence[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        if row.code in found:
            first = found[row.code].where.rsplit(", ")[-1]
            raise InputError(f"{row.where}: code {row.code or '(none)'} is at {first} too; remove one")
        found[row.code] = row
    return found


def check_codes(rows: Sequence[Row], known: set[str], of_index: bool) -> None:
    """Every row has a code of the codes file, and a text with it; in the index a code of six digits, or none
    where it points elsewhere.
    """
    for row in rows:
        if not row.code and not of_index:
            raise InputError(f"{row.where}: no code; fill the cell or remove the row")
        if row.code and row.code not in known:
            raise InputError(f"{row.where}: code {row.code} is not in the codes file; use files of one year")
        if row.code and of_index and len(row.code) < 6:
            raise InputError(f"{row.where}: {row.code} is no six-digit code; correct it or remove the row")
        if row.code and "text" in row.cells and not row.cells["text"]:
            raise InputError(f"{row.where}: code {row.code} has no text; fill the cell or remove the row")
