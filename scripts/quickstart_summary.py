"""One table of what quickstart.sh made, and index.html with links to its pages.

python scripts/quickstart_summary.py data/quickstart
"""

import argparse
import csv
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from training_utils import InputError, replacing, run_script

STYLE = """:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem;
margin: 2rem auto; padding: 0 1rem } .wide { overflow-x: auto } table { border-collapse: collapse }
th, td { text-align: left; padding: .35rem .8rem; border-bottom: 1px solid #8886 }
td.number { text-align: right; font-variant-numeric: tabular-nums } figure { margin: 1.5rem 0 }
img { max-width: 100%; background: #fff }"""


class Row(NamedTuple):
    project: str
    what: str
    measure: str
    score: float
    beside: str
    other: float


class Link(NamedTuple):
    project: str
    name: str
    path: str  # below the quickstart's folder


LINKS = (
    Link("category_classification", "scores, calibration, browser of errors", "report.html"),
    Link("category_classification", "predictions", "predictions.csv"),
    Link("experiments", "all formats: charts, verdicts, tables", "report/report.html"),
    Link("semantic_ids", "browser of IDs", "output/Video_Games_evaluation/ids.html"),
    Link("naics", "Poincaré disk and tables", "report/report.html"),
)
PICTURES = (
    Link("category_classification", "learning curve", "encoder/learning_curve.png"),
    Link("experiments", "quality against speed", "report/pareto_classification.png"),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where quickstart.sh left its results")
    return parser.parse_args()


def main() -> None:
    folder = parse_args().folder
    rows = [row for read in (categories, formats, semantic_ids, industries) for row in read(folder)]
    if not rows:
        raise InputError(f"{folder}: holds no results; run scripts/quickstart.sh first")
    print(f"\n{'project':24}{'what':32}{'measure':26}{'score':>8}   beside")
    for row in rows:
        beside = f"{row.other:.4f} {row.beside}"
        print(f"{row.project:24}{row.what:32}{row.measure:26}{row.score:8.4f}   {beside}")
    with replacing(folder / "index.html") as file:
        file.write(page(folder, rows).encode())
    print(f"\nall pages       {folder}/index.html")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def categories(folder: Path) -> Iterator[Row]:
    folder = folder / "category_classification"
    encoder, linear = read_json(folder / "encoder/summary.json"), read_json(folder / "linear/metrics.json")
    if encoder and linear:
        scores = encoder["test"]["macro_f1"], linear["test"]["macro_f1"]
        yield Row(folder.name, "encoder", "macro-F1", scores[0], "linear model", scores[1])


def formats(folder: Path) -> Iterator[Row]:
    path = folder / "experiments/report/summary.csv"
    if not path.exists():
        return
    with path.open(newline="") as file:
        scores = {(row["task"], row["config"]): row["metric1_mean"] for row in csv.DictReader(file)}
    for task, measure in (("classification", "micro-F1"), ("language_modeling", "loss (lower is better)")):
        name = task.replace("modeling", "model").replace("_", " ")
        for config in ("bf16_pure", "bf16_kahan"):
            ours, fp32 = scores.get((task, config)), scores.get((task, "fp32_baseline"))
            if ours and fp32:
                yield Row("experiments", f"{config}, {name}", measure, float(ours), "fp32", float(fp32))


def semantic_ids(folder: Path) -> Iterator[Row]:
    found = read_json(folder / "semantic_ids/output/Video_Games_evaluation/metrics.json")
    if found:
        methods = {method["name"]: method for method in found["methods"]}
        ours, means = methods["these IDs"], methods["residual k-means, PCA-32"]
        for measure, name in (("unique share", "unique_share"), ("cosine", "reconstruction_cosine")):
            yield Row("semantic_ids", "RQ-VAE", measure, ours[name], "residual k-means, PCA-32", means[name])


def industries(folder: Path) -> Iterator[Row]:
    found = read_json(folder / "naics/evaluation/results.json")
    if found:
        scores = {name: row["mrr"]["value"] for name, row in found["text_to_code"].items()}
        for name in ("hybrid search", "learned space"):
            yield Row(
                "naics",
                name,
                "MRR of held-out entries",
                scores[name],
                "BM25",
                scores["BM25, words and pairs, all seen entries"],
            )


def page(folder: Path, rows: list[Row]) -> str:
    """The table with a link to each page that is there, and two of the plots."""
    there = [link for link in LINKS if (folder / link.project / link.path).exists()]
    links = "".join(
        f'<li><a href="{link.project}/{link.path}">{escape(link.project)}</a>: {escape(link.name)}</li>'
        for link in there
    )
    body = "".join(
        f"<tr><td>{escape(row.project)}</td><td>{escape(row.what)}</td><td>{escape(row.measure)}</td>"
        f'<td class="number">{row.score:.4f}</td><td class="number">{row.other:.4f}</td>'
        f"<td>{escape(row.beside)}</td></tr>"
        for row in rows
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("project", "what", "measure", "score"))
    pictures = "".join(
        f'<figure><img src="{link.project}/{link.path}" alt="{link.name}">'
        f"<figcaption>{link.project}: {link.name}</figcaption></figure>"
        for link in PICTURES
        if (folder / link.project / link.path).exists()
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Quickstart</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style><h1>Quickstart</h1>
<p>Results on the sample data, which is made up: they show that all of it runs, not what it reaches.</p>
<h2>Pages</h2><ul>{links}</ul><h2>Scores</h2><div class="wide"><table>
<thead><tr>{heads}<th scope="col" colspan="2">beside</th></tr></thead><tbody>{body}</tbody></table></div>
{pictures}</html>
"""


if __name__ == "__main__":
    run_script(main)
