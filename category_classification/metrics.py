"""Confusion counts by language and what is read from them: reports, bootstrap intervals, calibration.

L languages, K classes, N rows, R resamples, B bins.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

COVERAGE_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
RESAMPLES_AT_ONCE = 50  # bounds the bootstrap's memory: 50 x (distinct clusters + 3LK) integers


class ConfusionByLanguage:
    """A stream of rows as one tensor `counts[language, true, predicted]`; two of them merge by adding it."""

    def __init__(self, num_languages: int, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(num_languages, num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, languages: Tensor, labels: Tensor, predictions: Tensor) -> None:
        ids = torch.stack([x.to(self.counts.device, torch.int64) for x in (languages, labels, predictions)])
        sizes = torch.tensor(self.counts.shape, device=self.counts.device)[:, None]
        # A wrong id would land in another cell's count and never be seen again.
        if ((ids < 0) | (ids >= sizes)).any():
            raise ValueError(f"language, label or prediction outside {tuple(self.counts.shape)}")
        num_classes = self.counts.shape[-1]
        cells = (ids[0] * num_classes + ids[1]) * num_classes + ids[2]
        self.counts += torch.bincount(cells, minlength=self.counts.numel()).view_as(self.counts)


# ---------------------------------------------------------------- scores of a confusion matrix


def _ratio(numerator: NDArray, denominator: NDArray) -> NDArray:
    """Quotient with 0/0 = 0, as scikit-learn has it for a class that is never predicted or never true."""
    return numerator / np.maximum(denominator, 1)


def _macro_f1(support: NDArray, predicted: NDArray, hits: NDArray) -> NDArray:
    """Mean F1 over the classes in truth or prediction; (..., K) -> (...), NaN where there is no row."""
    f1 = _ratio(2 * hits, support + predicted)
    present = (support + predicted > 0).sum(-1)
    return np.where(present > 0, f1.sum(-1) / np.maximum(present, 1), np.nan)


def _summary(confusion: NDArray) -> dict[str, float]:
    """Accuracy and F1 of one (K, K) matrix of true x predicted counts."""
    support, predicted, hits = confusion.sum(1), confusion.sum(0), np.diagonal(confusion)
    rows = int(support.sum())
    if rows == 0:
        return {"support": 0, "accuracy": 0.0, "micro_f1": 0.0, "macro_f1": 0.0, "macro_f1_supported": 0.0}
    accuracy = float(hits.sum() / rows)
    return {
        "support": rows,
        "accuracy": accuracy,
        "micro_f1": accuracy,  # one label a row: every false positive is another class's false negative
        "macro_f1": float(_macro_f1(support, predicted, hits)),
        "macro_f1_supported": float(_ratio(2 * hits, support + predicted)[support > 0].mean()),
    }


def classification_report(
    counts: Tensor | NDArray,
    class_names: Sequence[str],
    language_names: Sequence[str],
    lang_min_samples: int = 1000,
    lang_top_k: int = 5,
    languages: Sequence[str] | None = None,
    intervals: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """JSON-ready scores of (L, K, K) counts: overall, by class and by language.

    Reported are the `lang_top_k` largest languages (0 = all) of at least `lang_min_samples` rows, or those
    named in `languages` that the data knows. The bounds in `intervals`, from `bootstrap_intervals`, join the
    overall and the language scores.
    """
    counts = np.asarray(counts.cpu() if isinstance(counts, Tensor) else counts)
    overall = counts.sum(0)
    support, predicted, hits = overall.sum(1), overall.sum(0), np.diagonal(overall)
    by_class = {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predicted),
        "support": support,
    }
    rows = counts.sum((1, 2))
    if languages is None:
        by_size = [int(i) for i in np.argsort(-rows, kind="stable") if rows[i] >= max(lang_min_samples, 1)]
        reported = by_size[: lang_top_k or None]
    else:
        reported = [list(language_names).index(name) for name in languages if name in language_names]

    def scores(confusion: NDArray, interval: dict[str, Any] | None) -> dict[str, Any]:
        bounds = {f"{name}_interval": value for name, value in (interval or {}).items()}
        return {**_summary(confusion), **bounds}

    bounds_of = intervals["languages"] if intervals else [None] * len(rows)
    return {
        **scores(overall, intervals["overall"] if intervals else None),
        "classes": {
            name: {score: values[i].item() for score, values in by_class.items()}
            for i, name in enumerate(class_names)
        },
        "languages": {language_names[i]: scores(counts[i], bounds_of[i]) for i in reported},
        "other_languages": {
            "languages": int((rows > 0).sum() - sum(rows[i] > 0 for i in reported)),
            "support": int(rows.sum() - rows[reported].sum()),
        },
        "confusion": overall.tolist(),
        **({name: intervals[name] for name in ("level", "resamples", "clusters")} if intervals else {}),
    }


def bootstrap_intervals(
    languages: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    clusters: ArrayLike,
    num_languages: int,
    num_classes: int,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Percentile intervals of accuracy and macro-F1, overall and by language, from resampled *clusters*.

    Offers of one product rise and fall together, so rows must not be drawn one by one. Clusters with the
    same cells (language, true, predicted) are interchangeable: drawing how often each *kind* of cluster comes
    up is the same law, and a million clusters have only some thousands of kinds. 100k rows take about half a
    second, 1M rows 5 s. A handful of clusters gives too narrow an interval, a single one none at all.
    """
    languages, labels, predictions = (np.asarray(x, np.int64) for x in (languages, labels, predictions))
    rng = np.random.default_rng(seed)
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) == 0:
        raise ValueError("no rows to resample")

    # A cluster's kind: the sum of one random 64-bit word a cell, equal where the multisets of cells are.
    cells = (languages * num_classes + labels) * num_classes + predictions
    words = rng.integers(2**64, size=num_languages * num_classes**2, dtype=np.uint64)
    fingerprint = np.zeros(len(names), np.uint64)
    np.add.at(fingerprint, cluster, words[cells])
    _, example, clusters_of_kind = np.unique(fingerprint, return_index=True, return_counts=True)
    kind = np.full(len(names), -1)
    kind[example] = np.arange(len(example))
    margins = _margins(kind[cluster], languages, labels, predictions, num_languages, num_classes)

    drawn = []  # of (r, 1 + L, 2): overall and each language, accuracy and macro-F1
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        size = min(RESAMPLES_AT_ONCE, resamples - start)
        weights = rng.multinomial(len(names), clusters_of_kind / len(names), size=size)  # (r, kinds)
        totals = (weights @ margins).reshape(size, num_languages, 3, num_classes)
        totals = np.concatenate((totals.sum(1, keepdims=True), totals), 1)
        support, predicted, hits = np.moveaxis(totals, 2, 0)  # (r, 1 + L, K) each
        accuracy = np.where(support.any(-1), _ratio(hits.sum(-1), support.sum(-1)), np.nan)
        drawn.append(np.stack((accuracy, _macro_f1(support, predicted, hits)), -1))

    scores = np.concatenate(drawn)  # (R, 1 + L, 2)
    present = np.concatenate(([True], np.bincount(languages, minlength=num_languages) > 0))
    present &= ~np.isnan(scores[..., 0]).all(0)  # a one-cluster language may be missing from every resample
    bounds = np.full((2, *scores.shape[1:]), np.nan)
    tail = (1 - level) / 2
    # Resamples without a single row of a language say nothing about it.
    bounds[:, present] = np.nanquantile(scores[:, present], (tail, 1 - tail), axis=0)
    found = [
        {"accuracy": bounds[:, i, 0].tolist(), "macro_f1": bounds[:, i, 1].tolist()} if present[i] else None
        for i in range(len(present))
    ]
    return {
        "level": level,
        "resamples": resamples,
        "clusters": len(names),
        "overall": found[0],
        "languages": found[1:],
    }


