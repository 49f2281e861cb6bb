"""An evaluation as one HTML page: scores, languages, confusion matrix, calibration, a browser of the errors.

The page loads nothing. Texts of a dataset are hostile input: they reach it only inside a block of JSON, are
shown by `textContent` alone, and a content security policy lets no script run but this module's.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch

from category_classification.lspc import Split
from training_utils import replacing

MOST_ERRORS = 2000  # on a page; about a megabyte of Latin texts
MOST_CHARACTERS = 400  # of a text


def write_html(path: Path, metrics: dict[str, Any], title: str, errors: Sequence[dict[str, Any]]) -> None:
    """The page of an evaluation's `metrics` and of its `most_confident_errors`."""
    policy = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # JSON of ASCII alone: with "<" escaped as well nothing in a text can end the block or open a comment.
    block = json.dumps(list(errors)).replace("<", "\\u003c")
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{policy}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{_header(metrics)}
{_languages(metrics)}
{_confusion(metrics)}
{_calibration(metrics["calibration"])}
{_errors(metrics, errors)}
<script type="application/json" id="data">{block}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""
    with replacing(path) as file:
        file.write(page.encode("ascii", "xmlcharrefreplace"))


def most_confident_errors(
    logits: np.ndarray, split: Split, temperature: float, texts: Any
) -> list[dict[str, Any]]:
    """Rows whose prediction is not their label, surest first, at most MOST_ERRORS; only their texts are read.

    `texts` is the split as a dataset, in the order of `logits`.
    """
    predictions = logits.argmax(1)
    wrong = np.flatnonzero(predictions != split.labels)
    probabilities = (torch.from_numpy(logits[wrong]).double() / temperature).softmax(1).numpy()
    confidence = probabilities[np.arange(len(wrong)), predictions[wrong]]
    order = np.argsort(-confidence, kind="stable")[:MOST_ERRORS]
    rows = wrong[order]
    have = texts.column_names
    columns = ["text"] if "text" in have else [name for name in ("title", "description") if name in have]
    table = texts.select_columns(columns).with_format("arrow").select(rows)[:].to_pydict()
    found = []
    for at, (number, row) in enumerate(zip(order, rows, strict=True)):
        text = " ".join(filter(None, (table[column][at] for column in columns)))
        if len(text) > MOST_CHARACTERS:
            text = text[:MOST_CHARACTERS] + "\N{HORIZONTAL ELLIPSIS}"
        found.append(
            {
                "row": int(row),
                "text": text,
                "label": split.class_names[split.labels[row]],
                "prediction": split.class_names[predictions[row]],
                "probability": round(float(confidence[number]), 6),
                "label_probability": round(float(probabilities[number, split.labels[row]]), 6),
                "language": split.language_names[split.languages[row]],
                "cluster": str(split.clusters[row]),  # JavaScript's numbers end at 2^53
            }
        )
    return found


# ---------------------------------------------------------------- sections


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _interval(scores: dict[str, Any], name: str) -> tuple[float, float] | None:
    """Bounds of a score; None where too few clusters gave none."""
    bounds = scores.get(f"{name}_interval")
    return tuple(bounds) if bounds and all(map(math.isfinite, bounds)) else None


def _between(bounds: tuple[float, float] | None) -> str:
    return " to ".join(map(_number, bounds)) if bounds else "-"


def _link(text: str, title: str = "", **filters: str) -> str:
    """A link that filters the browser of errors."""
    hint = f' title="{escape(title)}" aria-label="{escape(title)}"' if title else ""
    return f'<a href="#{escape(urlencode(filters))}"{hint}>{escape(text)}</a>'


