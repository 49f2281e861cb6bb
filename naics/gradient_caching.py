"""A step's gradients: codes and queries are encoded once, and every loss is taken on their points.

A step has two halves, so that its size is bound neither by memory nor by a process (gradient caching, Gao et
al. 2021, arXiv 2101.06983). First all points: each rank encodes its share, in chunks of `token_budget`
tokens, and the shares are put together. The losses, on all points, give the gradient of every point. Then
each rank takes those of its own back through the encoder (a step of one chunk keeps its graph, of several is
encoded again from the same random state), and the ranks add up their gradients: what one process would find.

N rows, d dimensions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from naics.data.curriculum import TripletBatch
from naics.data.texts import Queries
from naics.data.tokenization_cache import Tokens, concatenate
from naics.model.encoder import as_query
from naics.model.moe import Routing, balance_loss, global_choices
from training_utils import autocast

if TYPE_CHECKING:
    from naics.training import Run


def own_chunks(run: Run, channels: list[Tokens]) -> list[np.ndarray]:
    """This rank's rows of a step, cut into chunks of like length and `token_budget` tokens at most."""
    lengths = sum(tokens.lengths for tokens in channels)
    order = np.argsort(lengths, kind="stable")[run.world.rank :: run.world.size]
    chunk = np.cumsum(lengths[order]) // run.config.model.token_budget
    return np.split(order, np.flatnonzero(np.diff(chunk)) + 1)


def encode_rows(run: Run, channels: list[Tokens], rows: np.ndarray) -> tuple[Tensor, Routing | None]:
    with autocast(run.device, run.amp, run.amp_dtype):
        return run.model.encoder([tokens.take(rows) for tokens in channels])


@torch.no_grad()
def encode_points(run: Run, channels: list[Tokens]) -> tuple[Tensor, Tensor | None]:
    """(N, d) points of all rows and (N, experts) router probabilities, as evaluation sees them."""
    run.model.eval()
    chunks = own_chunks(run, channels)
    outputs = [encode_rows(run, channels, rows) for rows in chunks]
    run.model.train()
    rows = len(channels[0])
    points = gather(run, chunks, [points for points, _ in outputs], rows)
    if not run.config.model.moe.enabled:
        return points, None
    return points, gather(run, chunks, [routing.probabilities for _, routing in outputs], rows)


def initial_points(run: Run) -> None:
    """Where all codes are before the first step."""
    everything = np.arange(len(run.texts.corpus.taxonomy))
    run.model.points.copy_(encode_points(run, run.texts.channels(everything))[0])


def backward(run: Run, triplets: TripletBatch, queries: Queries) -> dict[str, float]:
    """Gradients of a step's loss on every rank; returns the loss and its terms."""
    model, moe = run.model, run.config.model.moe
    named = [triplets.anchors, triplets.positives, triplets.negatives.ravel(), queries.targets]
    codes = np.unique(np.concatenate(named))
    of_codes = run.texts.channels(codes, without=queries.entries[queries.entries >= 0])
    channels = [concatenate(pair) for pair in zip(of_codes, as_query(queries.tokens), strict=True)]

    # First half: the points of all rows
    chunks = own_chunks(run, channels)
    states, outputs = [], []
    with torch.set_grad_enabled(len(chunks) == 1):
        for rows in chunks:
            states.append(random_state(run.device))
            outputs.append(encode_rows(run, channels, rows))
    points = gather(run, chunks, [points for points, _ in outputs], len(channels[0])).requires_grad_()
    probabilities, choices = None, None
    if moe.enabled:
        own = [routing.probabilities for _, routing in outputs]
        probabilities = gather(run, chunks, own, len(points)).requires_grad_()
        choices = global_choices([routing.choices for _, routing in outputs], moe.num_experts, run.world)

    # The losses, alike on all ranks
    index = torch.from_numpy(codes).to(run.device)
    terms = run.objective(model, index, points[: len(codes)], triplets, points[len(codes) :], queries)
    loss = run.objective.total(terms)
    if moe.enabled:
        terms["balance"] = balance_loss(probabilities, *choices)
        loss = loss + moe.load_balancing_coef * terms["balance"]
    if math.isfinite(loss.item()):
        run.scaler.scale(loss).backward()

        # Second half: back through the encoder
        for rows, state, output in zip(chunks, states, outputs, strict=True):
            if len(chunks) > 1:
                set_random_state(run.device, state)
                output = encode_rows(run, channels, rows)
            own = torch.from_numpy(rows).to(run.device)
            pairs = [(output[0], points.grad[own])]
            pairs += [(output[1].probabilities, probabilities.grad[own])] if moe.enabled else []
            torch.autograd.backward(*zip(*pairs, strict=True))
        add_up_gradients(run)
        model.points.index_copy_(0, index, points[: len(codes)].detach())
    return {"loss": loss.item(), **{name: value.item() for name, value in terms.items()}}


def gather(run: Run, chunks: list[np.ndarray], parts: list[Tensor], rows: int) -> Tensor:
    """(rows, F) float32: every rank's parts in their places."""
    whole = torch.zeros(rows, parts[0].shape[1], device=run.device)
    for chunk, part in zip(chunks, parts, strict=True):
        whole[torch.from_numpy(chunk).to(run.device)] = part.detach().float()
    return run.world.sum(whole)


def add_up_gradients(run: Run) -> None:
    """The encoder's gradients are shares of the whole; those of the losses' own scales are alike already."""
    if run.world.size == 1:
        return
    for parameter in run.model.encoder.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            run.world.sum(parameter.grad)


def random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)
