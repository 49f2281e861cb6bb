"""Multi-label metrics in one pass over the documents, in memory that does not grow with documents x labels.

Logits come in as float32, batch by batch; positives and the few best labels are picked out on the device, and
the rest is counting in int64: the work after that is O(predicted + gold), and any split into batches counts
the same. Definitions are those of PLAN.md:

    micro_f1, macro_f1     a label is predicted where its logit > 0; macro is the mean over all labels, 0 for
                           one that is neither predicted nor true (as scikit-learn's zero_division=0)
    *_tuned                the same above the one threshold with the best micro-F1 on the validation split
    precision_at_k         true labels among the k best, over k
    r_precision_at_5       over min(k, true labels); ndcg_at_5 with gains 1 and discounts log2(rank + 1);
                           both leave out documents without a label
    order                  logit descending, then label index ascending: a fixed rule, as 16-bit logits tie

    B documents    L labels    K the best labels kept of each document
"""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

KS = (1, 3, 5)
BEST = max(KS)
BLOCK = 64  # labels whose maximum is taken first, so that few blocks are looked into
BINS = 2**16  # of logits: one for each bfloat16 value
_UPPER = 1 if sys.byteorder == "little" else 0


@dataclass
class LabelCounts:
    """Per label, at one threshold: documents where it is predicted, and where it is predicted and true."""

    num_labels: int
    predicted: np.ndarray = field(init=False)
    hits: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.predicted, self.hits = (np.zeros(self.num_labels, dtype=np.int64) for _ in range(2))

    def f1(self, support: np.ndarray) -> tuple[float, np.ndarray]:
        """Micro-F1 and the F1 of each label (0 where it never occurs)."""
        total = self.predicted + support
        per_label = np.divide(2.0 * self.hits, total, out=np.zeros(self.num_labels), where=total > 0)
        return _ratio(2.0 * self.hits.sum(), total.sum()), per_label


