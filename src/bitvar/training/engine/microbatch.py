"""Micro-batches, which one rank computes at once, and the random numbers that go with them.

Every draw is a function of (seed, index of the sample in the run, purpose), or of (seed, step) where a whole batch
shares it. A restarted run, another number of ranks and other micro-batches therefore make exactly the same draws.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitvar.data.order import SampleOrder, share


class Purpose(IntEnum):
    """The purpose of a random draw; each purpose has its own stream of numbers."""

    SHARED = 0
    CAPTION = 1
    DROPOUT = 2
    FLIP = 3
    WEIGHTS = 4
    ADAPTER = 5
    CROP = 6
    CONTROL = 7


@dataclass(frozen=True)
class MicroBatch:
    """Samples of one step that one rank passes through the model together.

    Attributes:
        step: Step of the run, counted from 0.
        bucket: Bucket that all samples belong to.
        samples: Indices of the samples within the bucket.
        first_index: Index in the run of the first sample; the others follow consecutively.
        seed: Seed of the run.
    """

    step: int
    bucket: int
    samples: Int[Tensor, " b"]
    first_index: int
    seed: int

    def __len__(self) -> int:
        return len(self.samples)

    def generators(self, purpose: Purpose) -> list[torch.Generator]:
        """Return one generator per sample."""
        return [make_generator(self.seed, self.first_index + i, purpose) for i in range(len(self))]

    def shared_generator(self) -> torch.Generator:
        """Return the generator for draws that the whole batch shares, the same on every rank."""
        return make_generator(self.seed, self.step, Purpose.SHARED)


def micro_batches_of(
    order: SampleOrder, steps: range, *, rank: int = 0, num_ranks: int = 1, micro_batch_size: int | None = None
) -> Iterator[MicroBatch]:
    """Yield one rank's micro-batches of some steps, in order.

    Args:
        order: Sample order of the whole run.
        steps: Steps to yield.
        rank: Rank of this process.
        num_ranks: Number of ranks.
        micro_batch_size: Samples that go through the model at once; None for the rank's whole share of a step.
    """
    for step in steps:
        drawn = order.at(step)
        mine = share(drawn.samples, rank, num_ranks)
        size = micro_batch_size or mine.stop - mine.start
        for start in range(mine.start, mine.stop, size):
            samples = torch.from_numpy(drawn.samples[start : min(start + size, mine.stop)])
            yield MicroBatch(step, drawn.bucket, samples, drawn.first_index + start, order.seed)


def micro_batches_in_order(
    counts: Sequence[int], *, rank: int, num_ranks: int, size: int
) -> tuple[list[MicroBatch], list[int]]:
    """Split all samples into micro-batches, in order, and return one rank's.

    Every rank gets equally many micro-batches, so that collectives stay aligned. A rank that runs out repeats a sample
    with count 0.

    Args:
        counts: Number of samples in each bucket.
        rank: Rank of this process.
        num_ranks: Number of ranks.
        size: Samples in a micro-batch.

    Returns:
        This rank's micro-batches, and the number of samples of each that count.
    """
    micro_batches, counted = [], []
    for bucket, count in enumerate(counts):
        for chunk in torch.arange(count).split(size * num_ranks):
            mine = chunk.tensor_split(num_ranks)[rank]
            counted.append(len(mine))
            micro_batches.append(MicroBatch(0, bucket, mine if len(mine) else chunk[:1], 0, 0))
    return micro_batches, counted


def make_generator(seed: int, number: int, purpose: Purpose) -> torch.Generator:
    """Return a CPU generator for (seed, number, purpose), the same on every machine."""
    word = np.random.SeedSequence([seed, number, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def draw_uniform(generators: Sequence[torch.Generator], *shape: int) -> Float[Tensor, "b ..."]:
    """Draw uniform numbers in [0, 1) of one shape, each sample's from its own generator."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])
