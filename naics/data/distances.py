"""Distances between all codes, under two named rules, as matrices and as the published table.

corrected   symmetric; path length through the lowest common ancestor, half a step less where one code is an
            ancestor of the other; 10 between sectors; 31-33, 44-45 and 48-49 are one sector each
compat      the published table: a pair (i, j) stands where i is on no deeper level than j and, if the first
            two digits agree, has the lower number. Codes of one level whose digits differ thus stand both
            ways, and inside a joined sector the descending way is wrongly another sector (51,252 rows).
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from naics.data.census import Taxonomy
from training_utils import InputError, replacing

RULES = ("compat", "corrected")
DISTANCES = "naics_distances.parquet"
OTHER_SECTOR = 20  # half steps
ROWS_AT_ONCE = 512


def shared_depth(taxonomy: Taxonomy) -> np.ndarray:
    """(n, n) int8: how many ancestors-or-selves two codes share; 0 between sectors."""
    shared = np.zeros((len(taxonomy), len(taxonomy)), dtype=np.int8)
    for ancestor in taxonomy.ancestors.T:
        shared += (ancestor[:, None] == ancestor[None, :]) & (ancestor >= 0)
    return shared


def tree_distances(taxonomy: Taxonomy) -> np.ndarray:
    """(n, n) int8: path length in the tree whose root, above the sectors, is made up; 0..10."""
    depth = (taxonomy.levels - 1).astype(np.int8)
    return depth[:, None] + depth[None, :] - 2 * shared_depth(taxonomy)


def distance_matrix(taxonomy: Taxonomy, rule: str) -> np.ndarray:
    """(n, n) int8 in half steps: 1..16 within a sector, 20 between sectors; 0 where a rule has no pair."""
    if rule not in RULES:
        raise InputError(f"rule {rule!r}: must be {' or '.join(RULES)}")
    depth, shared = taxonomy.levels - 1, shared_depth(taxonomy)
    lineal = shared == np.minimum(depth[:, None], depth[None, :])
    halves = np.where(shared > 0, 2 * tree_distances(taxonomy) - lineal, OTHER_SECTOR).astype(np.int8)
    np.fill_diagonal(halves, 0)
    if rule == "corrected":
        return halves
    number = np.array([int(code) for code in taxonomy.codes])
    prefix = np.array([code[:2] for code in taxonomy.codes])
    ascending = number[:, None] < number[None, :]
    same_prefix = prefix[:, None] == prefix[None, :]
    there = np.where(same_prefix, ascending, taxonomy.levels[:, None] <= taxonomy.levels[None, :])
    halves[~ascending] = OTHER_SECTOR
    return np.where(there, halves, 0).astype(np.int8)


def write_distances(taxonomy: Taxonomy, data_dir: Path, rule: str = "compat") -> int:
    """Write the rule's pairs as idx_i, idx_j, code_i, code_j and distance in steps; returns how many."""
    halves = distance_matrix(taxonomy, rule)
    codes = np.array(taxonomy.codes)
    names = pa.array(codes)
    fields = [("idx_i", pa.uint32()), ("idx_j", pa.uint32())]
    fields += [("code_i", pa.string()), ("code_j", pa.string()), ("distance", pa.float32())]
    schema = pa.schema(fields)
    with (
        replacing(Path(data_dir) / DISTANCES) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for start in range(0, len(codes), ROWS_AT_ONCE):
            i, j = np.nonzero(halves[start : start + ROWS_AT_ONCE])
            i += start
            values = (halves[i, j] / 2).astype(np.float32)
            columns = [
                i.astype(np.uint32),
                j.astype(np.uint32),
                names.take(pa.array(i)),
                names.take(pa.array(j)),
            ]
            writer.write_table(pa.table([pa.array(c) for c in (*columns, values)], schema=schema))
    return int(np.count_nonzero(halves))
