"""The only randomness of sampling: uniform numbers that are a pure function of an image's seed and a scale.

A counter-based generator (Philox 4x64-10; Salmon et al., SC 2011) whose key is the pair (seed, scale). So every one of
a seed's 63 bits counts, an image's numbers depend on no other image, and a scale's numbers on no other scale. The raw
words of NumPy's bit generators are stable from version to version, its floating-point methods are not promised to be:
the step from words to numbers is therefore made here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.sampling.params import MAX_SEED


def uniform_noise(seed: int, scale: int, shape: Sequence[int]) -> Float[Tensor, "..."]:
    """Make fp32 numbers in [0, 1), each a multiple of 2^-24, on the CPU.

    Args:
        seed: Seed of the image, from 0 to 2^63 - 1.
        scale: Index of the scale, from 0.
        shape: Shape of the result; a longer one begins with the numbers of a shorter one.
    """
    assert 0 <= seed <= MAX_SEED and scale >= 0, "seeds are checked where they enter"
    count = int(np.prod(shape, dtype=np.int64))
    generator = np.random.Philox(key=np.array([seed, scale], dtype=np.uint64))
    words = generator.random_raw(-(-count // 2)).astype("<u8").view("<u4")[:count]  # low half first
    numbers = (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(numbers.reshape(tuple(shape)))


def batch_noise(seeds: Sequence[int], scale: int, shape: Sequence[int], device: torch.device) -> Float[Tensor, "b ..."]:
    """Make the numbers of several images, and send them to a device without waiting for its earlier work.

    Args:
        seeds: Seed of each image.
        scale: Index of the scale, from 0.
        shape: Shape of one image's numbers.
        device: Device that draws the bits.
    """
    noise = torch.stack([uniform_noise(seed, scale, shape) for seed in seeds])
    if device.type != "cuda":
        return noise.to(device)
    return noise.pin_memory().to(device, non_blocking=True)  # only page-locked memory is copied asynchronously
