"""What becomes of items that share all codes: another last-level code for some, a number for the rest."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from semantic_ids.id_metrics import pack

NOT_ALLOWED = 1e300  # a cost that no sum of real ones comes near


def spread_last_level(
    ids: list[str],
    codes: np.ndarray,
    residuals: np.ndarray,
    codebook: np.ndarray,
    price: float,
    fixed: np.ndarray,
) -> np.ndarray:
    """Codes (N, L) whose last level is chosen for all items of a prefix together, at the least total cost.

    `residuals` (N, D) is what the levels before leave, `codebook` (K, D) the last level's. An item's cost is
    the squared distance to its code, or, where it shares its nearest code, that and `price` times the mean
    distance of all items. Price 0 changes nothing; a high one ends each collision that K codes can end. Equal
    items stay together; `fixed` (N) ones keep their code, and no other item gets it.
    """
    codes = codes.copy()
    collision = price * float(np.square(residuals - codebook[codes[:, -1]]).sum(1).mean())
    if collision == 0:
        return codes
    prefixes = pack(torch.from_numpy(codes[:, :-1]), len(codebook)).numpy()
    order = np.lexsort((np.array(ids), prefixes))  # by item id within a prefix: rows may come in any order
    for rows in np.split(order, np.flatnonzero(np.diff(prefixes[order])) + 1):
        if len(np.unique(codes[rows, -1])) < len(rows) and not fixed[rows].all():
            _spread(rows, codes, residuals, codebook, collision, fixed)
    return codes


def _spread(
    rows: np.ndarray,
    codes: np.ndarray,
    residuals: np.ndarray,
    codebook: np.ndarray,
    collision: float,
    fixed: np.ndarray,
) -> None:
    """New last codes for the free items among `rows`, which have one prefix."""
    _, first, which = np.unique(residuals[rows], axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    distances = np.square(residuals[rows[first], None] - codebook).sum(2, dtype=np.float64)  # (M, K)
    settled = np.unique(which[fixed[rows]])  # an item that equals a fixed one joins it
    for number in settled:
        same = which == number  # two fixed ones may differ: each keeps its own
        codes[rows[same & ~fixed[rows]], -1] = codes[rows[same & fixed[rows]][0], -1]
    open_ = np.setdiff1d(np.arange(len(first)), settled)
    open_ = open_[np.argsort(first[open_])]  # by item id, so that ties fall the same way
    if len(open_) == 0:
        return
    # A column a code, and one an item in which it stays at its nearest code for the price of a collision.
    own = distances[open_]
    stay = np.full((len(open_), len(open_)), NOT_ALLOWED)
    np.fill_diagonal(stay, own.min(1) + collision)
    own[:, codes[rows[fixed[rows]], -1]] = NOT_ALLOWED
    for number, column in zip(open_, linear_sum_assignment(np.hstack((own, stay)))[1], strict=True):
        if column < len(codebook):
            codes[rows[which == number], -1] = column


def resolve_collisions(
    ids: list[str],
    codes: np.ndarray,
    num_codes: int,
    previous: dict[str, list[int]],
    retired: Sequence[list[int]] = (),
) -> np.ndarray:
    """The last number of each item (N): its place among the items of the same codes, ordered by item id.

    Numbers that `previous` gave to the same item with the same codes stay; the others take what is free,
    from the highest given one on, so that none is ever given to two items. `retired` are IDs given earlier
    still, to items that `previous` no longer has.
    """
    groups = pack(torch.from_numpy(codes), num_codes).numpy()
    last = np.full(len(ids), -1)
    for row, item in enumerate(ids):
        was = previous.get(item)
        if was is not None and list(was[:-1]) == codes[row].tolist():
            last[row] = was[-1]
    highest: dict[int, int] = {}  # also of items that are gone
    given = [*previous.values(), *retired]
    given = torch.tensor(given or np.zeros((0, codes.shape[1] + 1), dtype=np.int64))
    for group, number in zip(pack(given[:, :-1], num_codes).tolist(), given[:, -1].tolist(), strict=True):
        highest[group] = max(highest.get(group, -1), number)
    rows = np.flatnonzero(last < 0)
    rows = rows[np.lexsort((np.array(ids)[rows], groups[rows]))]
    group, first, size = np.unique(groups[rows], return_index=True, return_counts=True)
    free = np.array([highest.get(each, -1) + 1 for each in group.tolist()], dtype=np.int64)
    last[rows] = np.arange(len(rows)) + np.repeat(free - first, size)
    return last


def retired_ids(given: Iterable[list[int]], now: np.ndarray) -> list[list[int]]:
    """Of the IDs ever `given`, the highest of each group of codes that is above all that the group has `now`
    (N, L + 1): without these, the next export would give their numbers to new items.
    """
    highest: dict[tuple[int, ...], int] = {}
    for *codes, number in given:
        group = tuple(codes)
        highest[group] = max(highest.get(group, -1), number)
    for *codes, number in now.tolist() if highest else ():
        if highest.get(tuple(codes), -1) <= number:
            highest.pop(tuple(codes), None)
    return [[*codes, number] for codes, number in sorted(highest.items())]
