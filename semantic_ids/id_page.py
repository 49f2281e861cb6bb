"""One HTML page to browse the tree of semantic IDs: prefix -> prefixes and items, with the terms they share.

The page loads nothing. Titles are hostile input: they reach it only inside a block of JSON, are shown by
`textContent` alone, and a content security policy lets no script run but id_page.js.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from semantic_ids.id_metrics import prefix_groups
from training_utils import replacing

MOST_ITEMS = 100_000  # on a page; about 15 MB
MOST_CHARACTERS = 120  # of a title
TERMS = 5
TERM_DEPTHS = 2  # deeper prefixes hold a few items, which show themselves


def write_page(
    path: Path,
    metrics: dict[str, Any],
    comparison: tuple[list[str], list[list[str]]],
    ids: Sequence[str],
    titles: Sequence[str],
    codes: np.ndarray,
) -> None:
    """The page of `codes` (N, L); `comparison` is head and rows of the table of methods."""
    style, script = (Path(__file__).with_suffix(kind).read_text() for kind in (".css", ".js"))
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    order = np.lexsort(codes.T[::-1])[:MOST_ITEMS]
    data = {
        "levels": codes.shape[1],
        "ids": [ids[row] for row in order],
        "titles": [shorten(titles[row]) for row in order],
        "codes": codes[order].ravel().tolist(),
        "terms": prefix_terms(titles, codes),
    }
    # JSON of ASCII alone: with "<" escaped as well nothing in a title can end the block or open a comment.
    block = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    left_out = len(ids) - len(order)
    note = f"<p>The first {len(order):,} of {len(ids):,} items, by ID.</p>" if left_out else ""
    ours = metrics["methods"][0]
    tiles = {
        "items": f"{len(ids):,}",
        "unique IDs": f"{ours['unique_share']:.1%}",
        "first codes in use": f"{ours['codes_used'][0]:,}",
        "neighbours with one first code": f"{ours['prefix_agreement'][0]:.1%}",
    }
    head, rows = comparison
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{policy}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Semantic IDs</title>
<style>{style}</style>
</head>
<body>
<h1>Semantic IDs</h1>
<dl>{"".join(f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in tiles.items())}</dl>
<h2>Browse</h2>
<p>Items of like meaning share the first codes of their IDs. A row is a prefix: its codes, its items, and the
words that set their titles apart.</p>{note}
<form role="search"><input type="search" id="search" placeholder="title, item id, or 12-7" autocomplete="off"
 aria-label="Search titles, item ids and prefixes">
<label>Order <select id="order"><option value="size">most items first</option>
<option value="code">by code</option></select></label> <output id="found"></output></form>
<div id="results" hidden></div>
<div id="tree"></div>
<h2>Beside other IDs</h2>
<div class="wide"><table><thead><tr>{"".join(f"<th>{escape(name)}</th>" for name in head)}</tr></thead>
<tbody>{"".join(_row(row) for row in rows)}</tbody></table></div>
<p>unique: distinct IDs over items. cosine: items to their reconstructions. p1, p2, ...: nearest neighbours
that share so many codes. perplexity: codes of a level in effective use.</p>
<script type="application/json" id="data">{block}</script>
<script>{script}</script>
</body>
</html>
"""
    with replacing(path) as file:
        file.write(page.encode("ascii", "xmlcharrefreplace"))


def _row(cells: Sequence[str]) -> str:
    return f"<tr><th>{escape(cells[0])}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells[1:])}</tr>"


def shorten(title: str) -> str:
    title = " ".join(title.split())
    return (
        title if len(title) <= MOST_CHARACTERS else title[: MOST_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
    )


def prefix_terms(titles: Sequence[str], codes: np.ndarray) -> dict[str, str]:
    """The words that set the titles of a prefix apart, for prefixes of one and two codes: "12-7" -> "a b c".

    A word's weight is p log(p / q): p the share of the prefix's titles that hold it, q that of all titles.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        binary=True, stop_words="english", token_pattern=r"(?u)\b[^\W\d_]\w+\b", min_df=2, max_features=20_000
    )
    try:
        words = vectorizer.fit_transform(titles).astype(np.float64)
    except ValueError:  # no word stands in two titles
        return {}
    names, everywhere = vectorizer.get_feature_names_out(), np.asarray(words.mean(0)).ravel()
    found = {}
    for depth, groups in enumerate(prefix_groups(codes)[:TERM_DEPTHS], 1):
        count, rows = len(groups), np.arange(len(groups))
        members = csr_matrix((np.ones(count), (groups, rows)), shape=(groups.max() + 1, count))
        sums, sizes = (members @ words).tocsr(), np.bincount(groups)
        first = np.unique(groups, return_index=True)[1]
        for group, row in enumerate(first):
            start, end = sums.indptr[group], sums.indptr[group + 1]
            often, columns = sums.data[start:end], sums.indices[start:end]
            kept = often >= 2  # a word of one title sets nothing apart
            share, columns = often[kept] / sizes[group], columns[kept]
            weight = share * np.log(share / everywhere[columns])
            best = columns[np.argsort(-weight, kind="stable")[:TERMS]]
            if len(best):
                found["-".join(map(str, codes[row, :depth].tolist()))] = " ".join(names[best])
    return found
