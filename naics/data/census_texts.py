"""What is inside the cells of the Census workbooks: codes, descriptions, illustrative examples, references.

"See industry description for 111110" stands for that text. A code whose description is missing (154
four-digit ones) gets the first sentence of each of its children's. Illustrative examples and cross-references
leave the description; so do paragraphs on what a sector or subsector excludes, which has no cross-references.
"""

import html
import re
from collections import defaultdict
from typing import Any

from training_utils import InputError

FIRST_OF_SECTOR = {"32": "31", "33": "31", "45": "44", "49": "48"}  # sectors 31-33, 44-45 and 48-49
CODE = re.compile(r"\d{2,6}")
RANGE = re.compile(r"(\d\d) ?[-–] ?\d\d")
NO_CODE = re.compile(r"\*+")  # index rows that only point elsewhere: "Farming -- see type"

SAME_AS = re.compile(r"See industry description for (\d{5,6})\.?")
TAG = re.compile(r"<[^<>]*>")
HEADING = re.compile(r"The Sector as a Whole")
CROSS_REFERENCES = re.compile(r"^\s*Cross-References?\b.*", re.DOTALL | re.MULTILINE)
ILLUSTRATIVE = re.compile(r"^\s*Illustrative Examples?:?(.*)", re.DOTALL | re.MULTILINE)
EXCLUDING = re.compile(r"(?:^|[.] +)(?:Excluded from|This (?:sub)?sector excludes)")
SENTENCE_END = re.compile(r"(?<=[a-z0-9)]\.)\s+(?=[A-Z])")
LIST_END = re.compile(r"\s*;(?: and)?$|\.$")
CLASSIFIED = re.compile(r"[\s,]*(?:--|—)?\s*\b(?:is|are)\b[a-z ]*classified\b")
ENGAGED_IN = re.compile(r"Establishments primarily engaged in (?:the )?")
NUMBER = re.compile(r"\b\d{2,6}\b")


def cell_text(value: Any) -> str:
    """A cell as text: 111110.0 is "111110", NULL and nothing are "", entities and nbsp are plain."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = html.unescape(str(value)).replace("\xa0", " ").strip()
    return "" if text.upper() == "NULL" else text


def sheet_code(text: str, where: str) -> str:
    """The code of a cell: "31-33" is "31", "******" is ""."""
    if not text or NO_CODE.fullmatch(text):
        return ""
    text = RANGE.sub(r"\1", text)
    if not CODE.fullmatch(text):
        raise InputError(f"{where}: {text[:20]!r} is no NAICS code of 2 to 6 digits; correct the cell")
    return FIRST_OF_SECTOR.get(text, text)


def parent_code(code: str) -> str | None:
    """The code one level up, None for a sector."""
    if len(code) == 2:
        return None
    return FIRST_OF_SECTOR.get(code[:-1], code[:-1])


def flat(text: str) -> str:
    """One line, single spaces."""
    return " ".join(text.split())


def split_description(text: str) -> tuple[str, list[str], list[str]]:
    """A cell's description, lines of illustrative examples, and paragraphs on what the code excludes."""
    text = CROSS_REFERENCES.sub("", TAG.sub(" ", text.replace("\r\n", "\n")))
    found = ILLUSTRATIVE.search(text)
    lines = [flat(line) for line in found[1].split("\n")] if found else []
    text = HEADING.sub("", text[: found.start()] if found else text)
    paragraphs = [flat(part) for part in re.split(r"\n\s*\n", text)]
    excluding = [part for part in paragraphs if EXCLUDING.search(part)]
    kept = [part for part in paragraphs if part and part not in excluding]
    return " ".join(kept), [line for line in lines if line], excluding


def fill_descriptions(codes: list[str], texts: list[str]) -> list[str]:
    """Resolve "See industry description for" and make up what is missing from the children."""
    found = dict(zip(codes, texts, strict=True))
    children = defaultdict(list)
    for code in codes:
        children[parent_code(code)].append(code)
    for code in sorted(codes, key=len, reverse=True):
        if same := SAME_AS.fullmatch(found[code]):
            found[code] = found.get(same[1], "")
        if not found[code]:
            first = [SENTENCE_END.split(found[child], maxsplit=1)[0] for child in children[code]]
            found[code] = " ".join(dict.fromkeys(filter(None, first)))
    return [found[code] for code in codes]


def split_reference(text: str, code: str, known: set[str]) -> tuple[str, str, list[str]]:
    """A reference's text, its activity (what is done elsewhere), and the valid codes it names."""
    text = LIST_END.sub("", flat(text))
    activity = ENGAGED_IN.sub("", CLASSIFIED.split(text, maxsplit=1)[0])
    numbers = NUMBER.findall(RANGE.sub(r"\1", text))
    targets = [number for number in dict.fromkeys(numbers) if number in known and number != code]
    return text, activity[:1].upper() + activity[1:], targets
