"""Multi-label metrics against scikit-learn and direct formulas, on random sparse cases."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import one_thread
from sklearn.metrics import f1_score, ndcg_score

from experiments.classification.metrics import MultiLabelMetrics, best_labels


def make_case(
    seed: int, documents: int, labels: int, positive: float, true: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, L) float32 without ties, and a boolean target with empty rows and columns."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(labels), (documents, 1)), axis=1)
    logits = ((order + rng.random((documents, 1))) / labels - (1 - positive)).astype(np.float32) * 7
    target = rng.random((documents, labels)) < true
    target[rng.integers(documents, size=documents // 5)] = False
    target[:, rng.integers(labels, size=labels // 5)] = False
    return logits, target


def measure(logits: np.ndarray, target: np.ndarray, batch: int = 7, **kwargs) -> MultiLabelMetrics:
    metrics = MultiLabelMetrics(logits.shape[1], **kwargs)
    for start in range(0, len(logits), batch):
        rows, labels = np.nonzero(target[start : start + batch])
        part = torch.from_numpy(logits[start : start + batch])
        metrics.add(part, torch.from_numpy(rows), torch.from_numpy(labels))
    return metrics


CASES = [
    (0, 60, 40, 0.05, 0.05),
    (1, 33, 500, 0.01, 0.01),
    (2, 50, 5, 0.5, 0.4),
    (3, 20, 3, 0.5, 0.5),  # fewer labels than 5
    (4, 30, 700, 0.0, 0.02),  # nothing predicted
    (5, 30, 64 * 5, 1.0, 0.02),  # everything predicted
]


@pytest.mark.parametrize("case", CASES)
def test_equal_to_scikit_learn(case):
    logits, target = make_case(*case)
    result = measure(logits, target, tuned=-0.4).result()
    for name, threshold in (("", 0.0), ("_tuned", -0.4)):
        predicted = logits > np.float32(threshold)
        for average in ("micro", "macro"):
            expected = f1_score(target, predicted, average=average, zero_division=0)
            assert result[f"{average}_f1{name}"] == pytest.approx(expected, abs=1e-12)
        supported = target.any(0)
        each = f1_score(target, predicted, average=None, zero_division=0)
        assert result[f"macro_f1{name}_support"] == pytest.approx(each[supported].mean(), abs=1e-12)
    labelled = target.any(1)
    if logits.shape[1] > 5:
        expected = ndcg_score(target[labelled], logits[labelled], k=5, ignore_ties=True)
        assert result["ndcg_at_5"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_ranking_metrics_are_their_formulas(case):
    logits, target = make_case(*case)
    result = measure(logits, target).result()
    hits = {k: [] for k in (1, 3, 5)}
    r_precision, reachable = [], {k: [] for k in hits}
    for scores, true in zip(logits, target, strict=True):
        order = sorted(range(len(scores)), key=lambda label: (-scores[label], label))
        for k in hits:
            hits[k].append(sum(true[label] for label in order[:k]) / k)
            reachable[k].append(min(k, true.sum()) / k)
        if true.any():
            r_precision.append(sum(true[label] for label in order[:5]) / min(5, true.sum()))
    for k in hits:
        assert result[f"precision_at_{k}"] == pytest.approx(np.mean(hits[k]), abs=1e-12)
        assert result["ceilings"][f"precision_at_{k}"] == pytest.approx(np.mean(reachable[k]), abs=1e-12)
    assert result["r_precision_at_5"] == pytest.approx(np.mean(r_precision), abs=1e-12)
    assert result["ceilings"]["macro_f1"] == target.any(0).mean()
    assert result["tie_rate"] == 0
    assert result["precision_at_5_random_ties"] == pytest.approx(
        np.mean(hits[5]) * (5 / min(5, logits.shape[1])) if logits.shape[1] >= 5 else np.mean(hits[5]),
        abs=1e-12,
    )


def test_ties_go_to_the_smaller_index_and_are_counted():
    logits = torch.zeros(3, 4271)
    logits[1, [7, 4000, 2, 65, 64, 3999]] = 1.0
    logits[2, [10, 20]] = torch.tensor([2.0, 3.0])
    best, kth, at_kth, highest = best_labels(logits, 5)
    assert best.tolist() == [[0, 1, 2, 3, 4], [2, 7, 64, 65, 3999], [20, 10, 0, 1, 2]]
    assert kth.tolist() == [0, 1, 0] and highest.tolist() == [0, 1, 3]
    assert at_kth.tolist() == [4271, 6, 4269]
    target = np.zeros((3, 4271), dtype=bool)
    target[1, [4000, 2]] = True
    result = measure(logits.numpy(), target).result()
    assert result["tie_rate"] == 1
    assert result["precision_at_5"] == pytest.approx(1 / 15)
    # of six equal labels five are taken: each is in with 5/6
    assert result["precision_at_5_random_ties"] == pytest.approx(2 * 5 / 6 / 15)


def test_best_labels_agree_with_a_stable_sort_on_coarse_values():
    generator = torch.Generator().manual_seed(0)
    for labels in (5, 6, 64, 319, 320, 4271):
        logits = torch.randn(200, labels, generator=generator).mul(2).round().div(2)  # ties in every row
        expected = torch.argsort(logits, dim=1, descending=True, stable=True)[:, :5]
        assert torch.equal(best_labels(logits, 5)[0], expected)


def test_any_split_into_batches_counts_the_same():
    logits, target = make_case(9, 61, 300, 0.02, 0.02)
    logits = np.round(logits, 1)  # with ties
    results = [measure(logits, target, batch, tuned=0.3).result() for batch in (1, 8, 61)]
    assert results[0] == results[1] == results[2]


def micro_f1(target: np.ndarray, predicted: np.ndarray) -> float:
    hits = (target & predicted).sum()
    return float(2 * hits / (target.sum() + predicted.sum()))


def test_the_tuned_threshold_is_the_best_of_its_candidates():
    for seed in range(5):
        logits, target = make_case(seed, 80, 50, 0.3, 0.05)
        logits[target] += 1.5
        threshold, f1 = measure(logits, target).best_threshold()
        assert f1 == pytest.approx(
            f1_score(target, logits > np.float32(threshold), average="micro"), abs=1e-12
        )
        borders = torch.from_numpy(logits).bfloat16().float().unique().numpy()
        below = np.nextafter(borders, np.float32(-np.inf))
        positive = borders > 0  # truncation and rounding have the same grid
        assert f1 >= max(micro_f1(target, logits > t) for t in below[positive]) - 1e-12
        best = max(micro_f1(target, logits >= t) for t in np.unique(logits))
        assert best - 0.01 < f1 <= best  # what the grid costs


def test_a_threshold_between_two_logits_separates_them():
    """Signs, zeros and neighbours: the border of a bin lies below all of it and above the bin before."""
    values = np.array([-3.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 3.0], dtype=np.float32)
    for place in range(len(values)):
        logits = values[:, None].repeat(2, 1)
        logits[:, 1] = -100
        target = np.zeros_like(logits, dtype=bool)
        target[:, 0] = values >= values[place]
        threshold, f1 = measure(logits, target).best_threshold()
        assert f1 == 1.0
        assert ((logits > np.float32(threshold)) == target).all()


def test_logits_that_are_not_finite_give_no_figures():
    logits, target = make_case(1, 20, 300, 0.02, 0.02)
    for value in (np.nan, np.inf, -np.inf):
        broken = logits.copy()
        broken[3, 17] = value
        result = measure(broken, target).result()
        assert result["non_finite_documents"] == 1
        assert result["micro_f1"] is None and result["precision_at_5"] is None
    assert measure(np.full_like(logits, np.nan), target).result()["non_finite_documents"] == 20


def test_groups_of_labels_by_their_training_documents():
    logits, target = make_case(3, 90, 60, 0.3, 0.1)
    train = np.arange(60) * 2
    train[:10] = 0
    result = measure(logits, target, train_documents=train).result()
    each = f1_score(target, logits > 0, average=None, zero_division=0)
    supported = target.any(0)
    for name, chosen in {
        "frequent": train > 50,
        "few": (train > 0) & (train <= 50),
        "zero": train == 0,
    }.items():
        assert result[f"macro_f1_{name}"] == pytest.approx(each[chosen & supported].mean(), abs=1e-12)


FULL_SIZE = """
import resource, time, numpy as np, torch
from experiments.classification.metrics import MultiLabelMetrics
rng = np.random.default_rng(0)
documents, labels, batch = 6000, 4271, 64
logits = torch.from_numpy(rng.normal(-6, 2, size=(batch, labels)).astype(np.float32))
rows, gold = torch.arange(batch).repeat_interleave(5), torch.from_numpy(rng.integers(labels, size=5 * batch))
for tuned in (None, -1.0):
    metrics = MultiLabelMetrics(labels, tuned=tuned)
    metrics.add(logits, rows, gold)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    for _ in range(documents // batch):
        metrics.add(logits, rows, gold)
    metrics.result()
    print(time.process_time() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_the_full_test_split_takes_a_second_and_little_memory():
    command = [sys.executable, "-c", FULL_SIZE]
    result = subprocess.run(command, capture_output=True, text=True, env=one_thread(), check=True)
    for line in result.stdout.splitlines():
        cpu_seconds, mebibytes = map(float, line.split())
        assert cpu_seconds < 1.0
        assert mebibytes < 50