def _margins(kind: NDArray, language: NDArray, label: NDArray, prediction: NDArray, L: int, K: int) -> Any:
    """(kinds, L * 3 * K) sparse counts of the rows with a kind >= 0: support, predicted, hits of a class."""
    from scipy.sparse import csr_array

    kept = kind >= 0
    kind, language, label, prediction = kind[kept], language[kept], label[kept], prediction[kept]
    hit = label == prediction
    first = language * 3 * K
    columns = np.concatenate((first + label, first + K + prediction, (first + 2 * K + label)[hit]))
    rows = np.concatenate((kind, kind, kind[hit]))
    return csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(kind.max() + 1, L * 3 * K))


# ---------------------------------------------------------------- calibration


def fit_temperature(
    logits: Tensor | ArrayLike, labels: Tensor | ArrayLike, lowest: float = 0.1, highest: float = 10.0
) -> float:
    """The T in [lowest, highest] that minimises the mean of -log softmax(logits / T)[label].

    Convex in b = 1 / T: Newton's method, bisecting where it would leave the bracket. Where every row is right
    (or wrong) the optimum lies at infinity, so the bound is returned.
    """
    logits = torch.as_tensor(logits).detach().cpu().double()  # (N, K)
    labels = torch.as_tensor(labels).cpu().long()
    if len(labels) == 0 or not torch.isfinite(logits).all():
        raise ValueError("a temperature needs at least one row and finite logits")
    # Relative to the label's own logit, so that the slope keeps its sign where the softmax is all but 0 or 1.
    margins = logits - logits.gather(1, labels[:, None])

    def derivatives(inverse: float) -> tuple[float, float]:
        probabilities = torch.softmax(inverse * margins, 1)
        mean = (probabilities * margins).sum(1)
        variance = (probabilities * (margins - mean[:, None]).square()).sum(1)
        return mean.mean().item(), variance.mean().item()

    low, high = 1 / highest, 1 / lowest
    if derivatives(high)[0] < 0:
        return lowest
    if derivatives(low)[0] > 0:
        return highest
    inverse = 1.0
    for _ in range(100):
        slope, curvature = derivatives(inverse)
        if slope == 0:  # the optimum, or rows that say nothing (equal logits, saturated softmax)
            break
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        newton = inverse - slope / curvature if curvature > 0 else low
        step = newton if low < newton < high else (low * high) ** 0.5
        converged, inverse = abs(step - inverse) <= 1e-12 * inverse, step
        if converged:
            break
    return 1 / inverse


