"""A made-up industry classification in the form of the four Census workbooks of 2022, dirt included.

Its sectors take on the same things in different ways: cheese is made and sold, bicycles are made, sold and
mended. An index entry shares words with the text of its code, or only with other entries of it, so that a
model can learn to find the code, but not by the thing alone.
"""

import io
import re
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random

from sample_naics_words import CLASSIFICATION, QUALIFIERS, SEE_ROWS, TEMPLATES

YEAR = 2022
FILES = {
    "codes": "2-6 digit_2022_Codes.xlsx",
    "descriptions": "2022_NAICS_Descriptions.xlsx",
    "index": "2022_NAICS_Index_File.xlsx",
    "references": "2022_NAICS_Cross_References.xlsx",
}
WRITTEN = datetime(2022, 1, 3)
RANGES = {"31": "31-33", "44": "44-45"}
ENTRIES = (4, 10)  # index entries of a code
NO_ENTRIES, ONE_ENTRY = (17, 53), (5, 41, 64)  # six-digit codes, by their number, with fewer

# Dirt
TRAILING_SPACE_RATE, TRILATERAL_RATE, CURLY_RATE, NO_GROUP_TEXT_RATE = 0.5, 0.9, 0.02, 0.5
ILLUSTRATED_RATE, NBSP_RATE = 0.4, 0.1


@dataclass
class Code:
    code: str
    title: str
    parent: "Code | None" = None
    doing: str = ""
    nouns: list[str] = field(default_factory=list)
    things: list[str] = field(default_factory=list)
    children: list["Code"] = field(default_factory=list)

    @property
    def all_things(self) -> list[str]:
        """Its things, or one after the other of its children's."""
        lists = [child.all_things for child in self.children]
        longest = max(map(len, lists), default=0)
        spread = [things[i] for i in range(longest) for things in lists if i < len(things)]
        return self.things or list(dict.fromkeys(spread))

    @property
    def stands_for_child(self) -> bool:
        return len(self.code) == 5 and len(self.children) == 1

    @property
    def name(self) -> str:
        """As a cross-reference names it."""
        kinds = {2: "Sector", 3: "Subsector", 4: "Industry Group", 5: "Industry", 6: "U.S. Industry"}
        kind = "Industry" if self.code.endswith("0") else kinds[len(self.code)]
        return f"{kind} {RANGES.get(self.code, self.code)}, {self.title}"


def build_codes() -> list[Code]:
    """All codes, a parent before its children."""
    codes: list[Code] = []
    sector = subsector = group = None
    for line in re.sub(r"\n +\| ", " | ", CLASSIFICATION).strip().splitlines():
        depth, text = len(line) - len(line.lstrip()), line.strip()
        if depth == 3:
            title, _, industries = text.partition(" = ") if " = " in text else (text.split(":")[0], "", text)
            industry = add(codes, group, f"{group.code}{len(group.children) + 1}", title)
            parts = industries.split(" | ")
            for number, part in enumerate(parts, 1):
                name, things = part.split(": ")
                digit = 0 if len(parts) == 1 else number if number < len(parts) or number < 3 else 9
                add(codes, industry, f"{industry.code}{digit}", name).things = things.split(", ")
        elif depth == 2:
            group = add(codes, subsector, *text.split(" ", 1))
        elif depth == 1:
            number, title, doing, nouns = re.fullmatch(r"(\d+) (.+) \((\w+)\) (.+)", text).groups()
            subsector = add(codes, sector, number, title)
            subsector.doing, subsector.nouns = doing, nouns.split(", ")
        else:
            number, title = text.split(" ", 1)
            sector = add(codes, None, number[:2], title)
    return codes


def add(codes: list[Code], parent: Code | None, number: str, title: str) -> Code:
    code = Code(number, title, parent)
    if parent:
        parent.children.append(code)
        code.doing, code.nouns = parent.doing, parent.nouns
    codes.append(code)
    return code


# ---------------------------------------------------------------- texts


def describe(code: Code, rng: Random, referring: bool) -> str:
    """The description cell of a code."""
    if code.stands_for_child:
        return f"See industry description for {code.children[0].code}."
    level, things = len(code.code), code.all_things
    listed = ", ".join(things[:3])
    if level == 2:
        parts = ", ".join(child.title for child in code.children)
        return (
            f"The Sector as a Whole\n\nThe {code.title} sector comprises establishments of these kinds:  "
            f"{parts}.  They deal with such things as {listed}.\n\nExcluded from this sector are "
            "establishments that only advise on such work.  These establishments are classified in "
            "Sector 81, Repair and Personal Care.\n"
        )
    if level == 3:
        return (
            f"Industries in the {code.title} subsector group establishments engaged in {code.doing} things "
            f"such as {listed}.\n\nThe industries differ in the skills, premises and equipment they need.\n"
        )
    if level == 4:
        if rng.random() < NO_GROUP_TEXT_RATE:
            return "NULL"
        return (
            f"This industry group comprises establishments engaged in {code.doing} {listed}, and the like.\n"
        )
    kind = "U.S. industry" if level == 6 and not code.code.endswith("0") else "industry"
    space = "\xa0" if rng.random() < NBSP_RATE else " "
    text = (
        f"This {kind} comprises establishments primarily engaged in{space}{code.doing} {listed}, or other "
        f"things that belong to {code.title.lower()} &amp; their trade.  "
        f"It is work of {rng.choice(code.nouns)}."
    )
    if rng.random() < ILLUSTRATED_RATE:
        lines = "\n".join(f"{thing.capitalize()} {rng.choice(code.nouns)}\t" for thing in things[1:4])
        text += f"\n\nIllustrative Examples:\n\n{lines}\n"
    if referring:
        text += "\n\nCross-References. Establishments primarily engaged in--"
    return text


