"""Where the codes stand in a picture of the space: points of the Poincaré disk, for the report's page.

A code's distance from the centre is its learned radius, up to one factor for all. Only its angle is free:
it starts inside the wedge that the tree gives it, sectors in an order that puts near ones side by side, and
then follows the learned distances by a short stress fit. Where the model has put a code elsewhere than the
tree does, it leaves its wedge.
"""

import numpy as np
import torch
from torch import Tensor

from naics.data.census import Taxonomy

OUTER = 3.6  # radius of the median six-digit code: its point lies 0.947 of the way to the rim
LARGEST = 6.0  # beyond it the rim hides what there is (0.995)
ROOMIER = 2.0  # the fit's radii over those shown: in the small disk all leaves would push each other away
STEPS, SAMPLE, LEARNING_RATE = 300, 512, 0.003
NEAREST, STRANGERS = 48, 48  # pairs of a code in a step


def has_depth(radii: np.ndarray) -> bool:
    """Whether codes lie at different distances from the origin; on a sphere they do not."""
    return bool(np.ptp(radii) > 1e-4 * max(1.0, float(radii.max())))


def disk_radii(taxonomy: Taxonomy, radii: np.ndarray) -> np.ndarray:
    """Hyperbolic radii of the picture (n,); a space without depth gets a ring a level."""
    if not has_depth(radii):
        radii = taxonomy.levels - 1.0
    scale = OUTER / float(np.median(radii[taxonomy.levels == taxonomy.levels.max()]))
    return np.minimum(radii * scale, LARGEST)


def circular_order(distances: np.ndarray) -> list[int]:
    """A short round trip through all rows of (n, n) distances: nearest first, then 2-opt."""
    tour, left = [0], set(range(1, len(distances)))
    while left:
        tour.append(min(left, key=lambda row: (distances[tour[-1], row], row)))
        left.remove(tour[-1])
    improved = True
    while improved:
        improved = False
        for i in range(len(tour) - 1):
            for j in range(i + 2, len(tour) - (i == 0)):
                a, b, c, d = tour[i], tour[i + 1], tour[j], tour[(j + 1) % len(tour)]
                gain = distances[a, b] + distances[c, d] - distances[a, c] - distances[b, d]
                if gain > 1e-9:
                    tour[i + 1 : j + 1] = reversed(tour[i + 1 : j + 1])
                    improved = True
    return tour


def wedge_angles(taxonomy: Taxonomy, distances: np.ndarray) -> np.ndarray:
    """The middle of each code's wedge (n,): as wide as its share of the leaves, sectors in circular order."""
    count = len(taxonomy.codes)
    weight = np.zeros(count)
    for row in np.argsort(-taxonomy.levels, kind="stable"):  # children before parents
        weight[row] = weight[row] or 1.0
        if taxonomy.parents[row] >= 0:
            weight[taxonomy.parents[row]] += weight[row]
    sectors = np.flatnonzero(taxonomy.parents < 0)
    members = [np.flatnonzero(taxonomy.sectors == row) for row in sectors]
    between = np.array([[distances[np.ix_(a, b)].mean() for b in members] for a in members])
    start, angle, end = np.zeros(count), np.zeros(count), {-1: 0.0}
    ring = 2 * np.pi / weight[sectors].sum()
    for row in [*sectors[circular_order(between)], *np.argsort(taxonomy.levels, kind="stable")]:
        parent = int(taxonomy.parents[row])
        if parent < 0 and row in end:
            continue  # placed already, in circular order
        start[row] = end[parent]
        end[parent] = start[row] + weight[row] * ring
        end[int(row)] = start[row]
        angle[row] = start[row] + weight[row] * ring / 2
    return angle


def pair_distances(radii: Tensor, angles: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Hyperbolic distances of `rows` (a) to `others` (a, b), by half angles: near pairs keep their digits."""
    r, s = radii[rows][:, None], radii[others]
    half = torch.sin((angles[rows][:, None] - angles[others]) / 2)
    q = torch.sinh((r - s) / 2).square() + torch.sinh(r) * torch.sinh(s) * half.square()
    return 2 * torch.asinh(torch.sqrt(q + 1e-9))


def fit_disk(taxonomy: Taxonomy, radii: np.ndarray, distances: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n, 2) points of the unit disk for learned `radii` (n,) and `distances` (n, n)."""
    shown, count = disk_radii(taxonomy, radii), len(taxonomy)
    angles = torch.tensor(wedge_angles(taxonomy, distances), dtype=torch.float32, requires_grad=True)
    fixed, target = torch.tensor(shown * ROOMIER, dtype=torch.float32), torch.from_numpy(distances).float()
    near = target.topk(min(NEAREST + 1, count), dim=1, largest=False).indices
    sample, generator = min(SAMPLE, count), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([angles], lr=LEARNING_RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        rows = torch.randint(count, (sample,), generator=generator)
        others = torch.cat(
            [near[rows], torch.randint(count, (sample, STRANGERS), generator=generator)], dim=1
        )
        now, wanted = pair_distances(fixed, angles, rows, others), target[rows[:, None], others]
        with torch.no_grad():  # the factor between the two spaces that fits best at this step
            scale = (now * wanted).sum() / wanted.square().sum().clamp_min(1e-12)
        # Each pair counts by its relative error, so that kin matter as much as strangers.
        loss = ((now - scale * wanted) / (scale * wanted + 0.5)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    turned = angles.detach().numpy().astype(np.float64)
    return np.tanh(shown / 2)[:, None] * np.stack([np.cos(turned), np.sin(turned)], axis=1)
