"""The report as one HTML page: its sections, tables that sort and filter, and a chart of any of its figures.

The page loads nothing. Names and reasons in results.jsonl are hostile input: they reach the page escaped or
inside a block of JSON, the chart shows them by `textContent` alone, and a content security policy lets no
script run but report_page.js.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report_analysis import Chapter
from experiments.report_plots import kind_of, mean_curve
from experiments.report_text import MISSING, Picture, Section, Table, columns_of, is_numeric
from training_utils import replacing


def write_page(
    path: Path, title: str, tiles: dict[str, str], sections: Sequence[Section], chapters: Sequence[Chapter]
) -> None:
    """Pictures are read from the folder of `path`, where they were written before."""
    style, script = (Path(__file__).with_suffix(kind).read_text("ascii") for kind in (".css", ".js"))
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # JSON of ASCII alone: with "<" escaped as well nothing in a name can end the block or open a comment.
    block = json.dumps([chart_data(c) for c in chapters], separators=(",", ":")).replace("<", "\\u003c")
    links = "".join(
        f'<li class="level{section.level}"><a href="#s{number}">{escape(section.title)}</a></li>'
        for number, section in enumerate(sections)
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{policy}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<nav aria-label="Contents"><ol><li><a href="#chart">Chart</a></li>{links}</ol></nav>
<main>
<h1>{escape(title)}</h1>
<dl>{"".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in tiles.items())}</dl>
<form><label>Show configurations with <input type="search" id="filter" placeholder="bf16 or fp16 (| means or)"
 autocomplete="off"></label> <output id="found"></output></form>
<section id="chart"><h2>Chart</h2>
<form><label>Task <select id="task"></select></label> <label>Show <select id="view"></select></label>
<button type="button" id="all">all</button> <button type="button" id="none">none</button></form>
<noscript><p>The chart needs JavaScript.</p></noscript>
<div id="plot"><svg viewBox="0 0 760 420" role="img" aria-label="Chart"></svg><div id="legend"></div></div>
<p id="point" role="status">Point at a mark for its figures.</p></section>
{"".join(_section(number, section, path.parent) for number, section in enumerate(sections))}
</main>
<script type="application/json" id="data">{block}</script>
<script>{script}</script>
</body>
</html>
"""
    with replacing(path) as file:
        file.write(page.encode("ascii", "xmlcharrefreplace"))


def _section(number: int, section: Section, folder: Path) -> str:
    blocks = []
    for block in section.blocks:
        if isinstance(block, str):
            blocks.append(f"<p>{_code(block)}</p>")
        elif isinstance(block, Picture):
            content = base64.b64encode((folder / block.name).read_bytes()).decode()
            blocks.append(
                f'<figure><img alt="{escape(block.title)}" src="data:image/png;base64,{content}">'
                f"<figcaption>{escape(block.title)}</figcaption></figure>"
            )
        elif block:
            blocks.append(_table(block, section.title))
    level = section.level
    return (
        f'<section id="s{number}"><h{level}>{escape(section.title)}</h{level}>{"".join(blocks)}</section>\n'
    )


def _code(text: str) -> str:
    """Escaped, with `words` in a fixed-width face."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _table(table: Table, title: str) -> str:
    columns = columns_of(table)
    right = [is_numeric(table, name) for name in columns]
    heads = "".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in columns)
    rows = []
    for row in table:
        config = escape(row.get("configuration", ""))
        cells = [
            _cell(row.get(name, MISSING), name in ("configuration", "pair"), numeric)
            for name, numeric in zip(columns, right, strict=True)
        ]
        rows.append(f'<tr data-config="{config}">{"".join(cells)}</tr>')
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


VERDICT_CLASSES = {"better": "good", "worse": "bad", "supported": "good", "refuted": "bad"}


def _cell(text: str, head: bool, numeric: bool) -> str:
    if head:
        return f'<th scope="row">{escape(text)}</th>'
    names = " ".join(filter(None, ("number" if numeric else "", VERDICT_CLASSES.get(text, ""))))
    return f'<td class="{names}">{escape(text)}</td>' if names else f"<td>{escape(text)}</td>"


# ---------------------------------------------------------------- the chart


def chart_data(chapter: Chapter) -> dict[str, Any]:
    """What report_page.js draws: mean curves and a point of costs and score for each configuration."""
    metric, configs = chapter.main.headline, []
    for config, summary in chapter.summaries[0].items():
        score = summary.scores.get(metric.name)
        curves = {
            name: _curve(*mean_curve(chapter.main, config, name)) for name in ("loss", "validation_loss")
        }
        if score is None and not any(curves.values()):
            continue
        configs.append(
            {
                "name": config,
                "colour": kind_of(config)[1],
                "score": score[0] if score else None,
                "samples_per_second": summary.samples_per_second,
                "peak_memory_gb": summary.peak_memory_gb,
                **curves,
            }
        )
    return {"title": chapter.title, "metric": metric.title, "configs": configs}


def _curve(steps: np.ndarray, values: np.ndarray) -> list[list[float]]:
    """JSON has no NaN: what is not finite is left out."""
    return [[float(s), round(float(v), 6)] for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
