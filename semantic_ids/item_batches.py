"""Which items a step takes, and the noise on them: functions of (seed, epoch), not of how a run was cut.

B rows of a micro-batch, E numbers of an embedding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training_utils import World

NOISE_BLOCK = 1024  # places of an epoch


class ItemBatch(NamedTuple):
    rows: Tensor  # (B,) this rank's
    weight: int  # of them that count
    global_rows: int  # of all ranks
    first: int  # place of the first of these in the epoch


def split_items(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows for training and validation. With a share of 0, or too few items, all rows are both."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = int(share * count)
    if held_out == 0:
        return order, order.sort().values
    return order[held_out:], order[:held_out].sort().values


def epoch_batches(
    rows: Tensor, batch_size: int, seed: int, epoch: int, start: int, world: World
) -> Iterator[ItemBatch]:
    """This rank's share of the epoch's micro-batches of `batch_size` rows over all ranks, from `start` on.

    A rank that a short last batch leaves empty-handed takes a row with weight 0, to stay in step.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rows[torch.from_numpy(generator.permutation(len(rows)))]
    for number, batch in list(enumerate(order.split(batch_size)))[start:]:
        own = batch[world.rank :: world.size]
        yield ItemBatch(own if len(own) else batch[:1], len(own), len(batch), number * batch_size)


def epoch_noise(
    batch: ItemBatch, width: int, seed: int, epoch: int, world: World, device: torch.device
) -> Tensor:
    """(B, E) standard normal numbers for this rank's rows. A row's noise depends on its place in the epoch
    alone, and so not on how micro-batches, ranks and resumed runs share it: it is drawn in blocks of places.
    """
    generator, blocks = torch.Generator(device), []
    for block in range(batch.first // NOISE_BLOCK, -(-(batch.first + batch.global_rows) // NOISE_BLOCK)):
        state = np.random.SeedSequence([seed, epoch, block]).generate_state(1, np.uint64)
        generator.manual_seed(int(state[0]) >> 1)
        blocks.append(torch.randn(NOISE_BLOCK, width, generator=generator, device=device))
    start = batch.first % NOISE_BLOCK
    noise = torch.cat(blocks)[start : start + batch.global_rows]
    own = noise[world.rank :: world.size]
    return own if len(own) else noise[:1]