def write_entries(code: Code, count: int, rng: Random, taken: set[str]) -> list[str]:
    """Index entries of a six-digit code, none of them in the index yet."""
    entries, qualifiers = [], QUALIFIERS.strip().replace("\n", "|").split("|")
    for _ in range(20 * count):
        thing, other = rng.sample(code.things, 2)
        words = {"thing": thing, "other": other, "noun": rng.choice(code.nouns)}
        text = rng.choice(TEMPLATES).format(**words, doing=code.doing, qualifier=rng.choice(qualifiers))
        text = text[0].upper() + text[1:]
        if text not in taken and len(entries) < count:
            taken.add(text)
            entries.append(text.replace("'", "’") if rng.random() < CURLY_RATE else text)
    return sorted(entries)


def refer(code: Code, leaves: list[Code], rng: Random) -> list[str]:
    """Cross-references of a five- or six-digit code: the same things elsewhere, and its neighbours."""
    mine = set(code.all_things)
    same = [(leaf, thing) for leaf in leaves for thing in leaf.things if thing in mine]
    near = [
        (leaf, leaf.things[0])
        for leaf in leaves
        if leaf.code[:4] == code.code[:4] and not leaf.code.startswith(code.code.removesuffix("0"))
    ]
    chosen = {
        leaf.code: (leaf, thing) for leaf, thing in same + near[:2] if not leaf.code.startswith(code.code)
    }
    chosen.pop(code.code, None)
    texts = []
    for leaf, thing in chosen.values():
        named = leaf.parent if len(code.code) == 5 or rng.random() < 0.3 else leaf
        texts.append(f"{leaf.doing.capitalize()} {thing}--are classified in {named.name}")
    if len(code.code) == 6 and code.code[:2] != "81" and rng.random() < 0.1:
        sector = rng.choice([RANGES["31"] + ", Making of Goods", RANGES["44"] + ", Shops"])
        texts.append(
            f"Work on {code.things[0]} for others--are classified in Sector {sector}, by main activity"
        )
    if len(texts) == 1:
        return [
            f"Establishments primarily engaged in {texts[0][0].lower()}{texts[0][1:].replace('--', ' ')}."
        ]
    ends = [";"] * (len(texts) - 2) + ["; and", "."]
    return [text + end for text, end in zip(texts, ends, strict=True)] if texts else []


# ---------------------------------------------------------------- workbooks


def write_naics(folder: Path, seed: int) -> dict[str, int]:
    """The four workbooks in `folder`/raw/2022; returns their body rows."""
    rng = Random(f"naics {seed}")
    codes = build_codes()
    leaves = [code for code in codes if len(code.code) == 6]
    references = {code.code: refer(code, leaves, rng) for code in codes if len(code.code) > 4}
    taken: set[str] = set()
    index = [("******", text) for text in SEE_ROWS]
    for number, leaf in enumerate(leaves):
        count = 0 if number in NO_ENTRIES else 1 if number in ONE_ENTRY else rng.randint(*ENTRIES)
        index += [(int(leaf.code), text) for text in write_entries(leaf, count, rng, taken)]

    def cell(code: Code) -> int | str:
        return RANGES.get(code.code) or int(code.code)

    def spaced(title: str) -> str:
        return title + " " * (rng.random() < TRAILING_SPACE_RATE)

    def trilateral(code: Code) -> str:
        marked = len(code.code) < 6 and rng.random() < TRILATERAL_RATE
        return spaced(code.title + "T" * marked)

    header = ["Seq. No.", "2022 NAICS US   Code", "2022 NAICS US Title", None, None]
    numbered = [
        [i, cell(code), spaced(code.title), None, " " if i == 7 else None] for i, code in enumerate(codes, 1)
    ]
    sheets = {
        "codes": ("tbl_2022_title_description_coun", [header, [None] * 5, *numbered]),
        "descriptions": (
            "2022_NAICS_Descriptions",
            [
                ["Code", "Title", "Description"],
                *(
                    [cell(code), trilateral(code), describe(code, rng, bool(references.get(code.code)))]
                    for code in codes
                ),
            ],
        ),
        "index": ("2022NAICS", [["NAICS22", "INDEX ITEM DESCRIPTION"], *map(list, index)]),
        "references": (
            "2022_NAICS_Cross_References",
            [
                ["Code", "Cross-Reference"],
                *([int(code), text] for code, texts in references.items() for text in texts),
            ],
        ),
    }
    place = folder / "raw" / str(YEAR)
    place.mkdir(parents=True, exist_ok=True)
    counts = {}
    for kind, (title, rows) in sheets.items():
        write_workbook(place / FILES[kind], title, rows)
        counts[FILES[kind]] = len(rows) - 1
    return counts


def write_workbook(path: Path, title: str, rows: list[list]) -> None:
    """A workbook of one sheet, whose bytes depend on its rows alone: no time of writing."""
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet(title)
    for row in rows:
        sheet.append(row)
    book.properties.created = WRITTEN
    packed = io.BytesIO()
    book.save(packed)
    stamp = WRITTEN.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>" + stamp, content)
            info = zipfile.ZipInfo(name, WRITTEN.timetuple()[:6])
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            target.writestr(info, content)
