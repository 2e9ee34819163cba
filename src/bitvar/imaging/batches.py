"""Batches of images for networks. Knows no files, no prompts and no networks."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitvar.imaging.pixels import to_signed


def as_tensor(images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> Float[Tensor, "b 3 H W"]:
    """Convert images of one size from 0..255 to a tensor in [-1, 1]."""
    return to_signed(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))


def in_batches(images: Iterable[UInt8[np.ndarray, "H W 3"]], batch_size: int) -> Iterator[Float[Tensor, "_ 3 H W"]]:
    """Batch images in order, in [-1, 1]: at most `batch_size` together, and only neighbours of one size."""
    rest = iter(images)
    while chunk := list(islice(rest, batch_size)):
        for _, alike in groupby(chunk, key=lambda image: image.shape):
            yield as_tensor(list(alike))
