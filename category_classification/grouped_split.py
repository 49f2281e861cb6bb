"""A split that tears no group of related rows apart.

Rows that share a key (row_keys.py), directly or through other rows, form a group, and a group goes whole to
train, validation or test. Where common texts would chain a large part of the rows into one group, keys that
many rows share join nothing; the held-out rows that share one with a row on another side are then left out of
the splits. Either way no key occurs on two sides.

Groups and sides depend on the rows and the seed alone: not on the order of the rows, the number of workers
or the size of a batch. The time is linear in the rows but for sorting; the keys are sorted in slices of the
key space, on disk (13 bytes a key), so that 40 bytes a row and 350 MB of memory are enough.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from category_classification.row_keys import mix

TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, 3
KEYS_PER_SLICE = 2**22
ENTRY = np.dtype([("key", "<u8"), ("row", "<i4"), ("first", "?")])  # and whether it is its row's first key
# All related rows stay together, unless that chains a large part of them; then only keys of few rows join.
MAX_SHARED = (None, 16, 1)
LARGE_GROUP_ROWS, LARGE_GROUP_SHARE = 100, 0.1


@dataclass
class Split:
    """One way to group and divide the rows."""

    group: np.ndarray  # (rows,) int32, numbered in the order of the groups' first rows
    sides: np.ndarray  # (rows,) int8
    notes: dict
    problem: str | None  # why it cannot be used

    @property
    def held_out_rows(self) -> int:
        return -1 if self.problem else int(np.isin(self.sides, (VALIDATION, TEST)).sum())


def draw_split(
    key_files: list[Path], labels: np.ndarray, names: list[str], val_size: float, test_size: float, seed: int
) -> Split:
    """The split that keeps all related rows together.

    Where that chains a large part of them: of the splits in which common keys join nothing, whichever holds
    out the most rows.
    """
    best = None
    with tempfile.TemporaryDirectory(prefix="runs-", dir=key_files[0].parent) as folder:
        runs = sort_keys(key_files, Path(folder))
        for max_shared in MAX_SHARED:
            split = _try_split(key_files, runs, labels, names, val_size, test_size, seed, max_shared)
            if best is None or split.held_out_rows > best.held_out_rows:
                best = split
            if split.notes["largest_group_rows"] <= max(LARGE_GROUP_ROWS, LARGE_GROUP_SHARE * len(labels)):
                break
    return best


def _try_split(
    key_files: list[Path],
    runs: list[Path],
    labels: np.ndarray,
    names: list[str],
    val_size: float,
    test_size: float,
    seed: int,
    max_shared: int | None,
) -> Split:
    rows = len(labels)
    root = group_rows(runs, rows, max_shared)
    is_first = root == np.arange(rows, dtype=np.int32)
    group = (np.cumsum(is_first, dtype=np.int32) - 1)[root]
    sizes = np.bincount(group)

    # A group is known by its lowest key, whatever the order of its rows.
    lowest, highest = np.full(len(sizes), 2**64 - 1, dtype=np.uint64), np.zeros(len(sizes), dtype=np.uint64)
    start = 0
    for path in key_files:
        keys = np.load(path)[:, 0]
        np.minimum.at(lowest, group[start : start + len(keys)], keys)
        np.maximum.at(highest, group[start : start + len(keys)], keys)
        start += len(keys)

    # A group of several classes counts for the rarest of them, so that the rare one is held out too.
    rarest_first = np.argsort(np.bincount(labels, minlength=len(names)), kind="stable")
    group_class = np.full(len(sizes), len(names), dtype=np.int16)
    np.minimum.at(group_class, group, np.argsort(rarest_first).astype(np.int16)[labels])
    problem = None
    for place, count in enumerate(np.bincount(group_class, minlength=len(names)).tolist()):
        if 0 < count < 3:
            problem = (
                f"class {names[rarest_first[place]]!r}: {count} group(s) of related rows, 3 splits need 3: "
                "add rows, leave the class out with --classes FILE, or use --full_only"
            )
    sides = draw_sides(lowest, sizes, group_class, val_size, test_size, seed)[group]
    leave_out_crossing(runs, sides)
    notes = {
        "groups": len(sizes),
        "largest_group_rows": int(sizes.max()),
        "rows_in_joined_groups": int(sizes[lowest != highest].sum()),
        "joined_by_keys_of_at_most": max_shared,
        "rows_left_out_of_splits": int((sides == LEFT_OUT).sum()),
    }
    return Split(group, sides, notes, problem)


# ---------------------------------------------------------------- groups


def sort_keys(key_files: list[Path], folder: Path) -> list[Path]:
    """The rows that share a key, as `group_rows` and `leave_out_crossing` take them: a file in `folder` for
    each slice of the key space. `key_files` hold (rows, keys) uint64, in order, and are read once.
    """
    slices = max(1, -(-sum(np.load(path, mmap_mode="r").size for path in key_files) // KEYS_PER_SLICE))
    runs, offset = [folder / f"{part}.runs" for part in range(slices)], 0
    for path in key_files:
        keys = np.load(path)
        entries = np.empty(keys.shape, ENTRY)
        entries["key"] = keys
        entries["row"] = np.arange(offset, offset + len(keys))[:, None]
        entries["first"] = np.arange(keys.shape[1]) == 0
        offset += len(keys)
        part = (keys.ravel() % np.uint64(slices)).astype(np.int16)  # few bits are sorted in linear time
        entries = entries.ravel()[np.argsort(part, kind="stable")]
        ends = np.cumsum(np.bincount(part, minlength=slices))[:-1]
        for run, share in zip(runs, np.split(entries, ends), strict=True):
            with run.open("ab") as file:  # one open at a time, for a large table has many
                file.write(share.tobytes())
    for run in runs:
        entries = np.fromfile(run, ENTRY)
        entries = entries[np.argsort(entries["key"], kind="stable")]
        again = (entries["key"][1:] == entries["key"][:-1]) & (entries["row"][1:] == entries["row"][:-1])
        entries = entries[np.concatenate([[True], ~again])[: len(entries)]]  # a key counts once in a row
        lengths = np.diff(_starts(entries), append=len(entries))
        run.write_bytes(entries[np.repeat(lengths > 1, lengths)].tobytes())
    return runs


def _starts(entries: np.ndarray) -> np.ndarray:
    """Where the runs of equal keys start."""
    keys = entries["key"]
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])


def group_rows(runs: list[Path], rows: int, max_shared: int | None = None) -> np.ndarray:
    """Each row's group, named by its first row (int32).

    With `max_shared`, a key that more rows share joins nothing, unless it is the first key of one of them.
    """
    root = np.arange(rows, dtype=np.int32)
    for path in runs:
        entries = np.fromfile(path, ENTRY)
        starts = _starts(entries)
        lengths = np.diff(starts, append=len(entries))
        if max_shared is not None and len(entries):
            joins = (lengths <= max_shared) | np.logical_or.reduceat(entries["first"], starts)
            entries, lengths = entries[np.repeat(joins, lengths)], lengths[joins]
            starts = np.cumsum(lengths) - lengths
        row = entries["row"]
        _unite(root, np.repeat(row[starts], lengths), row)  # the lowest of a run comes first
    return root


def leave_out_crossing(runs: list[Path], sides: np.ndarray) -> None:
    """Set to LEFT_OUT the held-out rows that share a key with a row of an earlier side, train being first.

    Afterwards no key occurs on two sides. Without `max_shared` no row is left out.
    """
    before = sides.copy()
    for path in runs:
        entries = np.fromfile(path, ENTRY)
        if not len(entries):
            continue
        starts, of_run = _starts(entries), before[entries["row"]]
        earliest = np.minimum.reduceat(of_run, starts)
        crossing = of_run > np.repeat(earliest, np.diff(starts, append=len(entries)))
        sides[entries["row"][crossing]] = LEFT_OUT


def _unite(root: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Join the groups of left[i] and right[i] for all i; `root` names each row's group by its lowest row."""
    while True:
        low, high = root[left], root[right]
        apart = low != high
        if not apart.any():
            return
        left, right = left[apart], right[apart]
        low, high = low[apart], high[apart]
        np.minimum.at(root, np.maximum(low, high), np.minimum(low, high))
        while True:
            shorter = root[root]
            if np.array_equal(shorter, root):
                break
            root[:] = shorter


