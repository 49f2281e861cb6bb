"""The NAICS taxonomy, its index entries and cross-references: from the Census workbooks to Parquet files.

    counts = preprocess(Path("data/naics/raw/2022"), Path("data/naics"))
    taxonomy = load_taxonomy(Path("data/naics"))        # n codes; row i is code `taxonomy.codes[i]`

A title comes from the codes file, since those of the descriptions file end in a trilateral "T"; the other
rules for texts stand in census_texts.py.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from naics.data.census_texts import CODE, FIRST_OF_SECTOR, RANGE, parent_code
from naics.data.workbooks import Census, read_census
from naics.index_roles import assign_roles, near_matches, roles_fingerprint
from training_utils import InputError, replacing

DESCRIPTIONS, INDEX = "naics_descriptions.parquet", "naics_index.parquet"
REFERENCES = "naics_cross_references.parquet"
LEVELS = range(2, 7)


@dataclass(frozen=True, eq=False)  # compared and hashed as itself: arrays have no truth value
class Taxonomy:
    codes: tuple[str, ...]  # "31" stands for 31-33, "44" for 44-45, "48" for 48-49
    levels: np.ndarray  # (n,) int8, 2..6
    parents: np.ndarray  # (n,) int16 row of the parent, -1 for a sector
    titles: tuple[str, ...]
    descriptions: tuple[str, ...]
    examples: tuple[str, ...]
    excluded: tuple[str, ...]
    excluded_codes: tuple[tuple[int, ...], ...]  # rows

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def rows(self) -> dict[str, int]:
        return {code: row for row, code in enumerate(self.codes)}

    def row(self, code: str) -> int:
        """The row of a code, also of "31-33", 32 or "33"."""
        text = RANGE.sub(r"\1", str(code).strip())
        row = self.rows.get(FIRST_OF_SECTOR.get(text, text))
        if row is None:
            raise InputError(f"{code}: no such NAICS code in this data; look it up at census.gov/naics")
        return row

    @cached_property
    def ancestors(self) -> np.ndarray:
        """(n, 5) int16 rows of each code's ancestor-or-self at level 2..6, -1 below its own level."""
        table = np.full((len(self), len(LEVELS)), -1, dtype=np.int16)
        for row in np.argsort(self.levels, kind="stable"):
            if self.parents[row] >= 0:
                table[row] = table[self.parents[row]]
            table[row, self.levels[row] - 2] = row
        return table

    @property
    def sectors(self) -> np.ndarray:
        """(n,) int16 row of each code's sector."""
        return self.ancestors[:, 0]

    @cached_property
    def leaves(self) -> np.ndarray:
        """Rows of the six-digit codes."""
        return np.flatnonzero(self.levels == LEVELS[-1])


@dataclass(frozen=True)
class IndexEntries:
    entry_id: np.ndarray  # (m,) int64
    rows: np.ndarray  # (m,) int16 taxonomy rows
    texts: tuple[str, ...]
    roles: np.ndarray  # (m,) str: examples, train, validation, test or withheld


@dataclass(frozen=True)
class References:
    rows: np.ndarray  # (r,) int16 row of the referring code
    texts: tuple[str, ...]
    activities: tuple[str, ...]
    targets: tuple[tuple[int, ...], ...]  # rows of the codes it names


# ---------------------------------------------------------------- Census -> Parquet


