"""Whether a learned space keeps the hierarchy: radii by level, parents, and what is mistaken for what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from naics.data.census import IndexEntries, Taxonomy
from naics.inference import LoadedModel

LEVEL_NAMES = {2: "sector", 3: "subsector", 4: "industry group", 5: "industry", 6: "national industry"}
MOST_CONFUSED = 20
QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class Predictions:
    """Held-out entries and the six-digit code that the learned space puts nearest: taxonomy rows (q,)."""

    texts: Sequence[str]
    targets: np.ndarray
    found: np.ndarray


def radius_levels(taxonomy: Taxonomy, radii: np.ndarray) -> list[dict[str, Any]]:
    """A row a level: radii, how many codes lie farther out than their parents, overlap with the level above.

    `above_previous` is the chance that a code drawn from this level lies farther out than one drawn from the
    level above it: 0.5 where the two cannot be told apart, 1 where they do not overlap.
    """
    found = []
    for level in np.unique(taxonomy.levels).tolist():
        here = np.flatnonzero(taxonomy.levels == level)
        own, parents = radii[here], taxonomy.parents[here]
        low, median, high = np.quantile(own, [0.1, 0.5, 0.9])
        row = {"level": level, "codes": len(here), "p10": low, "median": median, "p90": high}
        if (parents >= 0).all():
            previous = np.sort(radii[taxonomy.levels == level - 1])
            below = np.searchsorted(previous, own, "left") + np.searchsorted(previous, own, "right")
            row["farther_than_parent"] = (own > radii[parents]).mean()
            row["mean_step"] = (own - radii[parents]).mean()
            row["above_previous"] = below.mean() / (2 * len(previous))
        found.append(
            {name: value if isinstance(value, int) else as_number(value) for name, value in row.items()}
        )
    return found


def parents_found(taxonomy: Taxonomy, distances: np.ndarray) -> dict[int, float]:
    """By level, the share of codes with siblings whose nearest code of the level above is their parent."""
    children = np.bincount(taxonomy.parents[taxonomy.parents >= 0], minlength=len(taxonomy))
    found = {}
    for level in np.unique(taxonomy.levels).tolist()[1:]:
        above = np.flatnonzero(taxonomy.levels == level - 1)
        here = np.flatnonzero(taxonomy.levels == level)
        here = here[children[taxonomy.parents[here]] > 1]
        if len(here):
            nearest = above[distances[np.ix_(here, above)].argmin(axis=1)]
            found[level] = float((nearest == taxonomy.parents[here]).mean())
    return found


def predict(model: LoadedModel, index: IndexEntries) -> Predictions:
    rows = np.flatnonzero(index.roles == "validation")
    leaves = model.taxonomy.leaves
    texts, nearest = [index.texts[row] for row in rows], []
    for start in range(0, len(texts), QUERIES_AT_ONCE):
        nearest.append(model.look_up(texts[start : start + QUERIES_AT_ONCE]).argmin(axis=1))
    found = leaves[np.concatenate(nearest)] if nearest else np.empty(0, dtype=np.int64)
    return Predictions(texts, index.rows[rows].astype(np.int64), found)


def confused_siblings(taxonomy: Taxonomy, predictions: Predictions) -> list[dict[str, Any]]:
    """Pairs of children of one parent, by how many entries of one went to the other, and one of them."""
    pairs, first, entries = Counter(), {}, Counter(predictions.targets.tolist())
    for text, pair in zip(
        predictions.texts,
        zip(predictions.targets.tolist(), predictions.found.tolist(), strict=True),
        strict=True,
    ):
        if pair[0] != pair[1] and taxonomy.parents[pair[0]] == taxonomy.parents[pair[1]]:
            pairs[pair] += 1
            first.setdefault(pair, text)
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:MOST_CONFUSED]
    return [
        {
            "code": taxonomy.codes[code],
            "title": taxonomy.titles[code],
            "taken_for": taxonomy.codes[other],
            "taken_for_title": taxonomy.titles[other],
            "entries": count,
            "of": entries[code],
            "example": first[code, other],
        }
        for (code, other), count in ranked
    ]


def sector_table(
    taxonomy: Taxonomy, radii: np.ndarray, predictions: Predictions
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A row a sector, and the share of each sector's entries (rows) that went to each sector (columns)."""
    sectors = np.flatnonzero(taxonomy.parents < 0)
    place = {int(row): n for n, row in enumerate(sectors)}
    counts = np.zeros((len(sectors), len(sectors)))
    target_sectors, found_sectors = (
        taxonomy.sectors[rows] for rows in (predictions.targets, predictions.found)
    )
    for target, found in zip(target_sectors.tolist(), found_sectors.tolist(), strict=True):
        counts[place[target], place[found]] += 1
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = []
    for n, sector in enumerate(sectors.tolist()):
        members, asked = taxonomy.sectors == sector, target_sectors == sector
        right = (predictions.targets == predictions.found)[asked]
        others = np.where(np.arange(len(sectors)) == n, 0, shares[n])
        rows.append(
            {
                "sector": taxonomy.codes[sector],
                "title": taxonomy.titles[sector],
                "codes": int(members.sum()),
                "entries": int(asked.sum()),
                "right_sector": as_number(shares[n, n]) if asked.any() else None,
                "right_code": as_number(right.mean()) if asked.any() else None,
                "most_taken_for": taxonomy.codes[sectors[others.argmax()]] if others.any() else None,
                "median_radius": as_number(
                    np.median(radii[members & (taxonomy.levels == taxonomy.levels.max())])
                ),
            }
        )
    return rows, shares


def as_number(value: float) -> float:
    return round(float(value), 4)