# ---------------------------------------------------------------- split


def draw_sides(
    group_hash: np.ndarray,
    group_size: np.ndarray,
    group_class: np.ndarray,
    val_size: float,
    test_size: float,
    seed: int,
) -> np.ndarray:
    """A side (int8) for each group: of each class about `test_size` and `val_size` of the rows are held out.

    The largest group of a class goes to train, and so does any other too large for what is left of a share;
    the rest are taken in the order of a seeded hash. Each side gets one where a class has three groups.
    """
    sides = np.full(len(group_hash), TRAIN, dtype=np.int8)
    order = np.argsort(mix(group_hash ^ mix(np.array([seed]))), kind="stable")
    for label in np.unique(group_class):
        queue = order[group_class[order] == label]
        queue = np.delete(queue, np.argmax(group_size[queue]))
        class_rows = int(group_size[queue].sum())
        for side, share in ((TEST, test_size), (VALIDATION, val_size)):
            taken = _take(group_size[queue].tolist(), round(share * class_rows))
            sides[queue[taken]] = side
            queue = np.delete(queue, taken)
    return sides


def _take(sizes: list[int], room: int) -> list[int]:
    """Places of the groups that fit one after the other into `room` rows; the smallest where none fits."""
    taken = []
    for place, size in enumerate(sizes):
        if size <= room:
            taken.append(place)
            room -= size
        if room == 0:
            break
    return taken or [sizes.index(min(sizes))] if sizes else []