def _header(metrics: dict[str, Any]) -> str:
    found = metrics["calibration"]
    figures = {
        "Macro-F1": (_number(metrics["macro_f1"]), _between(_interval(metrics, "macro_f1"))),
        "Accuracy": (_number(metrics["accuracy"]), _between(_interval(metrics, "accuracy"))),
        "Calibration error": (
            _number(found["expected_calibration_error"]),
            f"{_number(found['expected_calibration_error_before'])} without temperature",
        ),
        "Rows": (f"{metrics['support']:,}", f"{metrics['split']} split"),
    }
    tiles = "".join(
        f"<div><dt>{name}</dt><dd><strong>{value}</strong> <small>{escape(note)}</small></dd></div>"
        for name, (value, note) in figures.items()
    )
    names = "".join(
        f"<dt>{name.title()}</dt><dd><code>{escape(str(metrics[name]))}</code></dd>"
        for name in ("checkpoint", "data")
    )
    intervals = (
        f"<p>Intervals hold {metrics['level']:.0%} of {metrics['resamples']:,} resamples of the "
        f"{metrics['clusters']:,} clusters.</p>"
        if "level" in metrics
        else ""
    )
    return f'<dl class="figures">{tiles}</dl><dl class="names">{names}</dl>{intervals}'


def _languages(metrics: dict[str, Any]) -> str:
    scores, other = metrics["languages"], metrics["other_languages"]
    lows = [
        low
        for of in (metrics, *scores.values())
        for name in ("macro_f1", "accuracy")
        for low in (of[name], *(_interval(of, name) or ()))
    ]
    start = min(math.floor(10 * min(lows)) / 10, 0.9)  # of the bars, so that close scores can be told apart
    titles = ("Language", "Rows", "Macro-F1", "Interval", "Accuracy", "Interval")
    heads = "".join(f'<th scope="col"><button type="button">{title}</button></th>' for title in titles)
    rows = [
        _language_row(_link(language, language=language), language, of, start)
        for language, of in scores.items()
    ]
    hidden = (
        f"<p>Not listed: {other['languages']:,} languages of {other['support']:,} rows.</p>"
        if other["languages"]
        else ""
    )
    return f"""<section><h2>Languages</h2>
<div class="wide" tabindex="0" role="region" aria-label="Scores by language"><table id="languages">
<thead><tr>{heads}</tr></thead>
<tbody class="all">{_language_row("all", "", metrics, start)}</tbody>
<tbody>{"".join(rows)}</tbody>
</table></div>{hidden}
<p>A heading sorts, a language shows its errors. The bars run from {start:.1f} to 1.</p></section>"""


def _language_row(head: str, language: str, scores: dict[str, Any], start: float) -> str:
    cells = f'<th scope="row" data-value="{escape(language)}">{head}</th>'
    cells += f'<td data-value="{scores["support"]}">{scores["support"]:,}</td>'
    for name in ("macro_f1", "accuracy"):
        value, bounds = scores[name], _interval(scores, name)
        low, high = bounds or (value, value)
        low_x, high_x, x = (f"{100 * (v - start) / (1 - start):.1f}" for v in (low, high, value))
        cells += (
            f'<td data-value="{value}">{_number(value)}</td><td class="interval" data-value="{low}">'
            '<svg viewBox="0 0 100 10" width="100" height="10" aria-hidden="true"><path d="M0 5H100"/>'
            f'<path class="bar" d="M{low_x} 5H{high_x}"/><circle cx="{x}" cy="5" r="3.5"/></svg> '
            f"{_between(bounds)}</td>"
        )
    return f"<tr>{cells}</tr>"


def _confusion(metrics: dict[str, Any]) -> str:
    names = list(metrics["classes"])
    heads = "".join(f'<th scope="col">{_link(name, prediction=name)}</th>' for name in names)
    rows = []
    for true, counts in zip(names, metrics["confusion"], strict=True):
        total = max(sum(counts), 1)
        cells = f'<th scope="row">{_link(true, label=true)} <small>{sum(counts):,}</small></th>'
        for predicted, count in zip(names, counts, strict=True):
            if count == 0:
                cells += "<td></td>"
                continue
            title = f"{true} predicted as {predicted}: {count:,} rows, {count / total:.1%}"
            error = predicted != true
            shown = _link(f"{count:,}", title, label=true, prediction=predicted) if error else f"{count:,}"
            # The square root lifts confusions of a few per cent out of the background.
            shade = f'style="--shade:{0.75 * math.sqrt(count / total):.2f}"'
            cells += f'<td class="{"error" if error else "hit"}" {shade}>{shown}</td>'
        rows.append(f"<tr>{cells}</tr>")
    return f"""<section><h2>Confusion matrix</h2>
<p>Rows are labels, columns predictions, shades the share of a label's rows. A number shows its errors.</p>
<div class="wide" tabindex="0" role="region" aria-label="Confusion matrix"><table id="confusion">
<thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div></section>"""


