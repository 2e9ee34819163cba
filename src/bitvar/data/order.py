"""The order of samples as a function: what step s trains on, for any number of ranks and workers, with nothing to save.

Samples come in buckets (one shape of image each), so that a batch has one shape. Every bucket is an endless stream:
a new permutation of its samples every epoch. A batch is a piece of one bucket's stream; batches of an epoch are mixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt64
from numpy import ndarray

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class StepSamples:
    """The samples of one step, before ranks share them.

    Attributes:
        bucket: which all of them are of.
        samples: their numbers in the bucket.
        first_index: how many samples the run has drawn before: with it every draw of a sample has a name of its own.
    """

    bucket: int
    samples: Int64[ndarray, " n"]
    first_index: int


@dataclass(frozen=True)
class SampleOrder:
    """A function from step to samples.

    Attributes:
        counts: samples of each bucket.
        batch_size: samples a step.
        seed: of every permutation.

    Over the whole run each bucket's stream is used from its beginning and without a gap, so a sample is seen again only
    when all of its bucket have been seen as often, but for the steps that an epoch's mixing brings forward.
    """

    counts: tuple[int, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) <= 0 or self.batch_size <= 0:
            raise ValueError(f"every bucket needs a sample, got {self.counts} and batches of {self.batch_size}")

    def at(self, step: int) -> StepSamples:
        """The samples of a step, counted from 0. Takes the same time for any step and any number of samples."""
        epoch = self._epoch_of(step)
        before, after = self._batches_before(epoch), self._batches_before(epoch + 1)
        slots = after - before
        slot = step - int(before.sum())
        if len(self.counts) > 1:  # one bucket alone is mixed already
            slot = int(permute(np.array([slot]), int(slots.sum()), self._key(1 << 32, epoch))[0])
        ends = np.cumsum(slots)
        bucket = int(np.searchsorted(ends, slot, side="right"))
        batch = int(before[bucket]) + slot - int(ends[bucket] - slots[bucket])
        places = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        return StepSamples(bucket, self._stream(bucket, places), step * self.batch_size)

    def epoch(self, step: int) -> float:
        """How often the set has been gone through before a step."""
        return step * self.batch_size / sum(self.counts)

    def _stream(self, bucket: int, places: Int64[ndarray, " n"]) -> Int64[ndarray, " n"]:
        count = self.counts[bucket]
        epochs, within = np.divmod(places, count)
        samples = np.empty_like(places)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            samples[now] = permute(within[now], count, self._key(bucket, int(epoch)))
        return samples

    def _batches_before(self, epoch: int) -> Int64[ndarray, " buckets"]:
        """Whole batches that each bucket's first `epoch` epochs fill."""
        return np.array([epoch * count // self.batch_size for count in self.counts], dtype=np.int64)

    def _epoch_of(self, step: int) -> int:
        """The epoch whose batches hold `step`: the last one that begins no later."""
        epoch = step * self.batch_size // sum(self.counts)
        while int(self._batches_before(epoch + 1).sum()) <= step:
            epoch += 1
        return epoch

    def _key(self, stream: int, epoch: int) -> int:
        return int(np.random.SeedSequence([self.seed, stream, epoch]).generate_state(1, np.uint64)[0])


def share(samples: Sequence[int] | Int64[ndarray, " n"], rank: int, ranks: int) -> slice:
    """Where a rank's equal part of a batch lies: ranks in order, so that any number of them make the same batch."""
    part, rest = divmod(len(samples), ranks)
    if rest:
        raise ValueError(f"{len(samples)} samples can't be shared equally by {ranks} ranks")
    return slice(rank * part, (rank + 1) * part)


def permute(index: Int64[ndarray, " n"], count: int, key: int) -> Int64[ndarray, " n"]:
    """Where a pseudo-random permutation of `0 .. count - 1` sends some numbers, without making the whole of it.

    A Feistel network over the next even power of two, walked again while the number it gives is out of range (Black and
    Rogaway, 2002).

    Args:
        index: numbers below `count`.
        count: how many there are, up to 2^62.
        key: 64 bits that name the permutation.
    """
    half = np.uint64(max(1, (max(count - 1, 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    numbers = _feistel(index.astype(np.uint64), half, keys)
    while (outside := numbers >= count).any():
        numbers[outside] = _feistel(numbers[outside], half, keys)
    return numbers.astype(np.int64)


def _feistel(numbers: UInt64[ndarray, " n"], half: np.uint64, keys: UInt64[ndarray, " r"]) -> UInt64[ndarray, " n"]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(x: UInt64[ndarray, " n"]) -> UInt64[ndarray, " n"]:
    """Every bit of the result depends on every bit given: the finaliser of SplitMix64 (Steele et al., 2014)."""
    x = x + _GOLDEN  # arrays of unsigned integers wrap around, as they must
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
