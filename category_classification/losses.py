"""Training losses: cross-entropy with label smoothing and focal weighting, supervised contrast, and the
pull towards a teacher.

All are means over the rows of a micro-batch, in float32, so that train_one_epoch can weight micro-batches by
their rows.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training_utils import ALONE, World

POSITIVES = ("label", "label_language", "cross_language", "cluster")


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    row_weights: Tensor | None = None,
) -> Tensor:
    """(B, C), (B) [, (B)] -> mean over rows of weight * (1 - p_label)^gamma * smoothed cross-entropy.

    Focal weighting is Lin et al. 2017 (arXiv 1708.02002, eq. 4), the gradient running through the factor as
    well; smoothing is Szegedy et al. 2016 (arXiv 1512.00567, section 7). With gamma 0 this is
    F.cross_entropy to the bit. The two work against each other: at the smoothed optimum of six classes and
    smoothing 0.05, p_label is 0.958, and gamma 1.5 scales the row's loss by 0.0085: on easy rows focal
    weighting switches smoothing off. Use one of them.
    """
    logits = logits.float()
    if focal_gamma == 0 and row_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    losses = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    if focal_gamma:
        p_label = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
        # Not below 0: at p = 1 the derivative of (1 - p)^gamma has no value for gamma < 1.
        losses = losses * (1 - p_label).clamp(min=1e-6) ** focal_gamma
    return (losses if row_weights is None else losses * row_weights).mean()


def contrastive_loss(
    features: Tensor,
    batch: dict[str, Any],
    temperature: float = 0.05,
    positives: str = "label",
    world: World = ALONE,
) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, eq. 2) of unit vectors (B, P).

    L_i = -1/|P_i| sum over p in P_i of log(exp(z_i z_p / t) / sum over a in A_i of exp(z_i z_a / t)), 0
    without a positive; the mean over all rows of the micro-batch. P_i and A_i reach over the micro-batches
    of all ranks. P_i by `positives`:

    - label: rows of the same label. A_i is every other row.
    - label_language: the same label in the same language.
    - cross_language: the same label in another language.
    - cluster: offers of the same product.

    In the last three the other rows of the same label are in neither P_i nor A_i: as negatives they would
    push apart what the classifier wants together. Its minimum is the mean log |P_i|, not 0.
    """
    # In float32: exp(1 / 0.05) overflows fp16.
    z, everyone, start = features.float(), _all_rows(features.float(), batch, world), _start(batch, world)
    labels, languages, clusters = (
        (batch[name][:, None], _all_rows(batch[name], batch, world))
        for name in ("labels", "languages", "clusters")
    )
    same_label, same_language = operator.eq(*labels), operator.eq(*languages)  # (B, N)
    is_positive = {
        "label": same_label,
        "label_language": same_label & same_language,
        "cross_language": same_label & ~same_language,
        "cluster": operator.eq(*clusters),
    }[positives]
    own, all_numbers = (torch.arange(n, device=z.device) for n in is_positive.shape)
    other = own[:, None] + start != all_numbers
    is_positive &= other
    counted = other & (is_positive | ~same_label)  # A_i
    with torch.autocast(z.device.type, enabled=False):
        similarity = z @ everyone.T / temperature
    # An anchor without a positive may have an empty A_i too: no infinity may meet its zero.
    lowest = torch.finfo(torch.float32).min
    log_total = similarity.masked_fill(~counted, lowest).logsumexp(1, keepdim=True)
    log_share = (similarity - log_total).masked_fill(~is_positive, 0.0)
    return (-log_share.sum(1) / is_positive.sum(1).clamp(min=1)).mean()


def _rows_of_rank(batch: dict[str, Any], world: World) -> list[int]:
    if world.size == 1:
        return [len(batch["labels"])]
    return [(batch["global_rows"] - rank + world.size - 1) // world.size for rank in range(world.size)]


def _start(batch: dict[str, Any], world: World) -> int:
    return sum(_rows_of_rank(batch, world)[: world.rank])


def _all_rows(values: Tensor, batch: dict[str, Any], world: World) -> Tensor:
    """(B, ...) -> (N, ...), the rows of all ranks in the order of ranks; gradients find their way back."""
    return values if world.size == 1 else _Gather.apply(values, _rows_of_rank(batch, world), world)


class _Gather(torch.autograd.Function):
    """A sum over ranks of rows that are zero elsewhere, which asks nothing of gloo or NCCL but all_reduce."""

    @staticmethod
    def forward(ctx, values: Tensor, counts: list[int], world: World) -> Tensor:
        start, count = sum(counts[: world.rank]), counts[world.rank]
        ctx.own, ctx.count, ctx.world = slice(start, start + count), count, world
        ctx.shape = values.shape
        gathered = values.new_zeros(sum(counts), *values.shape[1:])
        gathered[ctx.own] = values[:count]  # a rank in step without a row of its own gives none
        return world.sum(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        own = gradient.new_zeros(ctx.shape)
        own[: ctx.count] = ctx.world.sum(gradient.clone())[ctx.own]
        return own, None, None


def teacher_loss(logits: Tensor, teacher_logits: Tensor, rows: Tensor) -> Tensor:
    """KL(teacher || student) of the rows where `rows` (B) is True, over all B rows (Hinton et al. 2015)."""
    student, teacher = logits.float().log_softmax(1), teacher_logits.float().log_softmax(1)
    return (F.kl_div(student, teacher, reduction="none", log_target=True).sum(1) * rows).mean()
