"""Losses against plain float64 formulas, row by row, and at the edges of half precision."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from category_classification.losses import (
    POSITIVES,
    _Gather,
    classification_loss,
    contrastive_loss,
    teacher_loss,
)

LABELS = torch.tensor([0, 1, 2, 1, 0, 5])


@pytest.fixture
def logits():
    return 3 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_without_gamma_and_weights_it_is_cross_entropy_to_the_bit(logits, smoothing):
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss, expected = (
        classification_loss(ours, LABELS, smoothing),
        F.cross_entropy(theirs, LABELS, label_smoothing=smoothing),
    )
    loss.backward(), expected.backward()
    assert torch.equal(loss, expected) and torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_focal_smoothed_and_weighted_follow_the_formula(logits, gamma, smoothing):
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.5, 1.5])
    expected = 0.0
    for row, label, weight in zip(logits.double().numpy(), LABELS.tolist(), weights.tolist(), strict=True):
        p = np.exp(row) / np.exp(row).sum()
        target = np.full(6, smoothing / 6)
        target[label] += 1 - smoothing
        expected += weight * (1 - p[label]) ** gamma * -(target * np.log(p)).sum() / len(logits)
    loss = classification_loss(logits, LABELS, smoothing, gamma, weights)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_focal_gradient_is_that_of_finite_differences(logits):
    point = logits.double().requires_grad_()

    def loss(x):  # classification_loss computes in float32: the same formula in float64
        p = x.softmax(1).gather(1, LABELS[:, None]).squeeze(1)
        return ((1 - p) ** 1.5 * F.cross_entropy(x, LABELS, reduction="none")).mean()

    assert torch.autograd.gradcheck(loss, point)
    (expected,) = torch.autograd.grad(loss(point), point)
    ours = logits.clone().requires_grad_()
    classification_loss(ours, LABELS, focal_gamma=1.5).backward()
    torch.testing.assert_close(ours.grad.double(), expected, atol=1e-6, rtol=1e-4)


def test_focal_stays_finite_on_a_sure_row():
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    classification_loss(logits, torch.tensor([0]), 0.05, 0.5).backward()
    assert logits.grad.isfinite().all()


def make_batch(rows, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "labels": rng.integers(3, size=rows),
        "languages": rng.integers(2, size=rows),
        "clusters": rng.integers(rows // 2, size=rows),
    }
    batch = {name: torch.from_numpy(values) for name, values in batch.items()}
    features = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
    return F.normalize(features, dim=1), batch


def expected_contrast(features, batch, temperature, mode):
    z = features.double().numpy()
    label, language, cluster = (batch[name].tolist() for name in ("labels", "languages", "clusters"))
    total = 0.0
    for i in range(len(z)):
        positives, counted = [], []
        for j in range(len(z)):
            if i == j:
                continue
            same_label, same_language = label[i] == label[j], language[i] == language[j]
            positive = {
                "label": same_label,
                "label_language": same_label and same_language,
                "cross_language": same_label and not same_language,
                "cluster": cluster[i] == cluster[j],
            }[mode]
            if positive:
                positives.append(j)
            if positive or not same_label:
                counted.append(j)
        if positives:
            log_total = math.log(sum(math.exp(z[i] @ z[a] / temperature) for a in counted))
            total -= sum(z[i] @ z[p] / temperature - log_total for p in positives) / len(positives)
    return total / len(z)


@pytest.mark.parametrize("mode", POSITIVES)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_contrast_follows_the_formula(mode, temperature):
    features, batch = make_batch(24)
    loss = contrastive_loss(features, batch, temperature, mode)
    assert float(loss) == pytest.approx(expected_contrast(features, batch, temperature, mode), rel=1e-5)


def test_contrast_by_label_equals_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    features, batch = make_batch(24)
    batch["labels"][:24] = torch.arange(24) % 3  # every anchor has a positive
    theirs = losses.SupConLoss(temperature=0.05)(features, batch["labels"])
    assert float(contrastive_loss(features, batch, 0.05)) == pytest.approx(float(theirs), rel=1e-4)


@pytest.mark.parametrize("mode", POSITIVES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_contrast_is_finite_in_half_precision_at_a_low_temperature(mode, dtype):
    """Equal vectors reach exp(20); in a batch of one label an anchor has nothing to push off."""
    for seed in range(3):
        features, batch = make_batch(16, seed)
        features[1::2] = features[::2]
        if seed == 2:
            batch["labels"][:] = 0
        features = features.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = contrastive_loss(features, batch, 0.05, mode)
        loss.backward()
        assert loss.isfinite() and features.grad.isfinite().all()


def test_contrast_of_a_single_row_is_zero():
    features, batch = make_batch(2)
    one = {name: values[:1] for name, values in batch.items()}
    features = features[:1].requires_grad_()
    loss = contrastive_loss(features, one)
    loss.backward()
    assert loss.item() == 0 and (features.grad == 0).all()


class Ranks:
    """Two ranks in turn: `sum` adds what the other one puts in."""

    size = 2

    def __init__(self, rank, other):
        self.rank, self.other = rank, other

    def sum(self, tensor):
        return tensor + self.other


def test_rows_of_ranks_line_up_and_gradients_come_home():
    rows = torch.arange(10.0).view(5, 2)
    first, second = rows[:3].clone().requires_grad_(), rows[3:]
    other = torch.cat((torch.zeros(3, 2), second))
    whole = _Gather.apply(first, [3, 2], Ranks(0, other))
    assert torch.equal(whole, rows)
    # The other rank's gradient of our rows is 1, ours is 2
    world = Ranks(0, other)
    whole = _Gather.apply(first, [3, 2], world)
    world.other = torch.ones(5, 2)
    whole.backward(torch.full((5, 2), 2.0))
    assert torch.equal(first.grad, torch.full((3, 2), 3.0))


def test_teacher_loss_is_the_divergence_of_the_chosen_rows(logits):
    teacher, rows = logits.roll(1, 0), torch.tensor([True, False, True, True, False, False])
    p, q = teacher.double().softmax(1), logits.double().softmax(1)
    expected = ((p * (p / q).log()).sum(1) * rows).mean()
    assert float(teacher_loss(logits, teacher, rows)) == pytest.approx(float(expected), rel=1e-5)
    assert float(teacher_loss(logits, logits, rows)) == 0
