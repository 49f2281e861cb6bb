"""A mixture of experts that computes only what is routed, and the loss that keeps its experts in use.

N rows, E experts, k experts a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training_utils import ALONE, InputError, World


class Routing(NamedTuple):
    probabilities: Tensor  # (N, E) float32, with a gradient
    choices: Tensor  # (N, k) int64, the likeliest expert first


class MixtureOfExperts(nn.Module):
    """Each row goes through its `top_k` likeliest experts, weighted by their probabilities made to sum to 1.

    With `top_k` 1 that weight is always 1, and only `balance_loss` teaches the router.
    """

    def __init__(
        self, in_features: int, hidden_features: int, out_features: int, num_experts: int = 4, top_k: int = 2
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise InputError(f"top_k {top_k} must be between 1 and num_experts {num_experts}")
        self.top_k = top_k
        self.router = nn.Linear(in_features, num_experts)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(in_features, hidden_features), nn.GELU(), nn.Linear(hidden_features, out_features)
            )
            for _ in range(num_experts)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """(N, in_features) -> (N, out_features) float32, and where each row went."""
        with torch.autocast(x.device.type, enabled=False):  # near ties must not be decided by half precision
            probabilities = self.router(x.float()).softmax(-1)
        weights, choices = probabilities.topk(self.top_k)
        weights = weights / weights.sum(1, keepdim=True)

        order = choices.flatten().argsort(stable=True)  # (N * k), the (row, choice) pairs expert by expert
        counts = count_choices(choices, len(self.experts)).tolist()
        parts = x.index_select(0, order // self.top_k).split(counts)
        # An expert without a row gets an empty part, and so gradients of zero, which DDP waits for.
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        outputs = outputs.index_select(0, order.argsort()).unflatten(0, choices.shape)  # (N, k, out_features)
        return (outputs * weights[:, :, None]).sum(1), Routing(probabilities, choices)


def count_choices(choices: Tensor, num_experts: int) -> Tensor:
    """(N, k) -> (E) int64 rows that each expert got."""
    return F.one_hot(choices.flatten(), num_experts).sum(0)


def global_choices(
    choices: Sequence[Tensor], num_experts: int, world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """`choices` of all micro-batches of a step -> (E) int64 counts and the number of rows, over all ranks.

    For exact gradients the counts must be known before any micro-batch's loss: a first pass without
    gradients collects the choices, a second one, from the same random state, computes the loss.
    """
    counts = torch.stack([count_choices(part, num_experts) for part in choices]).sum(0)
    counts = world.sum(counts)
    return counts, counts.sum() // choices[0].shape[1]


def balance_loss(probabilities: Tensor, counts: Tensor, rows: Tensor | int) -> Tensor:
    """This micro-batch's share of E * sum_i f_i p_i, which is 1 where the experts are used alike.

    f_i is expert i's share of all choices of the step, from the `counts` of `global_choices`: no gradient;
    p_i is its mean probability over the `rows` of the step (Qiu et al. 2025, arXiv 2501.11873). The sum over
    all micro-batches of all ranks is the loss of the whole batch, of parts of any size, and so is its
    gradient: add, do not average, and under DDP, which averages, multiply by the number of ranks.
    """
    shares = counts / counts.sum()
    return len(counts) * (shares * probabilities.float().sum(0)).sum() / rows
