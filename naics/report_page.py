"""The report as one HTML page, with the hierarchy as an interactive Poincaré disk.

The page loads nothing. Titles and entries are hostile input: they reach it escaped, or inside a block of JSON
that is shown by `textContent` and on the canvas alone; a content security policy lets no script run but
report_disk.js and report_page.js.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from naics.consistency import LEVEL_NAMES
from naics.data.census import Taxonomy
from naics.report_tables import Section
from training_utils import replacing

PARTS = ("report_page.css", "report_disk.js", "report_page.js")
MOST_CHARACTERS = 280  # of a description
NEIGHBOURS = 5
BINS = 60  # of the radius chart
WIDTH, ROW_HEIGHT = 720, 46
CONTROLS = """<form role="search">
<input type="search" id="search" placeholder="Find a title or a code: bakeries, 8129" autocomplete="off"
 aria-label="Find codes by title or number">
<label>down to <select id="depth" aria-label="Levels shown"></select></label>
<label><input type="checkbox" id="inward"> mark codes nearer to the centre than their parent</label>
<button type="button" id="reset">Reset view</button> <output id="found"></output></form>
<div id="disk"><div id="stage"><canvas id="canvas" tabindex="0" role="img"
 aria-label="Poincaré disk of all codes; the search box and the lists beside it reach every code"></canvas>
<div id="tip" hidden></div></div>
<aside><div id="results" hidden></div><div id="detail"></div><div id="sectors" role="group"
 aria-label="Sectors: press one to see it alone"></div></aside></div>"""


def disk_data(
    taxonomy: Taxonomy, points: np.ndarray, radii: np.ndarray, rings: dict[int, float], distances: np.ndarray
) -> dict[str, Any]:
    """What the page's script draws: `points` (n, 2) of the unit disk, `rings` the levels' radii in it."""
    nearest: list[list[int]] = [[]] * len(taxonomy)
    for level in np.unique(taxonomy.levels):
        here = np.flatnonzero(taxonomy.levels == level)
        order = here[np.argsort(distances[np.ix_(here, here)], axis=1, kind="stable")]
        for row, others in zip(here.tolist(), order.tolist(), strict=True):
            nearest[row] = [other for other in others if other != row][:NEIGHBOURS]
    return {
        "codes": list(taxonomy.codes),
        "titles": list(taxonomy.titles),
        "notes": [shorten(text) for text in taxonomy.descriptions],
        "levels": taxonomy.levels.tolist(),
        "parents": taxonomy.parents.tolist(),
        "x": np.round(points[:, 0], 6).tolist(),
        "y": np.round(points[:, 1], 6).tolist(),
        "radii": np.round(radii.astype(float), 3).tolist(),
        "nearest": nearest,
        "rings": [[level, LEVEL_NAMES[level], round(radius, 4)] for level, radius in rings.items()],
    }


def shorten(text: str) -> str:
    text = " ".join(text.split())
    if len(text) <= MOST_CHARACTERS:
        return text
    return text[:MOST_CHARACTERS].rsplit(" ", 1)[0] + " \N{HORIZONTAL ELLIPSIS}"


def write_page(
    path: Path,
    heading: str,
    facts: dict[str, str],
    picture: str,
    disk: dict[str, Any],
    sections: Sequence[Section],
) -> None:
    """`facts` are tiles, `picture` says what the disk shows."""
    style, disk_script, page_script = (Path(__file__).with_name(name).read_text() for name in PARTS)
    script = disk_script + page_script
    policy = base64.b64encode(hashlib.sha256(script.encode("ascii")).digest()).decode()
    # JSON of ASCII alone: with "<" escaped as well nothing in a title can end the block or open a comment.
    block = json.dumps(disk, separators=(",", ":")).replace("<", "\\u003c")
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()
    )
    links = "".join(f'<a href="#{anchor(section.title)}">{escape(section.title)}</a>' for section in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{policy}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(heading)}</h1><dl>{tiles}</dl></header>
<nav><a href="#hierarchy">Hierarchy</a><a href="#radii">Radii</a>{links}</nav>
<section id="hierarchy"><h2>The hierarchy</h2><p>{escape(picture)}</p>
<p>Drag to move through the disk, scroll to enlarge it, click a code to bring it to the centre.</p>
{CONTROLS}</section>
<section id="radii"><h2>Radii</h2>
<p>How far from the origin the codes of each level lie. The line is the median.</p>
{radius_chart(np.array(disk["radii"]), np.array(disk["levels"]))}</section>
{"".join(map(section_html, sections))}
<script type="application/json" id="data">{block}</script>
<script>{script}</script>
</body>
</html>
"""
    with replacing(path) as file:
        file.write(page.encode("ascii", "xmlcharrefreplace"))


