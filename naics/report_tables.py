"""The tables of the report, for Markdown and for its page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naics.consistency import LEVEL_NAMES
from naics.evaluation_tables import with_interval


@dataclass(frozen=True)
class Section:
    """A heading, how to read it, and a table; `shaded` cells are per cent, darker where larger."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    shaded: bool = False


def per_cent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def named(level: int) -> str:
    return f"{level} {LEVEL_NAMES[level]}"


def evaluation_sections(results: dict[str, Any]) -> list[Section]:
    """The tables of results.json."""
    counts, references = results["counts"], results["cross_references"]
    columns = {"top1": "top-1", "mrr": "MRR", "hits@10": "hits@10"}
    levels = {"level_2": "sector", "level_3": "level 3", "level_4": "level 4", "level_5": "level 5"}
    sectors = results["by_sector"]
    names = list(next(iter(sectors.values())))[1:]
    points = {**results["radii"], **results["collapse"], **(results["experts"] or {})}
    return [
        Section(
            "Text to code",
            f"{counts['queries']:,} held-out index entries ({results['split']}), {counts['candidates']:,} "
            "candidates; 95 % intervals by resampling codes. The lexical rows need no "
            "training.",
            ["", *columns.values(), *levels.values()],
            [
                [name, *(with_interval(row[key]) for key in columns)]
                + [f"{row[key]['value']:.3f}" for key in levels]
                for name, row in results["text_to_code"].items()
            ],
        ),
        Section(
            "Differences",
            "Of the rows above, on the same entries.",
            ["", *columns.values()],
            [
                [name, *(with_interval(row[key], "+") for key in columns)]
                for name, row in results["differences"].items()
            ],
        ),
        Section(
            "Text to code by sector",
            "Mean reciprocal rank over the entries of a sector.",
            ["sector", "entries", *names],
            [
                [code, f"{row['queries']:,}", *(f"{row[name]:.3f}" for name in names)]
                for code, row in sectors.items()
            ],
        ),
        Section(
            "Cross-references",
            f"{references['queries']:,} activities that one code sends to another: how often the other ranks "
            f"higher. Not held out for: {', '.join(references.get('read_before', []))}.",
            ["", "destination first"],
            [[name, with_interval(row)] for name, row in references.get("destination_first", {}).items()],
        ),
        Section(
            "The tree",
            "Learned distances against path lengths in the tree. The last column is what the tree's own "
            "distances reach, the ceiling.",
            ["", "learned", "exact tree"],
            [
                [name, f"{row['learned']:.3f}", f"{row['exact_tree']:.3f}"]
                for name, row in results["structure"].items()
            ],
        ),
        Section(
            "Points and experts",
            "Signs of collapse: equal norms, few directions, points at the bound, experts without work.",
            ["", "value"],
            [[name, f"{value:.3f}"] for name, value in points.items()],
        ),
    ]


def sections_of(measures: dict[str, Any], shares: np.ndarray) -> list[Section]:
    """The tables of this report, after those of `evaluate`."""
    levels, sectors, parents = measures["levels"], measures["sectors"], measures["parents_found"]
    calibration = measures["calibration"]
    kept = [name for name in levels[-1] if name not in ("level", "codes")]
    heads = {
        "p10": "radius, 10 %",
        "median": "median",
        "p90": "90 %",
        "farther_than_parent": "farther out than the parent",
        "mean_step": "mean step out",
        "above_previous": "above a random code of the level before",
    }
    shown = {"farther_than_parent": per_cent, "above_previous": per_cent}
    return [
        Section(
            "Levels",
            "In a space that holds the tree, children lie farther from the origin than their parents and "
            "the levels' radii keep apart. The last but one column is 50 % where two levels cannot be told "
            "apart. Parent found: of the codes with siblings, those whose nearest code of the level above is "
            "the parent.",
            ["level", "codes", *(heads[name] for name in kept), "parent found"],
            [
                [named(row["level"]), f"{row['codes']:,}"]
                + [shown.get(name, decimals)(row.get(name)) for name in kept]
                + [per_cent(parents.get(row["level"]))]
                for row in levels
            ],
        ),
        Section(
            "Confidence of the search",
            f"On {calibration['entries']:,} validation entries, which also set its weights: how often the "
            "likeliest code of a level is right, the mean probability it is given, and the mean gap between "
            "the two over 15 bins.",
            ["level", "right", "mean probability", "calibration error"],
            [
                [named(int(level))]
                + [f"{row[name]:.3f}" for name in ("accuracy", "confidence", "calibration_error")]
                for level, row in calibration["levels"].items()
            ],
        ),
        Section(
            "Sectors",
            f"Where the learned space alone puts the {measures['entries']:,} validation entries.",
            [
                "sector",
                "title",
                "codes",
                "entries",
                "right sector",
                "right code",
                "most taken for",
                "median radius",
            ],
            [
                [
                    *(row["sector"], row["title"], f"{row['codes']:,}", f"{row['entries']:,}"),
                    *(per_cent(row["right_sector"]), per_cent(row["right_code"])),
                    *(row["most_taken_for"] or "-", decimals(row["median_radius"])),
                ]
                for row in sectors
            ],
        ),
        Section(
            "Sectors taken for each other",
            "Per cent of a sector's entries (row) that went to each sector (column).",
            ["", *(row["sector"] for row in sectors)],
            [
                [row["sector"], *(f"{100 * share:.0f}" if share >= 0.005 else "" for share in line)]
                for row, line in zip(sectors, shares, strict=True)
            ],
            shaded=True,
        ),
        Section(
            "Most confused siblings",
            "Six-digit codes of one parent: validation entries of the first that lie nearest to the second.",
            ["code", "title", "taken for", "its title", "entries", "such as"],
            [
                [
                    *(row["code"], row["title"], row["taken_for"], row["taken_for_title"]),
                    *(f"{row['entries']} of {row['of']}", row["example"]),
                ]
                for row in measures["confused_siblings"]
            ],
        ),
    ]


def to_markdown(heading: str, facts: dict[str, str], sections: Sequence[Section]) -> str:
    lines = [f"# {heading}", "", *(f"- {name}: {value}" for name, value in facts.items())]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.note, ""]
        lines += ["| " + " | ".join(section.head) + " |", "|" + "---|" * len(section.head)]
        for row in section.rows:
            cells = (" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in row)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
