"""Tiny Census workbooks and taxonomies for tests: every rule for the texts once, exact answers by eye."""

from functools import cache
from pathlib import Path

import numpy as np

from naics.data.census import Taxonomy
from naics.data.census_texts import parent_code
from naics.data.workbooks import file_name, read_census

HEADERS = {
    2022: {
        "codes": ["Seq. No.", "2022 NAICS US   Code", "2022 NAICS US Title", None, None],
        "descriptions": ["Code", "Title", "Description"],
        "index": ["NAICS22", "INDEX ITEM DESCRIPTION"],
        "references": ["Code", "Cross-Reference"],
    },
    2017: {
        "codes": ["Seq. No.", "2017 NAICS US Code ", " 2017 NAICS  US Title"],
        "descriptions": ["2017 NAICS Code", "2017 NAICS Title", "2017 NAICS Description"],
        "index": ["NAICS17", "Index Item Description"],
        "references": ["code", "Cross- Reference"],
    },
}
ENGAGED = "This industry comprises establishments primarily engaged in"
WOODS = ("Oak", "Ash", "Elm", "Fir", "Pine", "Beech", "Larch", "Teak")
ROWS = {
    "codes": [
        [None, None, None],
        [1, "31-33", "Making "],
        [2, 321, "Wood Goods"],
        [3, 3211, "Boards"],
        [4, 32111, "Sawn Boards"],
        [5, 321110, "Sawn Boards  "],
        [6, 32112, "Glued Boards", None, " "],
        [7, 321121.0, "Plywood"],
        [8, 321129, "Other Glued\xa0Boards"],
        [9, 331, "Metal Goods"],
        [10, 3311, "Castings"],
        [11, 33111, "Bells"],
        [12, 331110, "Bells"],
        [13, "44-45", "Selling"],
        [14, "451", "Bell Shops"],
        [15, "4511", "Bell Shops"],
        [16, "45111", "Bell Shops"],
        [17, "451110", "Bell Shops"],
    ],
    "descriptions": [
        [
            "31-33",
            "MakingT",
            "The Sector as a Whole\n\nMaking of things.  All of them.\r\n\r\nExcluded from this sector is "
            "selling.  It is classified in Sector 44-45, Selling.\n",
        ],
        [321, "Wood GoodsT ", "Goods &amp; parts<br/>of wood.\n\n<table><tr><td>Doors;</td></tr></table>"],
        [3211, "BoardsT", "NULL"],
        [32111, "Sawn BoardsT", "See industry description for 321110."],
        [321110, "Sawn Boards", f"{ENGAGED} sawing.  See also U.S. rules.\n\nCross-References."],
        [
            32112,
            "Glued BoardsT",
            f"{ENGAGED} gluing.\n\nIllustrative Examples:\n\nPlywood works\t\nVeneer works\n\n\n"
            "Cross-References. Establishments primarily engaged in--",
        ],
        [321121, "Plywood", f"{ENGAGED}\xa0plywood.\n\nIllustrative Examples:\n\nMarine plywood\n"],
        [321129, "Other Glued Boards", f"{ENGAGED} other gluing.\n"],
        [331, "Metal GoodsT", "Goods of metal."],
        [3311, "CastingsT", None],
        [33111, "BellsT", "See industry description for 331110"],
        [
            331110,
            "Bells",
            f"{ENGAGED} casting bells.\n\nIllustrative Examples:\n\nChurch bells\nHand bells\n",
        ],
        ["44-45", "SellingT", "Selling of things."],
        [451, "Bell ShopsT", "Shops."],
        [4511, "Bell ShopsT", " \n"],
        [45111, "Bell ShopsT", "See industry description for 451110."],
        [451110, "Bell Shops", f"{ENGAGED} selling bells."],
    ],
    "index": [
        ["******", "Boards -- see type "],
        *([321110, f"{wood} boards, sawn"] for wood in WOODS),
        *([321121, f"Plywood of {wood}"] for wood in ("birch", "poplar", "spruce ", "bamboo")),
        [321129, "Corestock"],
        ["451110", "Bell shops; all sizes"],
    ],
    "references": [
        [32112, "Sawing boards--are classified in Industry 32111, Sawn Boards; and"],
        [32112, "Selling boards--are classified in Sector 44-45, Selling, for 10 years or more."],
        [321121, "Sawing boards--are classified in Industry 321110, Sawn Boards;"],
        [321121, "Sawing boards--are classified in Industry 321110, Sawn Boards; and"],
        [321121, "Gluing other boards--are classified in U.S. Industry 321129, or 321121, by kind."],
        [331110, "Establishments primarily engaged in selling bells are classified in Industry 451110."],
        [451110, "Renting bells--are classified elsewhere by the main activity."],
    ],
}


def write_workbooks(
    folder: Path, year: int = 2022, headers: dict | None = None, **changed: list[list]
) -> Path:
    """The four workbooks of a year; `changed` gives other rows, `headers` other headers, by kind."""
    from openpyxl import Workbook

    folder.mkdir(parents=True, exist_ok=True)
    for kind, rows in (ROWS | changed).items():
        book = Workbook()
        for row in [(HEADERS[year] | (headers or {}))[kind], *rows]:
            book.active.append(row)
        book.save(folder / file_name(kind, year))
    return folder


def make_taxonomy(codes: list[str], excluded: dict[str, list[str]] | None = None) -> Taxonomy:
    """A taxonomy of these codes, titled by themselves; `excluded` names codes by code."""
    rows = {code: row for row, code in enumerate(codes)}
    parents = [rows.get(parent_code(code) or "", -1) for code in codes]
    named = [tuple(rows[other] for other in (excluded or {}).get(code, ())) for code in codes]
    levels, blank = np.array([len(code) for code in codes], np.int8), ("",) * len(codes)
    parents = np.array(parents, np.int16)
    return Taxonomy(tuple(codes), levels, parents, tuple(codes), blank, blank, blank, tuple(named))


@cache
def real_taxonomy(folder: Path) -> Taxonomy:
    """The codes of 2022 and the codes that their references name."""
    census = read_census(folder / "naics" / "2022", 2022)
    excluded: dict[str, list[str]] = {}
    for code, _, _, targets in census.references:
        named = excluded.setdefault(code, [])
        named += [target for target in targets if target not in named]
    return make_taxonomy(census.codes, excluded)