def _calibration(found: dict[str, Any]) -> str:
    total = max(sum(b["rows"] for b in found["reliability"]), 1)
    grid = "".join(
        f'<path d="M0 {300 * t}H300M{300 * t} 0V300"/>'
        f'<text x="-8" y="{304 - 300 * t}" text-anchor="end">{t:g}</text>'
        f'<text x="{300 * t}" y="318" text-anchor="middle">{t:g}</text>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    gaps = dots = ""
    for b in found["reliability"]:
        if b["rows"]:
            x, y = 300 * b["confidence"], 300 - 300 * b["accuracy"]
            gaps += f'<path class="gap" d="M{x:.1f} {y:.1f}V{300 - x:.1f}"/>'
            dots += (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.5 + 8 * math.sqrt(b["rows"] / total):.1f}">'
                f"<title>confidence {_number(b['confidence'])}, accuracy {_number(b['accuracy'])}, "
                f"{b['rows']:,} rows</title></circle>"
            )
    rows = "".join(
        f'<tr><th scope="row">{point["threshold"]:g}</th><td>{point["rows"]:,}</td>'
        f"<td>{point['coverage']:.1%}</td><td>{_number(point['accuracy'])}</td></tr>"
        for point in found["coverage"]
    )
    heads = "".join(f'<th scope="col">{t}</th>' for t in ("Confidence from", "Rows", "Coverage", "Accuracy"))
    return f"""<section><h2>Calibration</h2>
<p>Probabilities are at the stored temperature {found["temperature"]:.3f}. A larger dot holds more rows; the
dots of a calibrated model lie on the dashed line. The table tells what abstaining buys.</p>
<div class="pair"><svg id="reliability" viewBox="-50 -12 366 362" role="img"
 aria-label="Reliability: accuracy against confidence"><g class="grid">{grid}</g>
<path class="ideal" d="M0 300L300 0"/>{gaps}{dots}
<text x="150" y="342" text-anchor="middle">confidence</text>
<text transform="translate(-38 150) rotate(-90)" text-anchor="middle">accuracy</text></svg>
<table id="coverage"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"""


def _errors(metrics: dict[str, Any], errors: Sequence[dict[str, Any]]) -> str:
    total = sum(map(sum, metrics["confusion"])) - sum(row[i] for i, row in enumerate(metrics["confusion"]))
    if total == 0:
        count = "No row's prediction differs from its label."
    elif total > len(errors):
        count = f"This page holds the {len(errors):,} most confident of {total:,} errors."
    else:
        count = f"This page holds all {total:,} errors."
    classes, languages = list(metrics["classes"]), sorted({error["language"] for error in errors})

    def choice(name: str, title: str, values: Sequence[str]) -> str:
        options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
        return f'<label>{title} <select id="{name}"><option value="">any</option>{options}</select></label>'

    titles = ("Text", "Label", "Prediction", "P(prediction)", "P(label)", "Language", "Cluster", "Row")
    heads = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return f"""<section id="errors"><h2>Errors</h2>
<p>{count} A confident prediction against the label is often a wrong label: read from the top, this list finds
label noise. Texts are cut after {MOST_CHARACTERS} characters; the address of the page keeps the filters.</p>
<noscript><p>The list needs JavaScript.</p></noscript>
<div{"" if errors else " hidden"}><form>
{choice("label", "Label", classes)}{choice("prediction", "Prediction", classes)}
{choice("language", "Language", languages)}
<label>Text or cluster <input type="search" id="search"></label>
<button type="button" id="clear">Clear</button>
<button type="button" id="export">Export CSV of the rows found</button>
</form>
<p role="status" id="count"></p>
<table id="rows"><thead><tr>{heads}</tr></thead><tbody></tbody></table>
<nav aria-label="Pages of errors"><button type="button" id="previous">Previous</button>
<span id="page"></span> <button type="button" id="next">Next</button></nav></div></section>"""