def preprocess(raw: Path, data_dir: Path, year: int = 2022, seed: int = 42) -> dict[str, Any]:
    """Write the three Parquet files of a year's workbooks in `raw`; returns counts and the leak audit."""
    census = read_census(Path(raw), year)
    data_dir = Path(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    entry_codes, entry_texts = [code for code, _ in census.entries], [text for _, text in census.entries]
    activities = list(dict.fromkeys(activity for _, _, activity, _ in census.references))
    texts = [*census.titles, *census.descriptions, *activities]
    roles, audit = assign_roles(entry_codes, entry_texts, texts, seed)
    examples, dropped = choose_examples(census, roles)
    excluded, excluded_codes = collect_exclusions(census)

    count = len(census.codes)
    write_table(
        data_dir / DESCRIPTIONS,
        index=pa.array(range(count), pa.uint32()),
        level=pa.array([len(code) for code in census.codes], pa.uint8()),
        code=pa.array(census.codes, pa.string()),
        title=pa.array(census.titles, pa.string()),
        description=pa.array(census.descriptions, pa.string()),
        examples=pa.array(examples, pa.string()),
        excluded=pa.array(excluded, pa.string()),
        excluded_codes=pa.array(excluded_codes, pa.list_(pa.string())),
    )
    write_table(
        data_dir / INDEX,
        entry_id=pa.array(range(len(roles)), pa.uint32()),
        code=pa.array(entry_codes, pa.string()),
        text=pa.array(entry_texts, pa.string()),
        role=pa.array(roles, pa.string()),
    )
    codes, texts, activities, targets = zip(*census.references, strict=True)
    write_table(
        data_dir / REFERENCES,
        code=pa.array(codes, pa.string()),
        text=pa.array(texts, pa.string()),
        activity=pa.array(activities, pa.string()),
        targets=pa.array(targets, pa.list_(pa.string())),
    )
    return {
        "year": year,
        "codes": count,
        "codes_by_level": {level: sum(len(code) == level for code in census.codes) for level in LEVELS},
        "index_entries": len(roles),
        "index_rows_without_code": census.see_rows,
        "cross_references": len(codes),
        "cross_references_naming_a_code": sum(map(bool, targets)),
        "excluded_code_pairs": sum(map(len, excluded_codes)),
        "illustrative_examples_left_out": dropped,
        "roles": audit,
    }


def choose_examples(census: Census, roles: list[str]) -> tuple[list[str], int]:
    """Each code's examples: its index entries of that role, else the illustrative ones of its description.

    An illustrative example that tells a validation or test entry is left out; returns how many were.
    """
    found = defaultdict(list)
    for (code, text), role in zip(census.entries, roles, strict=True):
        if role == "examples":
            found[code].append(text)
    lines = [
        (code, line)
        for code, block in zip(census.codes, census.illustrations, strict=True)
        if code not in found
        for line in dict.fromkeys(block)
    ]
    held_out = [
        text for (_, text), role in zip(census.entries, roles, strict=True) if role in ("validation", "test")
    ]
    told = near_matches([line for _, line in lines], held_out)
    for (code, line), leaks in zip(lines, told, strict=True):
        if not leaks:
            found[code].append(line)
    return ["; ".join(found[code]) for code in census.codes], sum(told)


def collect_exclusions(census: Census) -> tuple[list[str], list[list[str]]]:
    """Each code's exclusions as a text, every reference once, and the codes that its references name."""
    texts, named = defaultdict(dict), defaultdict(dict)
    for code, text, _, targets in census.references:
        texts[code][text] = None
        named[code] |= dict.fromkeys(targets)
    for code, paragraphs in zip(census.codes, census.excluding, strict=True):
        if code not in texts:
            texts[code] = dict.fromkeys(paragraphs)
    return ["; ".join(texts[code]) for code in census.codes], [sorted(named[code]) for code in census.codes]


def write_table(path: Path, **columns: pa.Array) -> None:
    with replacing(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


# ---------------------------------------------------------------- Parquet -> arrays

IS = {  # what a column holds -> whether an Arrow type does
    "text": pa.types.is_string,
    "text or none": pa.types.is_string,
    "number": pa.types.is_integer,
    "texts": lambda kind: pa.types.is_list(kind) and pa.types.is_string(kind.value_type),
}


def read_table(path: Path, columns: dict[str, str]) -> dict[str, list]:
    """The named columns of one of the files that `preprocess` writes, each with what it holds: text, number
    or texts. A value that is missing is None in a column of texts and of "text or none".
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `naics-gemini data preprocess` first")
    try:
        table = pq.read_table(path)
        table.validate(full=True)  # its texts are UTF-8
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: damaged ({type(error).__name__}); run `naics-gemini data preprocess`"
        ) from None
    for name, what in columns.items():
        if table.column_names.count(name) != 1:
            raise InputError(f"{path}: no column {name}; run `naics-gemini data preprocess` again")
        column = table[name]
        if not IS[what](column.type) or ("none" not in what and what != "texts" and column.null_count):
            raise InputError(
                f"{path}: column {name} is not all {what}; run `naics-gemini data preprocess` again"
            )
    if not len(table):
        raise InputError(f"{path}: holds no row; run `naics-gemini data preprocess` again")
    return {name: table[name].to_pylist() for name in columns}


def load_taxonomy(data_dir: Path) -> Taxonomy:
    """The taxonomy of a data folder, checked: known levels, no code twice, every parent there."""
    path = Path(data_dir) / DESCRIPTIONS
    names = ("title", "description", "examples", "excluded")
    columns = {"code": "text", "level": "number", **dict.fromkeys(names, "text or none"), "title": "text"}
    table = read_table(path, columns | {"excluded_codes": "texts"})
    codes = table["code"]
    rows = {code: row for row, code in enumerate(codes)}
    parents = np.full(len(codes), -1, dtype=np.int16)
    for row, (code, level) in enumerate(zip(codes, table["level"], strict=True)):
        where = f"{path}, row {row + 1}"
        if not CODE.fullmatch(code) or level != len(code):
            raise InputError(f"{where}: {code!r} at level {level} is no NAICS code; run preprocess again")
        if not any(character.isalnum() for character in table["title"][row]):
            raise InputError(f"{where}: code {code} has no title; run preprocess again")
        if rows[code] != row:
            raise InputError(f"{where}: code {code} stands at row {rows[code] + 1} too; run preprocess again")
        parent = parent_code(code)
        if parent is not None:
            if parent not in rows:
                raise InputError(f"{where}: code {code} has no parent {parent}; run preprocess again")
            parents[row] = rows[parent]
    texts = (tuple(text or "" for text in table[name]) for name in names)
    excluded_codes = to_rows(path, table["excluded_codes"], rows)
    return Taxonomy(tuple(codes), np.array(table["level"], np.int8), parents, *texts, excluded_codes)


def to_rows(path: Path, lists: list[list[str] | None], rows: dict[str, int]) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(rows[code] for code in codes or ()) for codes in lists)
    except KeyError as error:
        raise InputError(
            f"{path}: names code {error.args[0]}, not in this data; run preprocess again"
        ) from None


def load_index(data_dir: Path) -> IndexEntries:
    path = Path(data_dir) / INDEX
    table = read_table(path, {"entry_id": "number", "code": "text", "text": "text", "role": "text"})
    taxonomy = load_taxonomy(data_dir)
    rows = to_rows(path, [table["code"]], taxonomy.rows)[0]
    for row, code in enumerate(rows):
        if taxonomy.levels[code] != LEVELS[-1]:
            where = f"{path}, row {row + 1}: {table['text'][row][:60]!r}"
            raise InputError(f"{where} is of {taxonomy.codes[code]}, no six-digit code; run preprocess again")
    return IndexEntries(
        np.array(table["entry_id"], np.int64),
        np.array(rows, np.int16),
        tuple(table["text"]),
        np.array(table["role"], str),
    )


def fingerprint_roles(taxonomy: Taxonomy, index: IndexEntries) -> str:
    return roles_fingerprint([taxonomy.codes[row] for row in index.rows], index.texts, index.roles)


def load_references(data_dir: Path) -> References:
    path = Path(data_dir) / REFERENCES
    table = read_table(path, {"code": "text", "text": "text", "activity": "text", "targets": "texts"})
    known = load_taxonomy(data_dir).rows
    return References(
        np.array(to_rows(path, [table["code"]], known)[0], np.int16),
        tuple(table["text"]),
        tuple(table["activity"]),
        to_rows(path, table["targets"], known),
    )
