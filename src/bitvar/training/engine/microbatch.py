"""What one rank computes at once, and the random numbers that go with it.

Every draw is a function of (seed, place of the sample in the run, purpose), or of (seed, step) where a whole batch
shares it. So a restarted run, another number of ranks and smaller pieces of a batch all make the very same draws.
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
    """What a draw is for; each has numbers of its own."""

    SHARED = 0
    CAPTION = 1
    DROPOUT = 2
    FLIP = 3
    WEIGHTS = 4
    ADAPTER = 5
    CROP = 6


@dataclass(frozen=True)
class MicroBatch:
    """Samples of one step that one rank passes through the model together.

    Attributes:
        step: counted from 0.
        bucket: which all samples are of.
        samples: their numbers in the bucket.
        first_index: place in the run of the first; the others follow.
        seed: of the run.
    """

    step: int
    bucket: int
    samples: Int[Tensor, " b"]
    first_index: int
    seed: int

    def __len__(self) -> int:
        return len(self.samples)

    def generators(self, purpose: Purpose) -> list[torch.Generator]:
        """A generator for each sample."""
        return [make_generator(self.seed, self.first_index + i, purpose) for i in range(len(self))]

    def shared_generator(self) -> torch.Generator:
        """The generator of what the whole batch shares, alike on every rank."""
        return make_generator(self.seed, self.step, Purpose.SHARED)


def micro_batches_of(
    order: SampleOrder, steps: range, *, rank: int = 0, ranks: int = 1, micro_batch_size: int | None = None
) -> Iterator[MicroBatch]:
    """A rank's parts of some steps, in order.

    Args:
        order: of the whole run.
        steps: which to make.
        rank, ranks: whose part.
        micro_batch_size: samples that go through the model at once; all of the rank's if None.
    """
    for step in steps:
        drawn = order.at(step)
        mine = share(drawn.samples, rank, ranks)
        size = micro_batch_size or mine.stop - mine.start
        for start in range(mine.start, mine.stop, size):
            samples = torch.from_numpy(drawn.samples[start : min(start + size, mine.stop)])
            yield MicroBatch(step, drawn.bucket, samples, drawn.first_index + start, order.seed)


def micro_batches_in_order(
    counts: Sequence[int], *, rank: int, ranks: int, size: int
) -> tuple[list[MicroBatch], list[int]]:
    """A rank's parts of all samples, in order, and how many of each count: one without work repeats what counts not."""
    parts, counted = [], []
    for bucket, count in enumerate(counts):
        for chunk in torch.arange(count).split(size * ranks):
            mine = chunk.tensor_split(ranks)[rank]
            counted.append(len(mine))
            parts.append(MicroBatch(0, bucket, mine if len(mine) else chunk[:1], 0, 0))
    return parts, counted


def make_generator(seed: int, number: int, purpose: Purpose) -> torch.Generator:
    """A generator on the CPU, the same on every machine."""
    word = np.random.SeedSequence([seed, number, purpose]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def draw_uniform(generators: Sequence[torch.Generator], *shape: int) -> Float[Tensor, "b ..."]:
    """Uniform numbers in [0, 1) of one shape, each sample's from its own generator."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])