# ---------------------------------------------------------------- looks and behaviour

# Two of Okabe and Ito's colours; at most three quarters of them lie under text, which stays readable on both.
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #d5d5d5; --soft: #666; --link: #00598c;
  --blue: 0 114 178; --red: 213 94 0; --mark: #0072b2; --range: #7fb8d8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16191d; --line: #3c4148; --soft: #a5a9ae; --link: #7cc4ee;
  --mark: #56b4e9; --range: #2a688c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; color: var(--ink); background: var(--paper);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; }
a { color: var(--link); }
small { color: var(--soft); font-weight: normal; }
code { overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; }
.figures div { border: 1px solid var(--line); border-radius: 6px; padding: .6rem .9rem; }
.figures dd, .names dd { margin: 0; }
.figures strong { display: block; font-size: 1.6rem; }
.names { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, th[scope=row] { text-align: left; }
.all { font-weight: bold; }
.interval { white-space: nowrap; }
.interval path { stroke: var(--line); }
.interval .bar { stroke: var(--range); stroke-width: 5; }
svg circle { fill: var(--mark); stroke: var(--paper); }
svg text { fill: currentColor; font-size: 12px; }
#languages svg { overflow: visible; }
#languages button { border: 0; padding: 0; background: none; font-weight: bold; }
#languages button { text-decoration: underline dotted; cursor: pointer; }
[aria-sort=ascending]::after { content: " \\2191"; }
[aria-sort=descending]::after { content: " \\2193"; }
#confusion { font-size: .8rem; }
#confusion tbody td { border: 1px solid var(--line); text-align: center; }
#confusion td { min-width: 2.2rem; padding: .25rem; }
#confusion thead * { border: 0; }
#confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
#confusion th { white-space: nowrap; padding: .25rem .4rem; }
#confusion :is([scope=row], thead td) { position: sticky; left: 0; z-index: 1; background: var(--paper); }
#confusion td a { display: block; color: inherit; text-decoration: none; }
#confusion td a:is(:hover, :focus) { text-decoration: underline; }
.hit { background: rgb(var(--blue) / var(--shade)); }
.error { background: rgb(var(--red) / var(--shade)); }
.pair { display: flex; flex-wrap: wrap; gap: 2rem; align-items: start; }
#reliability { width: 26rem; max-width: 100%; }
.grid path { stroke: var(--line); }
.ideal { stroke: currentColor; stroke-dasharray: 5 4; }
.gap { stroke: rgb(var(--red)); stroke-width: 3; }
form { display: flex; flex-wrap: wrap; gap: .7rem 1rem; align-items: end; }
label { display: grid; font-size: .85rem; color: var(--soft); }
button, input, select { font: inherit; color: var(--ink); max-width: 100%; padding: .2rem .4rem; }
#rows { width: 100%; }
#rows td, #rows th { text-align: left; vertical-align: top; }
#rows td:nth-child(-n+3) { min-width: 6rem; overflow-wrap: anywhere; }
#rows td:first-child { width: 45%; }
#rows [dir] { text-align: start; }
nav { margin: 1rem 0; }
@media (max-width: 56rem) {
  #rows thead { display: none; }
  #rows tr { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); padding: .7rem 0; }
  #rows tr { border-bottom: 1px solid var(--line); }
  #rows td { border: 0; padding: .1rem 0; overflow-wrap: anywhere; }
  #rows td:first-child { grid-column: 1 / -1; width: auto; }
  #rows td:not(:first-child)::before { content: attr(data-title) ": "; color: var(--soft); } }
"""

SCRIPT = r"""
"use strict";
const PAGE_ROWS = 50;
const get = (id) => document.getElementById(id);
const rows = JSON.parse(get("data").textContent);
const choices = ["label", "prediction", "language"].map(get), inputs = [...choices, get("search")];
const fold = (text) => text.normalize("NFKC").toLowerCase();
for (const row of rows) row.folded = fold(row.text);
let found = rows, page = 1;

function show() {
  const wanted = fold(get("search").value.trim());
  found = rows.filter((row) => (row.folded.includes(wanted) || row.cluster === wanted)
    && choices.every((choice) => !choice.value || row[choice.id] === choice.value));
  const pages = Math.max(1, Math.ceil(found.length / PAGE_ROWS));
  page = Math.min(Math.max(page, 1), pages);
  const titles = [...document.querySelectorAll("#rows th")].map((head) => head.textContent);
  const part = found.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
  document.querySelector("#rows tbody").replaceChildren(...part.map((row) => {
    const line = document.createElement("tr");
    const values = [row.text, row.label, row.prediction, row.probability.toFixed(4),
      row.label_probability.toFixed(4), row.language, row.cluster, row.row];
    values.forEach((value, i) => {
      const cell = line.insertCell();
      cell.textContent = value;
      cell.dataset.title = titles[i];
    });
    line.cells[0].dir = "auto";  // a text of any script stays in its cell and runs its own way
    line.cells[0].lang = row.language;
    return line;
  }));
  const many = found.length.toLocaleString("en");
  get("count").textContent = found.length === 1 ? "1 row found" : `${many} rows found`;
  get("page").textContent = `page ${page} of ${pages}`;
  get("previous").disabled = page === 1;
  get("next").disabled = page === pages;
}

// The filters are kept in the address, so that a link shows what its sender saw.
function write(to) {
  page = to;
  show();
  const filters = new URLSearchParams();
  for (const input of inputs) if (input.value) filters.set(input.id, input.value);
  if (page > 1) filters.set("page", page);
  history.replaceState(null, "", "#" + filters);
}

function read() {
  const filters = new URLSearchParams(location.hash.slice(1));
  for (const input of inputs) input.value = filters.get(input.id) ?? "";
  for (const choice of choices) if (choice.selectedIndex < 0) choice.value = "";  // no such class or language
  page = parseInt(filters.get("page")) || 1;
  show();
}

function turn(by) {
  write(page + by);
  get("errors").scrollIntoView();
}

function exportRows() {
  const quote = (value) => {
    // The apostrophe keeps a spreadsheet from running a text as a formula.
    const text = String(value).replace(/^[=+\-@\t\r](?!\d+$)/, "'$&");
    return `"${text.replaceAll('"', '""')}"`;
  };
  const names = Object.keys(rows[0]).filter((name) => name !== "folded");
  const lines = [names, ...found.map((row) => names.map((name) => row[name]))];
  const csv = lines.map((values) => values.map(quote).join(",") + "\r\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv], { type: "text/csv" }));
  link.download = "errors.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

function sortLanguages(head) {
  const descending = head.ariaSort !== "descending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = get("languages").tBodies[1];
  const key = (line) => line.cells[head.cellIndex].dataset.value;
  const compare = (a, b) => key(a) - key(b) || key(a).localeCompare(key(b));  // NaN, of names, falls through
  body.append(...[...body.rows].sort((a, b) => (descending ? -1 : 1) * compare(a, b)));
}

for (const input of inputs) input.addEventListener("input", () => write(1));
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
get("clear").addEventListener("click", () => {
  for (const input of inputs) input.value = "";
  write(1);
});
get("previous").addEventListener("click", () => turn(-1));
get("next").addEventListener("click", () => turn(1));
get("export").addEventListener("click", exportRows);
document.querySelector("#languages thead").addEventListener("click", (event) => {
  if (event.target.closest("button")) sortLanguages(event.target.closest("th"));
});
for (const id of ["languages", "confusion"]) get(id).addEventListener("click", (event) => {
  if (event.target.closest("a")) get("errors").scrollIntoView();
});
addEventListener("hashchange", read);
read();
if (location.hash.length > 1) get("errors").scrollIntoView();
"""