def anchor(title: str) -> str:
    return "table-" + "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def section_html(section: Section) -> str:
    kinds = [number_class(cell) for cell in section.rows[0]] if section.rows else [""] * len(section.head)
    head = "".join(
        f"<th scope=col{kind if n else ''}>{escape(name)}</th>"
        for n, (name, kind) in enumerate(zip(section.head, kinds, strict=True))
    )
    rows = "".join(row_html(row, section.shaded) for row in section.rows)
    return (
        f'<section id="{anchor(section.title)}"><h2>{escape(section.title)}</h2><p>{escape(section.note)}</p>'
        f'<div class="wide"><table{" class=shaded" if section.shaded else ""}><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>\n"
    )


def number_class(cell: str) -> str:
    return " class=number" if cell[:1].isdigit() or cell[:1] in ("-", "+") else ""


def row_html(row: Sequence[str], shaded: bool) -> str:
    cells = []
    for cell in row[1:]:
        share = f' style="--share:{float(cell)}%"' if shaded and cell else ""
        cells.append(f"<td{number_class(cell)}{share}>{escape(cell)}</td>")
    return f"<tr><th scope=row>{escape(row[0])}</th>{''.join(cells)}</tr>"


def radius_chart(radii: np.ndarray, levels: np.ndarray) -> str:
    """One ridge of the radii a level, as SVG."""
    left, top, kinds = 130, 14, np.unique(levels).tolist()
    outer = max(float(radii.max()) * 1.05, 1e-6)
    height = top + ROW_HEIGHT * len(kinds) + 40
    scale = (WIDTH - left - 10) / outer
    bottom = top + ROW_HEIGHT * len(kinds)
    parts = []
    for step in nice_steps(outer):
        x = left + step * scale
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{step:g}</text>')
    for n, level in enumerate(kinds):
        own, base = radii[levels == level], top + ROW_HEIGHT * (n + 1)
        counts = np.histogram(own, bins=BINS, range=(0, outer))[0].astype(float)
        smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
        heights = smooth / max(smooth.max(), 1e-9) * (ROW_HEIGHT - 8)
        places = left + (np.arange(BINS) + 0.5) * outer / BINS * scale
        line = " ".join(f"{x:.1f},{base - y:.1f}" for x, y in zip(places, heights, strict=True))
        median = left + float(np.median(own)) * scale
        parts.append(f'<polygon points="{left},{base} {line} {WIDTH - 10},{base}"/>')
        parts.append(
            f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{base}" y2="{base - 20}"/>'
        )
        parts.append(f'<text x="{left - 10}" y="{base - 4}" text-anchor="end">{LEVEL_NAMES[level]}</text>')
    middle = left + (WIDTH - left) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{bottom + 34}" text-anchor="middle">distance from the origin</text>'
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Radii by level">'
        f"{''.join(parts)}</svg></figure>"
    )


def nice_steps(outer: float) -> list[float]:
    """Four to ten round numbers from 0 to `outer`."""
    unit = 10.0 ** np.floor(np.log10(outer))
    step = next(step for step in (unit / 5, unit / 2, unit, 2 * unit) if outer / step <= 10)
    return [round(n * step, 10) for n in range(int(outer / step) + 1)]