class MultiLabelMetrics:
    """Feed `add` every batch of a split, then read `result`. `tuned` is a threshold on the logit."""

    def __init__(
        self, num_labels: int, train_documents: np.ndarray | None = None, tuned: float | None = None
    ):
        self.num_labels, self.tuned = num_labels, tuned
        self.train_documents = train_documents
        self.k = min(BEST, num_labels)
        self.at_zero = LabelCounts(num_labels)
        self.at_tuned = LabelCounts(num_labels)
        self.support = np.zeros(num_labels, dtype=np.int64)
        self.bins, self.true_bins = (np.zeros(BINS, dtype=np.int64) for _ in range(2))
        self.non_finite = 0
        self.count = 0  # of documents
        self._columns: dict[str, np.ndarray] = {}  # one row a document, with room for more

    @torch.no_grad()
    def add(self, logits: Tensor, rows: Tensor, labels: Tensor) -> None:
        """(B, L) logits on any device; the positive cells, by row and then label, as two int64 vectors."""
        logits = logits.float()
        rows, labels = rows.to(logits.device), labels.to(logits.device)
        true_logits = logits[rows, labels]  # (gold)
        gold_count = torch.bincount(rows, minlength=len(logits))  # (B)
        self.support += _numpy(torch.bincount(labels, minlength=self.num_labels))
        highest = self._count_best(logits, rows, labels, true_logits, gold_count)
        self._count_positives(self.at_zero, 0.0, logits, labels, true_logits, highest)
        if self.tuned is not None:
            found = self._count_positives(self.at_tuned, self.tuned, logits, labels, true_logits, highest)
            hits = torch.bincount(rows[true_logits > self.tuned], minlength=len(logits))
            self._keep(predicted=found, hits=_numpy(hits))
        else:
            self.bins += _count_bins(logits)
            self.true_bins += _count_bins(true_logits)
        self._keep(gold=_numpy(gold_count))
        self.count += len(logits)

    def _keep(self, **columns: np.ndarray) -> None:
        """Into arrays that double: small ones in between a batch's large tensors would break up the heap."""
        for name, column in columns.items():
            kept, end = self._columns.get(name), self.count + len(column)
            if kept is None or end > len(kept):
                grown = np.empty((2 * max(end, 1024), *column.shape[1:]), column.dtype)
                if kept is not None:
                    grown[: self.count] = kept[: self.count]
                self._columns[name] = kept = grown
            kept[self.count : end] = column

    def _count_positives(
        self, counts: LabelCounts, threshold: float, logits: Tensor, labels: Tensor, true_logits: Tensor,
        highest: Tensor,
    ) -> np.ndarray:  # fmt: skip
        """Add to `counts`; returns the number of predicted labels of each document, (B)."""
        counts.hits += _numpy(torch.bincount(labels[true_logits > threshold], minlength=self.num_labels))
        some = (highest > threshold).nonzero()[:, 0]  # early in training most documents have none
        row, label = (logits[some] > threshold).nonzero(as_tuple=True)
        counts.predicted += _numpy(torch.bincount(label, minlength=self.num_labels))
        return _numpy(torch.bincount(some[row], minlength=len(logits)))

    def _count_best(
        self, logits: Tensor, rows: Tensor, labels: Tensor, true_logits: Tensor, gold_count: Tensor
    ) -> Tensor:
        """Keep each document's best labels and hits by rank; returns the highest logit of each, (B)."""
        best, kth, at_kth, highest = best_labels(logits, self.k)
        # the largest magnitude is NaN where any value is, and NaN passes no comparison
        self.non_finite += len(logits) - int((logits.abs().amax(1) < torch.inf).sum())
        key = rows * self.num_labels + labels  # ascending: gold comes by row, then label
        wanted = torch.arange(len(logits), device=rows.device)[:, None] * self.num_labels + best  # (B, K)
        hit = torch.isin(wanted, key)  # (B, K)

        # Ties at the last place: what P@K would be on average, were equal logits ordered by chance.
        above = (torch.gather(logits, 1, best) > kth[:, None]).sum(1)
        true_at_kth = torch.bincount(rows[true_logits == kth[rows]], minlength=len(logits))
        true_above = torch.bincount(rows[true_logits > kth[rows]], minlength=len(logits))
        expected = true_above + (self.k - above) * true_at_kth / at_kth.clamp(min=1)
        self._keep(
            best=_numpy(best).astype(np.int32),
            hit=_numpy(hit),
            tied=_numpy(above + at_kth > self.k),
            expected=_numpy(expected.double()),
        )
        return highest

    # ------------------------------------------------------------ results

    def best_threshold(self) -> tuple[float, float]:
        """The threshold with the best micro-F1 here, and that F1: of all borders of the bfloat16 bins.

        Counts at a border are exact, not binned: no logit lies between it and its bin. At equal F1 the one
        nearest to 0 wins.
        """
        bins, true_bins = _ascending(self.bins), _ascending(self.true_bins)
        predicted = bins[::-1].cumsum()[::-1]  # at or above each bin
        hits = true_bins[::-1].cumsum()[::-1]
        total = predicted + self.support.sum()
        f1 = np.divide(2.0 * hits, total, out=np.zeros(BINS), where=total > 0)
        best = float(f1.max())
        if not best:
            return 0.0, 0.0
        borders = np.array([_border(int(b)) for b in np.flatnonzero((f1 == best) & (bins > 0))])
        return float(borders[np.abs(borders).argmin()]), best

    def column(self, name: str) -> np.ndarray:
        return self._columns[name][: self.count]

    def result(self) -> dict[str, Any]:
        """All metrics as plain numbers; null where a document's logits were not finite."""
        micro, per_label = self.at_zero.f1(self.support)
        values = {"micro_f1": micro, **self._macro("macro_f1", per_label)}
        if self.tuned is not None:
            micro, per_label = self.at_tuned.f1(self.support)
            values |= {"micro_f1_tuned": micro, **self._macro("macro_f1_tuned", per_label)}
        values |= self._ranking()
        if self.non_finite:
            values = dict.fromkeys(values)
        values["threshold"] = self.tuned
        values["ceilings"] = self._ceilings()
        return values | {"documents": self.count, "non_finite_documents": self.non_finite}

    def _macro(self, name: str, per_label: np.ndarray) -> dict[str, float]:
        values = {name: float(per_label.mean()), f"{name}_support": _mean(per_label[self.support > 0])}
        for group, chosen in self._groups().items():
            values[f"{name}_{group}"] = _mean(per_label[chosen & (self.support > 0)])
        return values

    def _groups(self) -> dict[str, np.ndarray]:
        if self.train_documents is None:
            return {}
        seen = self.train_documents
        return {"frequent": seen > 50, "few": (seen > 0) & (seen <= 50), "zero": seen == 0}

    def _ranking(self) -> dict[str, float]:
        hit, gold = self.column("hit"), self.column("gold")  # (N, K), (N)
        values = {f"precision_at_{k}": float(hit[:, :k].sum() / (k * len(hit))) for k in KS}
        labelled = gold > 0
        hit, gold = hit[labelled], gold[labelled]
        values[f"r_precision_at_{BEST}"] = _mean(hit.sum(1) / np.minimum(gold, BEST))
        discounts = 1 / np.log2(np.arange(2, BEST + 2))
        ideal = np.concatenate([[0.0], discounts.cumsum()])
        values[f"ndcg_at_{BEST}"] = _mean(hit @ discounts[: self.k] / ideal[np.minimum(gold, BEST)])
        values["tie_rate"] = _mean(self.column("tied"))
        values[f"precision_at_{BEST}_random_ties"] = _mean(self.column("expected")) / BEST
        return values

    def _ceilings(self) -> dict[str, float]:
        """What a perfect model would score on these documents (1 where not named)."""
        gold = self.column("gold")
        ceilings = {f"precision_at_{k}": float(np.minimum(gold, k).mean() / k) for k in KS}
        return {"macro_f1": float((self.support > 0).mean()), **ceilings}


