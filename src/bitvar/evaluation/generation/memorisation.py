"""The training image nearest to an image, in pixels: whether a model draws, or only remembers.

A drawing that is its artist's only one of a thing has to look like it, so distances mean something beside those of real
images of the same prompts. Knows no models and no prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.imaging.open import ImageLimits, require_image

ANY_SIZE: Final = ImageLimits(min_side=1, max_ratio=64.0)
"""What an image of a set may be that was made to be compared."""

SIDE: Final = 16
"""Images are compared at so many pixels a side: a copy that is shifted by a pixel or softer is still one."""

COPY: Final = 0.02
"""Root mean square difference, of a range of 1, below which the eye sees one image twice."""

_CHUNK: Final = 512


@dataclass(frozen=True)
class Neighbour:
    """An image and the training image that it is most like.

    Attributes:
        image: its place among the images.
        training: the place of the nearest among the training images.
        distance: root mean square difference of their thumbnails, 0 to 1.
    """

    image: int
    training: int
    distance: float


@dataclass(frozen=True)
class Closeness:
    """How near images come to the training images.

    Attributes:
        num_images: how many were looked at.
        median_distance: to the nearest training image.
        copies: share of images that are nearer than `COPY`.
    """

    num_images: int
    median_distance: float
    copies: float


def thumbnails(paths: Sequence[Path]) -> Float[Tensor, "n f"]:
    """Images of any size as flat vectors, each pixel of `SIDE` x `SIDE` a mean, 0 to 1."""
    rows = np.empty((len(paths), SIDE * SIDE * 3), dtype=np.float32)
    for row, path in zip(rows, paths, strict=True):
        image = require_image(path, ANY_SIZE, todo="make that image again, or build the icon set anew")
        row[:] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)
    return torch.from_numpy(rows / 255)


def find_neighbours(images: Float[Tensor, "n f"], training: Float[Tensor, "m f"]) -> list[Neighbour]:
    """The nearest training image of each image.

    Args:
        images, training: their `thumbnails`; at least one of each.
    """
    found = []
    lengths = training.square().sum(dim=1)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        nearest = (lengths - 2 * chunk @ training.T).argmin(dim=1)
        # the difference itself, since the expanded square loses all digits of a small one
        distances = (chunk - training[nearest]).square().mean(dim=1).sqrt()
        for i, (place, distance) in enumerate(zip(nearest.tolist(), distances.tolist(), strict=True)):
            found.append(Neighbour(start + i, place, distance))
    return found


def closeness(neighbours: Sequence[Neighbour]) -> Closeness:
    """Sum up neighbours, of which there must be one at least."""
    distances = [neighbour.distance for neighbour in neighbours]
    copies = sum(distance < COPY for distance in distances) / len(distances)
    return Closeness(len(distances), median(distances), copies)
