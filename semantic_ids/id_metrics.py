"""Measures of a set of IDs and of their codebooks. N items, E embedding width, L levels, K codes a level."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_ids.rqvae import RQVAE

ITEMS_AT_ONCE = 16_384
NEAR_COSINE = 0.95  # items at least so alike share codes because they are near-duplicates


def pack(codes: Tensor, num_codes: int) -> Tensor:
    """(N, L) codes below num_codes -> (N) int64, equal where the whole rows are."""
    packed = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    for level in codes.unbind(1):
        packed = packed * num_codes + level
    return packed


def unique_ids_proportion(codes: Tensor, num_codes: int) -> float:
    """Distinct IDs over items."""
    return len(torch.unique(pack(codes, num_codes))) / len(codes)


def code_counts(codes: Tensor, num_codes: int) -> Tensor:
    """(N, L) -> (L, K) items of each code."""
    levels = [torch.bincount(level, minlength=num_codes) for level in codes.unbind(1)]
    return torch.stack(levels)


def usage(counts: Tensor) -> list[float]:
    """Share of the codes that any item has, by level."""
    return (counts > 0).float().mean(1).tolist()


def perplexity(counts: Tensor) -> list[float]:
    """exp of the entropy of the code distribution, by level: how many codes are in effective use."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.special.entr(shares).sum(1).exp().tolist()


@torch.no_grad()
def measure_items(model: RQVAE, items: Tensor, rows: Tensor, num_codes: int) -> dict[str, Any]:
    """Loss, reconstruction and IDs over the `rows` of (N, E) `items`, by the names they are logged under."""
    was_training, device = model.training, items.device
    model.eval()
    loss, cosine, residual, codes = 0.0, 0.0, 0.0, []
    for part in rows.split(ITEMS_AT_ONCE):
        batch = items[part.to(device)]
        output = model(batch)
        loss += float(model.loss(output)[0]) * len(part)
        cosine += float(F.cosine_similarity(model.unscale(output.decoded), batch).sum())
        residual += float(output.residual_norm) * len(part)
        codes.append(output.codes)
    model.train(was_training)
    codes = torch.cat(codes)
    counts = code_counts(codes, num_codes)
    measures = {
        "loss/validation": loss / len(rows),
        "metrics/avg_residual_norm": residual / len(rows),
        "metrics/reconstruction_cosine": cosine / len(rows),
        "metrics/unique_ids_proportion": unique_ids_proportion(codes, num_codes),
    }
    for level, (share, effective) in enumerate(zip(usage(counts), perplexity(counts), strict=True)):
        measures[f"metrics/codebook_usage_level_{level}"] = share
        measures[f"metrics/codebook_perplexity_level_{level}"] = effective
    return measures


# ---------------------------------------------------------------- a whole catalogue


def prefix_groups(codes: np.ndarray) -> list[np.ndarray]:
    """(N, L) -> for each depth 1..L, (N) numbers equal where the prefixes are, and ordered as they are."""
    groups, above = [], np.zeros(len(codes), dtype=np.int64)
    for level in codes.T.astype(np.int64):
        above = np.unique(above * (int(codes.max()) + 1) + level, return_inverse=True)[1].reshape(-1)
        groups.append(above)
    return groups


def chance_of_one_group(groups: np.ndarray) -> float:
    """Probability that two different items, drawn at random, share a group."""
    sizes, count = np.bincount(groups).astype(float), len(groups)
    return float((sizes * (sizes - 1)).sum() / max(1, count * (count - 1)))


def nearest_items(vectors: np.ndarray, queries: np.ndarray, count: int) -> np.ndarray:
    """Rows of the `count` items of greatest cosine to each query row, itself left out: (Q, count).

    `vectors` (N, E) have length 1. Exact; ties go to the lower row.
    """
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    _, found = index.search(vectors[queries], count + 1)
    itself = found == queries[:, None]
    itself[~itself.any(1), -1] = True  # more than `count` equal items: any one of them goes
    return found[~itself].reshape(len(queries), count)


def prefix_agreement(groups: np.ndarray, queries: np.ndarray, neighbours: np.ndarray) -> float:
    """Share of the neighbours (Q, k) of `queries` (Q) that have the query's prefix."""
    return float((groups[neighbours] == groups[queries][:, None]).mean())


def collision_causes(
    groups: np.ndarray, texts: np.ndarray | None, vectors: np.ndarray
) -> dict[str, dict[str, int]]:
    """Groups of items that share all codes, and items in them, by cause.

    "exact text": one text; "near": every two have a cosine of NEAR_COSINE or more; "semantic": the others.
    """
    causes = {cause: {"groups": 0, "items": 0} for cause in ("exact text", "near", "semantic")}
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(rows) < 2:
            continue
        if texts is not None and len(set(texts[rows])) == 1:
            cause = "exact text"
        else:
            near = (vectors[rows] @ vectors[rows].T).min() >= NEAR_COSINE
            cause = "near" if near else "semantic"
        causes[cause]["groups"] += 1
        causes[cause]["items"] += len(rows)
    return causes


def purity(groups: np.ndarray, labels: np.ndarray) -> float:
    """Share of the items (labels >= 0) that have the commonest label of their group."""
    known = labels >= 0
    pairs, counts = np.unique(np.stack((groups[known], labels[known])), axis=1, return_counts=True)
    best = np.zeros(int(groups.max()) + 1)
    np.maximum.at(best, pairs[0], counts)
    return float(best.sum() / known.sum())


def adjacency(groups: np.ndarray, pairs: np.ndarray) -> dict[str, float | None]:
    """How often items bought one after the other, `pairs` (P, 2), share a prefix.

    `lift` is against two items drawn at random, `lift_popular` against two purchases drawn at random; None
    where no two of them can share one.
    """
    share = float((groups[pairs[:, 0]] == groups[pairs[:, 1]]).mean())
    items = np.bincount(pairs.reshape(-1), minlength=len(groups)) / pairs.size
    by_group = np.bincount(groups, weights=items)
    same_item = (items**2).sum()  # a pair has two different items
    popular = float(((by_group**2).sum() - same_item) / (1 - same_item))
    chance = chance_of_one_group(groups)
    return {
        "share": share,
        "lift": share / chance if chance else None,
        "lift_popular": share / popular if popular else None,
    }


def prefix_recall(groups: Sequence[np.ndarray], pairs: np.ndarray, at: int) -> float:
    """Expected recall of the second item of `pairs` (P, 2) among the `at` items that share the longest prefix
    with the first; equally long ones come in random order.
    """
    count = len(groups[0])
    shared = np.zeros(len(pairs), dtype=np.int64)
    within = [np.full(len(pairs), count - 1)]  # items but the first that share 0, 1, ... levels with it
    for depth, group in enumerate(groups, 1):
        shared[group[pairs[:, 0]] == group[pairs[:, 1]]] = depth
        within.append(np.bincount(group)[group[pairs[:, 0]]] - 1)
    within.append(np.zeros(len(pairs), dtype=np.int64))
    sizes, rows = np.stack(within), np.arange(len(pairs))
    before = sizes[shared + 1, rows]
    return float(np.clip((at - before) / (sizes[shared, rows] - before), 0, 1).mean())
