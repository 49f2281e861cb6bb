"""Losses on distances. All are means over rows, in float32 (float64 for float64).

B anchors, K negatives, N x M pairs, Q queries. A logit is -scale * distance;
`scale` may be learned. Entries that a mask leaves out (False) get no gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def _full(distances: Tensor) -> Tensor:
    return distances if distances.dtype == torch.float64 else distances.float()


def _logits(distances: Tensor, scale: float | Tensor, counted: Tensor | None = None) -> Tensor:
    logits = -scale * _full(distances)
    if counted is None:
        return logits
    # Not -inf: a row without any entry must be a zero, not a NaN.
    return logits.masked_fill(~counted, torch.finfo(logits.dtype).min)


def info_nce(
    positive: Tensor, negatives: Tensor, temperature: float | Tensor, mask: Tensor | None = None
) -> Tensor:
    """(B), (B, K) distances -> -log of the positive's share in softmax(-d / temperature) over itself and the
    negatives; `mask` (B, K) is True for negatives that count.
    """
    counted = None if mask is None else torch.cat((torch.ones_like(mask[:, :1]), mask), dim=1)
    logits = _logits(torch.cat((positive[:, None], negatives), dim=1), 1 / temperature, counted)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def listwise_loss(
    distances: Tensor,
    target_distances: Tensor,
    scale: float | Tensor,
    target_scale: float,
    mask: Tensor,
) -> Tensor:
    """KL divergence of softmax(-scale * d) from softmax(-target_scale * D*), each over a row of (N, M).

    It is the cross-entropy less what no d can change: 0 at best. `mask` (N, M) leaves out what is not to be
    ranked, first of all the code itself.
    """
    learned = _logits(distances, scale, mask).log_softmax(1)
    target = _logits(target_distances.to(learned.dtype), target_scale, mask).log_softmax(1)
    return F.kl_div(learned, target, reduction="none", log_target=True).sum(1).mean()


def stress_loss(distances: Tensor, targets: Tensor) -> Tensor:
    """The square of Kruskal's stress (1964, Psychometrika 29): the sum of (a * d - D*)^2 over that of D*^2.

    It is taken over the pairs with a target D* > 0, a being the best scale for them.
    """
    distances = _full(distances).masked_fill(targets <= 0, 0)
    targets = targets.to(distances.dtype)
    with torch.no_grad():  # at the best scale the loss has no slope in it
        scale = (distances * targets).sum() / distances.square().sum()
    return (scale * distances - targets).square().sum() / targets.square().sum()


def query_loss(
    distances: Tensor, target: Tensor, scale: float | Tensor, hard_negative: Tensor | None = None
) -> Tensor:
    """(Q, M) distances of queries to all codes, (Q) right columns -> cross-entropy of softmax(-scale * d).

    For an activity that a cross-reference sends elsewhere, `hard_negative` (Q) is the referring code (-1:
    none). It adds log(1 + exp(scale * (d_target - d_referring))), which is -log of the chance that of the
    two the destination is chosen: as one of M codes the referring one would hardly count.
    """
    logits = _logits(distances, scale)
    loss = F.cross_entropy(logits, target)
    if hard_negative is None:
        return loss
    columns = torch.stack((target, hard_negative.clamp(min=0)), dim=1)
    right, wrong = logits.gather(1, columns).unbind(1)
    return loss + (F.softplus(wrong - right) * (hard_negative >= 0)).mean()
