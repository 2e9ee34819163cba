"""Memorisation: the pixel distance to the nearest training image tells new images from copies.

If the training data vary little, even a new image is near a training image, so compare the distances with those of real
images of the same prompts.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.data.samples import Sample, read_samples
from bitvar.evaluation.benchmarks.base import GeneratedImage
from bitvar.evaluation.generation.metrics import MetricResult, short
from bitvar.evaluation.generation.sheet import Cell, SheetRow
from bitvar.imaging.open import ImageLimits, require_image

ANY_SIZE: Final = ImageLimits(min_side=1, max_ratio=64.0)
"""Limits of images that are shrunk for comparison."""

SIDE: Final = 16
"""Side, in pixels, at which images are compared, so that a shifted or blurred copy still counts as one."""

COPY: Final = 0.02
"""Root mean square difference, on a range of 1, below which two images look the same."""

_CHUNK: Final = 512
_PAIRS: Final = 4  # images on the sheet, each beside its nearest training image


@dataclass(frozen=True)
class Neighbour:
    """An image and its nearest training image.

    Attributes:
        image: Index of the image.
        training: Index of the nearest training image.
        distance: Root mean square difference of their thumbnails, 0 to 1.
    """

    image: int
    training: int
    distance: float


@dataclass(frozen=True)
class Closeness:
    """Summary of the distances to the nearest training images.

    Attributes:
        num_images: Number of images.
        median_distance: Median distance to the nearest training image.
        copies: Share of images that are nearer than `COPY`.
    """

    num_images: int
    median_distance: float
    copies: float


def thumbnails(paths: Sequence[Path]) -> Float[Tensor, "n f"]:
    """Shrink images of any size to flat vectors of `SIDE` x `SIDE` pixel means, 0 to 1."""
    rows = np.empty((len(paths), SIDE * SIDE * 3), dtype=np.float32)
    for row, path in zip(rows, paths, strict=True):
        image = require_image(path, ANY_SIZE, todo="make that image again, or restore the data set")
        row[:] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)
    return torch.from_numpy(rows / 255)


def find_neighbours(images: Float[Tensor, "n f"], training: Float[Tensor, "m f"]) -> list[Neighbour]:
    """Find the nearest training image of each image.

    Args:
        images, training: Thumbnails of both; at least one of each.
    """
    found = []
    norms = training.square().sum(dim=1)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        nearest = (norms - 2 * chunk @ training.T).argmin(dim=1)
        # the difference itself, since the expanded square loses all digits of a small one
        distances = (chunk - training[nearest]).square().mean(dim=1).sqrt()
        for i, (index, distance) in enumerate(zip(nearest.tolist(), distances.tolist(), strict=True)):
            found.append(Neighbour(start + i, index, distance))
    return found


def closeness(neighbours: Sequence[Neighbour]) -> Closeness:
    """Summarise the distances of one or more neighbours."""
    distances = [neighbour.distance for neighbour in neighbours]
    copies = sum(distance < COPY for distance in distances) / len(distances)
    return Closeness(len(distances), median(distances), copies)


class MemorisationMetric:
    """The nearest training image of every image, by split, with the nearest pairs on the sheet.

    Args:
        data: Captioned data set whose split "train" the models were trained on.
        held_out: Splits of the prompts that ask for something that training never shows.
    """

    name: str = "memorisation"

    def __init__(self, data: Path, *, held_out: Collection[str] = ()) -> None:
        self.data, self.held_out = data, held_out
        self._training: tuple[list[Sample], Float[Tensor, "m f"]] | None = None

    def __call__(self, images: Sequence[GeneratedImage]) -> MetricResult:
        if self._training is None:
            samples = read_samples(self.data, split="train")
            self._training = samples, thumbnails([sample.path for sample in samples])
        samples, training = self._training
        neighbours = find_neighbours(thumbnails([image.path for image in images]), training)
        values: dict[str, Any] = {"training_images": len(samples)}
        for split in dict.fromkeys(image.prompt.split for image in images):
            found = closeness([near for near in neighbours if images[near.image].prompt.split == split])
            values[split] = {key: short(value) for key, value in asdict(found).items()}
        # a copy where the prompt asks for something new is the worst case
        unseen = [near for near in neighbours if images[near.image].prompt.split in self.held_out]
        nearest = sorted(unseen or neighbours, key=lambda near: near.distance)[:_PAIRS]
        cells = [cell for near in nearest for cell in _pair(images[near.image], samples[near.training], near)]
        return MetricResult(values, [SheetRow("nearest training images of held-out prompts", cells)])


def _pair(image: GeneratedImage, sample: Sample, near: Neighbour) -> list[Cell]:
    training = require_image(sample.path, ANY_SIZE, todo="restore the data set")
    split = image.prompt.split.replace("_", " ")
    return [
        Cell(Image.fromarray(image.open()), image.prompt.text, f"{split}, generated"),
        Cell(training, sample.captions[0], f"in training, at {near.distance:.3f}"),
    ]
