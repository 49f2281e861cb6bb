"""The results of an evaluation, as results.json holds them, in Markdown."""

from collections.abc import Sequence
from typing import Any

WITH_INTERVAL = {"top1": "top-1", "mrr": "MRR", "hits@10": "hits@10"}
PLAIN = {
    "hits@5": "hits@5",
    "level_2": "sector",
    "level_3": "level 3",
    "level_4": "level 4",
    "level_5": "level 5",
    "lca_level": "level in common",
}


def to_markdown(results: dict[str, Any]) -> str:
    lines = [f"# {results['checkpoint']} on the {results['split']} split", "", introduction(results), ""]
    lines += ["## Text to code", "", *text_to_code(results)]
    lines += ["## By sector", "", *by_sector(results)]
    lines += ["## Cross-references", "", *cross_references(results["cross_references"])]
    lines += ["## The tree", "", *structure(results)]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)] + [""]


def with_interval(measure: dict[str, float], sign: str = "") -> str:
    return f"{measure['value']:{sign}.3f} [{measure['low']:{sign}.3f}, {measure['high']:{sign}.3f}]"


def introduction(results: dict[str, Any]) -> str:
    counts, leaks = results["counts"], results["leaks"]
    weights = " and ".join(
        f"{weight:.3g} of the {name}" for name, weight in results["hybrid_weights"].items()
    )
    fitted = "these" if results["split"] == "validation" else "the validation"
    return (
        f"{counts['queries']:,} index entries of {counts['codes_asked_for']:,} codes, "
        f"{counts['candidates']:,} codes to choose from. Of the entries, {leaks['exact']} say exactly and "
        f"{leaks['near']} nearly what was read before; {leaks['withheld']:,} are withheld for that. The "
        f"hybrid search weighs its scores {weights}, fitted to {fitted} entries. Equal scores count as "
        "random orders. In brackets, 95 % intervals from resampling codes."
    )


def text_to_code(results: dict[str, Any]) -> list[str]:
    rows, differences = [], []
    for name, row in results["text_to_code"].items():
        rows.append([name, *(with_interval(row[key]) for key in WITH_INTERVAL)])
        rows[-1] += [f"{row[key]['value']:.3f}" for key in PLAIN]
    for name, row in results["differences"].items():
        differences.append([name, *(with_interval(row[key], "+") for key in WITH_INTERVAL)])
    lines = table(["", *WITH_INTERVAL.values(), *PLAIN.values()], rows)
    return lines + table(["difference", *WITH_INTERVAL.values()], differences)


def by_sector(results: dict[str, Any]) -> list[str]:
    rows = [
        [sector, f"{row['queries']:,}", *(f"{value:.3f}" for name, value in row.items() if name != "queries")]
        for sector, row in results["by_sector"].items()
    ]
    return table(["sector", *next(iter(results["by_sector"].values()))], rows)


def cross_references(references: dict[str, Any]) -> list[str]:
    if not references["queries"]:
        return ["None in this data.", ""]
    note = (
        f"{references['queries']:,} activities that one code sends to another: how often the other one ranks "
        f"higher. These have read the activities before: {', '.join(references['read_before'])}."
    )
    rows = [[name, with_interval(row)] for name, row in references["destination_first"].items()]
    return [note, "", *table(["", "destination first"], rows)]


def structure(results: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{row['learned']:.3f}", f"{row['exact_tree']:.3f}"]
        for name, row in results["structure"].items()
    ]
    rest = results["radii"] | results["collapse"] | (results["experts"] or {})
    lines = ["The last column is the score of the tree's own metric.", ""]
    lines += table(["", "learned", "exact tree"], rows)
    return lines + table(["points and experts", ""], [[name, f"{value:.3f}"] for name, value in rest.items()])
