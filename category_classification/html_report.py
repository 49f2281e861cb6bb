"""An evaluation as one HTML page: scores, languages, confusion matrix, calibration, a browser of the errors.

The page loads nothing. Texts of a dataset are hostile input: they reach it only inside a block of JSON, are
shown by `textContent` alone, and a content security policy lets no script run but html_report.js.
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
    style = Path(__file__).with_name("html_report.css").read_text("ascii")
    script = Path(__file__).with_name("html_report.js").read_text("ascii")
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
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
<style>
{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{_header(metrics)}
{_languages(metrics)}
{_confusion(metrics)}
{_calibration(metrics["calibration"])}
{_errors(metrics, errors)}
<script type="application/json" id="data">{block}</script>
<script>{script}</script>
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
<div class="wide"><table id="coverage"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
</div></section>"""


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
