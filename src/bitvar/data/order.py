"""The order of training samples as a pure function of the step, for any number of ranks and workers.

It has no state to save. Samples lie in buckets of one image shape each, so that a batch has one shape. Every bucket is
an endless stream: a new permutation of its samples in each epoch. A batch is a piece of one bucket's stream, and the
batches of an epoch are shuffled across buckets.
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
    """The samples of one step, before they are divided among ranks.

    Attributes:
        bucket: Index of the bucket that all of them come from.
        samples: Indices of the samples in the bucket.
        first_index: Number of samples that the run has drawn before. Counting on from it gives every draw of the run
            a unique index.
    """

    bucket: int
    samples: Int64[ndarray, " n"]
    first_index: int


@dataclass(frozen=True)
class SampleOrder:
    """A function from the step to its samples.

    Attributes:
        counts: Number of samples in each bucket.
        batch_size: Number of samples per step.
        seed: Seed of every permutation.

    Over a whole run, each bucket's stream is used from its beginning without a gap. A sample is therefore repeated only
    after all others of its bucket, apart from steps that the shuffling within an epoch moves forward.
    """

    counts: tuple[int, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) <= 0 or self.batch_size <= 0:
            raise ValueError(
                f"buckets and batches must not be empty, got {self.counts} and batches of {self.batch_size}"
            )

    def at(self, step: int) -> StepSamples:
        """Return the samples of a step, counted from 0. The time it takes depends on neither step nor data set size."""
        epoch = self._epoch_of(step)
        before, after = self._batches_before(epoch), self._batches_before(epoch + 1)
        slots = after - before
        slot = step - int(before.sum())
        if len(self.counts) > 1:  # a single bucket is shuffled already
            slot = int(permute(np.array([slot]), int(slots.sum()), self._key(1 << 32, epoch))[0])
        ends = np.cumsum(slots)
        bucket = int(np.searchsorted(ends, slot, side="right"))
        batch = int(before[bucket]) + slot - int(ends[bucket] - slots[bucket])
        positions = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        return StepSamples(bucket, self._stream(bucket, positions), step * self.batch_size)

    def epoch(self, step: int) -> float:
        """Return the number of passes over the data set before a step."""
        return step * self.batch_size / sum(self.counts)

    def _stream(self, bucket: int, positions: Int64[ndarray, " n"]) -> Int64[ndarray, " n"]:
        count = self.counts[bucket]
        epochs, within = np.divmod(positions, count)
        samples = np.empty_like(positions)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            samples[now] = permute(within[now], count, self._key(bucket, int(epoch)))
        return samples

    def _batches_before(self, epoch: int) -> Int64[ndarray, " buckets"]:
        """Return the number of whole batches in the first `epoch` epochs of each bucket."""
        return np.array([epoch * count // self.batch_size for count in self.counts], dtype=np.int64)

    def _epoch_of(self, step: int) -> int:
        """Return the epoch of a step: the last one that begins no later."""
        epoch = step * self.batch_size // sum(self.counts)
        while int(self._batches_before(epoch + 1).sum()) <= step:
            epoch += 1
        return epoch

    def _key(self, stream: int, epoch: int) -> int:
        return int(np.random.SeedSequence([self.seed, stream, epoch]).generate_state(1, np.uint64)[0])


def share(samples: Sequence[int] | Int64[ndarray, " n"], rank: int, num_ranks: int) -> slice:
    """Return a rank's slice of a batch. Slices are equal and in rank order, so any number gives the same batch."""
    size, rest = divmod(len(samples), num_ranks)
    if rest:
        raise ValueError(f"{len(samples)} samples can't be divided equally among {num_ranks} ranks")
    return slice(rank * size, (rank + 1) * size)


def permute(index: Int64[ndarray, " n"], count: int, key: int) -> Int64[ndarray, " n"]:
    """Map numbers through a pseudo-random permutation of `0 .. count - 1` without building the whole permutation.

    The permutation is a Feistel network over the next even power of two, applied again while the result is out of range
    (cycle walking; Black and Rogaway, 2002).

    Args:
        index: Numbers from 0 to `count - 1`.
        count: Size of the permutation, at most 2^62.
        key: 64-bit key of the permutation.
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
    """Make every output bit depend on every input bit, by the finaliser of SplitMix64 (Steele et al., 2014)."""
    x = x + _GOLDEN  # unsigned arrays wrap around, as intended
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
