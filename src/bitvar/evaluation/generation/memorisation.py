"""The training picture nearest to a picture, in pixels: whether a model draws, or only remembers.

A drawing that is its artist's only one of a thing has to look like it, so distances mean something beside those of real
pictures of the same prompts. Knows no models and no prompts.
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

from bitvar.imaging.open import PictureLimits, require_picture

ANY_SIZE: Final = PictureLimits(min_side=1, max_ratio=64.0)
"""What a picture of a set may be that was made to be compared."""

SIDE: Final = 16
"""Pictures are compared at so many pixels a side: a copy that is shifted by a pixel or softer is still one."""

COPY: Final = 0.02
"""Root mean square difference, of a range of 1, below which the eye sees one picture twice."""

_CHUNK: Final = 512


@dataclass(frozen=True)
class Neighbour:
    """A picture and the training picture that it is most like.

    Attributes:
        picture: its place among the pictures.
        training: the place of the nearest among the training pictures.
        distance: root mean square difference of their thumbnails, 0 to 1.
    """

    picture: int
    training: int
    distance: float


@dataclass(frozen=True)
class Closeness:
    """How near pictures come to the training pictures.

    Attributes:
        num_pictures: how many were looked at.
        median_distance: to the nearest training picture.
        copies: share of pictures that are nearer than `COPY`.
    """

    num_pictures: int
    median_distance: float
    copies: float


def thumbnails(paths: Sequence[Path]) -> Float[Tensor, "n f"]:
    """Pictures of any size as flat vectors, each pixel of `SIDE` x `SIDE` a mean, 0 to 1."""
    rows = np.empty((len(paths), SIDE * SIDE * 3), dtype=np.float32)
    for row, path in zip(rows, paths, strict=True):
        picture = require_picture(path, ANY_SIZE, todo="make that picture again, or build the icon set anew")
        row[:] = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)
    return torch.from_numpy(rows / 255)


def find_neighbours(pictures: Float[Tensor, "n f"], training: Float[Tensor, "m f"]) -> list[Neighbour]:
    """The nearest training picture of each picture.

    Args:
        pictures, training: their `thumbnails`; at least one of each.
    """
    found = []
    lengths = training.square().sum(dim=1)
    for start in range(0, len(pictures), _CHUNK):
        chunk = pictures[start : start + _CHUNK]
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
