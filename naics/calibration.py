"""From scores to probabilities of every code: a weight a score, and how far the result can be believed."""

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import logsumexp, softmax

from naics.data.census import Taxonomy

BINS = 15
STEEPEST = 1e4  # weight of a score, in its standard deviations, where the likelihood has no best one


def fit_weights(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights (k,), 0 or more, with the least negative log likelihood of softmax(sum_k w_k scores_k).

    `scores` (k, q, n), `targets` (q) columns. The likelihood is concave in the weights, and its slope is the
    target's score less the expected one.
    """
    spread = np.maximum(scores.std(axis=(1, 2), dtype=np.float64), 1e-12)
    scaled = scores / spread[:, None, None]
    own = scaled[:, np.arange(len(targets)), targets]  # (k, q)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total = np.tensordot(weights, scaled, 1)
        normalizer = logsumexp(total, axis=1, keepdims=True)
        expected = (np.exp(total - normalizer) * scaled).sum(axis=2)
        return float((normalizer[:, 0] - weights @ own).mean()), (expected - own).mean(axis=1)

    bounds = [(0, STEEPEST)] * len(scores)
    found = minimize(
        loss, np.ones(len(scores)), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}
    )
    return found.x / spread


def fit_temperature(scores: np.ndarray, targets: np.ndarray) -> float:
    """T with the least negative log likelihood of softmax(scores / T) (Guo et al. 2017, section 4.2)."""
    return 1 / max(float(fit_weights(scores[None].astype(np.float64), targets)[0]), 1e-12)


def code_probabilities(logits: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(q, leaves) logits of six-digit codes -> (q, n): a code has the sum of its descendants'."""
    leaves = softmax(logits.astype(np.float64), axis=1)
    above = taxonomy.ancestors[taxonomy.leaves]  # (leaves, 5), itself last
    places = (np.repeat(np.arange(len(above)), above.shape[1]), above.ravel())
    return leaves @ csr_array((np.ones(above.size), places), shape=(len(above), len(taxonomy)))


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Mean distance between confidence and share of hits over bins of equal width, by their sizes."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = np.bincount(place, weights=confidence - correct, minlength=bins)
    return float(np.abs(sums).sum() / len(confidence))


def calibration_by_level(
    probability: np.ndarray, targets: np.ndarray, taxonomy: Taxonomy
) -> dict[int, dict[str, float]]:
    """By level: how often the likeliest code is right, its mean probability, and the calibration error.

    `probability` (q, n) of all codes, `targets` (q) taxonomy rows of six-digit codes.
    """
    found = {}
    for level in np.unique(taxonomy.levels).tolist():
        here = np.flatnonzero(taxonomy.levels == level)
        best = here[probability[:, here].argmax(axis=1)]
        confidence = probability[np.arange(len(best)), best]
        correct = (taxonomy.ancestors[targets, level - 2] == best).astype(float)
        found[level] = {
            "accuracy": round(float(correct.mean()), 4),
            "confidence": round(float(confidence.mean()), 4),
            "calibration_error": round(expected_calibration_error(confidence, correct), 4),
        }
    return found