def fit_language_bias(
    logits: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    languages: Tensor | ArrayLike,
    language_names: Sequence[str],
    strength: float = 10.0,
) -> dict[str, list[float]]:
    """By language, the b (K) that minimises sum over its rows of -log softmax(logits + b)[label] + s/2 |b|^2.

    Corrects a language's class shares after training (logit adjustment, Menon et al. 2021, arXiv 2007.07314,
    fitted instead of counted). The penalty is worth `strength` rows: few rows move little.
    """
    logits = torch.as_tensor(logits).detach().cpu().double()  # (N, K)
    labels, languages = (torch.as_tensor(x).cpu().long() for x in (labels, languages))
    return {
        name: _fit_bias(logits[languages == i], labels[languages == i], strength).tolist()
        for i, name in enumerate(language_names)
        if (languages == i).any()
    }


def _fit_bias(logits: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Newton's method on a strictly convex function, steps halved until it falls."""
    num_classes = logits.shape[1]
    bias = torch.zeros(num_classes, dtype=torch.float64)
    label_counts = torch.bincount(labels, minlength=num_classes)

    def value(bias: Tensor) -> Tensor:
        likelihood = torch.nn.functional.cross_entropy(logits + bias, labels, reduction="sum")
        return likelihood + strength / 2 * bias.square().sum()

    for _ in range(50):
        p = (logits + bias).softmax(1)
        gradient = p.sum(0) - label_counts + strength * bias
        hessian = p.sum(0).diag() - p.T @ p + strength * torch.eye(num_classes, dtype=torch.float64)
        step = torch.linalg.solve(hessian, gradient)
        while step.abs().max() > 1e-10 and value(bias - step) > value(bias):
            step = step / 2
        bias = bias - step
        if step.abs().max() <= 1e-10:
            break
    return bias


def add_language_bias(
    logits: ArrayLike, languages: Sequence[str], bias: dict[str, list[float]]
) -> NDArray[np.float64]:
    """(N, K) logits with the bias of each row's language; a language that was not fitted has none."""
    logits = np.asarray(logits, np.float64)
    none = [0.0] * logits.shape[1]
    return logits + np.array([bias.get(name, none) for name in languages]).reshape(logits.shape)


def _confidence(probabilities: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> tuple[NDArray, NDArray]:
    """(N, K), (N,) -> probability of the predicted class and whether it is the true one."""
    probabilities = torch.as_tensor(probabilities).detach().cpu().double().numpy()
    labels = torch.as_tensor(labels).cpu().numpy()
    return probabilities.max(1), probabilities.argmax(1) == labels


def reliability_bins(
    probabilities: Tensor | ArrayLike, labels: Tensor | ArrayLike, bins: int = 15
) -> list[dict[str, Any]]:
    """Equal bins (lower, upper] of confidence with rows, mean confidence and accuracy (None where empty)."""
    confidence, right = _confidence(probabilities, labels)
    # Against the printed edges themselves, so that a confidence on an edge is never put in the next bin.
    edges = np.arange(bins + 1) / bins
    index = np.searchsorted(edges[1:-1], confidence, side="left")
    rows = np.bincount(index, minlength=bins)
    mean_confidence = _ratio(np.bincount(index, confidence, bins), rows)
    accuracy = _ratio(np.bincount(index, right, bins), rows)
    return [
        {
            "lower": float(edges[i]),
            "upper": float(edges[i + 1]),
            "rows": int(rows[i]),
            "confidence": float(mean_confidence[i]) if rows[i] else None,
            "accuracy": float(accuracy[i]) if rows[i] else None,
        }
        for i in range(bins)
    ]


def expected_calibration_error(
    probabilities: Tensor | ArrayLike, labels: Tensor | ArrayLike, bins: int = 15
) -> float:
    """Mean over rows of |accuracy - confidence| of the row's bin."""
    filled = [b for b in reliability_bins(probabilities, labels, bins) if b["rows"]]
    total = sum(b["rows"] for b in filled)
    return sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in filled) / max(total, 1)


def coverage_curve(
    probabilities: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    thresholds: Sequence[float] = COVERAGE_THRESHOLDS,
) -> list[dict[str, Any]]:
    """What abstaining below a confidence buys: share of rows answered and their accuracy (None if no row)."""
    confidence, right = _confidence(probabilities, labels)
    order = np.argsort(confidence, kind="stable")
    hits_from = np.concatenate((np.cumsum(right[order][::-1])[::-1], [0]))  # hits in rows i, i + 1, ...
    curve = []
    for threshold in thresholds:
        first = int(np.searchsorted(confidence[order], threshold, side="left"))
        rows = len(order) - first
        curve.append(
            {
                "threshold": float(threshold),
                "rows": rows,
                "coverage": rows / max(len(order), 1),
                "accuracy": float(hits_from[first] / rows) if rows else None,
            }
        )
    return curve
