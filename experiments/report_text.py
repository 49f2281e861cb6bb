"""What a report is made of, and its Markdown: sections of paragraphs, tables and pictures."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments.report_analysis import Delta

Table = list[dict[str, str]]
MISSING = "-"


@dataclass(frozen=True)
class Picture:
    """A PNG beside the report; `title` is what it shows."""

    name: str
    title: str


@dataclass
class Section:
    title: str
    level: int = 2
    blocks: list[str | Table | Picture] = field(default_factory=list)


# ---------------------------------------------------------------- numbers


def plain(value: float | None, digits: int = 4) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:+.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def significant(value: float | None, digits: int = 3) -> str:
    """1234.5 -> 1,230; 0.01234 -> 0.0123."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def between(low: float, high: float) -> str:
    finite = math.isfinite(low) and math.isfinite(high)
    return f"[{signed(low)}, {signed(high)}]" if finite else MISSING


def with_spread(mean: float, spread: float, digits: int = 4) -> str:
    return plain(mean, digits) + (f" ± {plain(spread, digits)}" if math.isfinite(spread) else "")


def describe_delta(delta: Delta, title: str) -> str:
    """`micro-F1 +0.0012 [-0.0003, +0.0027], n=3`."""
    mean = signed(delta.mean) if delta.count else MISSING
    interval = f" {between(delta.low, delta.high)}" if delta.count > 1 else ""
    ends = zip(delta.diverged, ("diverged", "of the other diverged"), strict=True)
    seeds = "".join(f", {count} {what}" for count, what in ends if count)
    return f"{title} {mean}{interval}, n={delta.count}{seeds}"


# ---------------------------------------------------------------- Markdown


def columns_of(table: Table) -> list[str]:
    """All keys, in the order they first appear."""
    return list(dict.fromkeys(name for row in table for name in row))


def is_number(text: str) -> bool:
    """Whether a cell lies to the right; one number or several."""
    return bool(re.match(r"\[?[+-]?[\d.]", text))


def is_numeric(table: Table, column: str) -> bool:
    """Whether all cells that hold anything hold numbers."""
    cells = [row[column] for row in table if row.get(column, MISSING) != MISSING]
    return bool(cells) and all(map(is_number, cells))


def markdown_table(table: Table) -> str:
    columns = columns_of(table)

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;") or MISSING

    rows = [[cell(row.get(name, MISSING)) for name in columns] for row in table]
    right = [is_numeric(table, name) for name in columns]
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    )
    return "\n".join([line(columns), rule, *map(line, rows)])


def markdown(title: str, sections: Sequence[Section]) -> str:
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"{'#' * section.level} {section.title}")
        for block in section.blocks:
            if isinstance(block, str):
                parts.append(block)
            elif isinstance(block, Picture):
                parts.append(f"![{block.title}]({block.name})")
            elif block:
                parts.append(markdown_table(block))
    return "\n\n".join(parts) + "\n"