# ---------------------------------------------------------------- the best labels of each document


def best_labels(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The k best labels of each document, by logit descending and then index ascending.

    (B, L) -> best (B, k) int64; the k-th best logit (B); how many labels have it (B); the highest logit (B).
    topk leaves the order of equal values open, so it is asked for values alone. The k-th largest maximum of
    blocks is a lower bound of the k-th largest logit, so that only cells at or above it are sorted.
    """
    count, num_labels = logits.shape
    whole = num_labels - num_labels % BLOCK if num_labels >= k * BLOCK else 0
    blocks = [logits[:, :whole].unflatten(1, (-1, BLOCK)).amax(2)] if whole else []
    maxima = torch.cat([*blocks, logits[:, whole:]], 1)  # (B, M)
    bound = maxima.topk(k, dim=1).values[:, -1]  # (B)
    every_row, every_label = (logits >= bound[:, None]).nonzero(as_tuple=True)  # by row, then label
    every_value = logits[every_row, every_label]
    if not len(every_row):  # NaN throughout: no answer is wrong
        return torch.zeros_like(logits[:, :k], dtype=torch.long), bound, torch.ones_like(bound).long(), bound
    row, label, value = _first_of_ties(every_row, every_label, every_value, bound, k)
    order = torch.argsort(value, descending=True, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    row, label, value = row[order], label[order], value[order]
    starts = torch.searchsorted(row, torch.arange(count, device=row.device))
    # a row with NaN has no candidate, and reads its neighbour's: its metrics are not used
    take = (starts[:, None] + torch.arange(k, device=row.device)).clamp(max=len(row) - 1)
    kth = value[take[:, -1]]
    at_kth = torch.bincount(every_row[every_value == kth[every_row]], minlength=count)
    return label[take], kth, at_kth, maxima.amax(1)


def _first_of_ties(
    row: Tensor, label: Tensor, value: Tensor, bound: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the cells equal to their row's bound, the first k alone can be among the best."""
    equal = value == bound[row]
    running = equal.long().cumsum(0)
    counts = torch.bincount(row[equal], minlength=len(bound))
    place = running - (counts.cumsum(0) - counts)[row]  # 1, 2, ... within the row
    keep = ~equal | (place <= k)
    return row[keep], label[keep], value[keep]


def _count_bins(logits: Tensor) -> np.ndarray:
    """How many logits have each upper half of a float32 (a bfloat16's bits), in the order of these bits."""
    logits = logits.contiguous() + 0.0  # -0 becomes 0, which it is equal to
    halves = _numpy(logits).ravel().view(np.uint16)[_UPPER::2]
    return np.bincount(halves, minlength=BINS)


def _ascending(counts: np.ndarray) -> np.ndarray:
    """Bins in the order of their logits: negative ones (highest bit set) backwards, then others."""
    return np.concatenate([counts[: BINS // 2 - 1 : -1], counts[: BINS // 2]])


def _border(number: int) -> float:
    """The largest float32 below every logit of a bin: `logit > border` holds from this bin upwards."""
    if number >= 2**15:
        lowest = np.array((number - 2**15) << 16, dtype=np.uint32).view(np.float32)
    else:  # magnitudes of a negative bin grow up to the next one's
        magnitude = 2**15 - 1 - number
        lowest = -np.array((magnitude << 16) | 0xFFFF, dtype=np.uint32).view(np.float32)
    return float(np.nextafter(lowest, np.float32(-np.inf), dtype=np.float32))


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0
