"""The Frechet distance of a candidate's images to a split of a captioned data set."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import GeneratedImage
from bitvar.evaluation.generation.metrics import MetricResult, short
from bitvar.evaluation.reconstruction.images import ImageStream, open_record
from bitvar.imaging.batches import in_batches
from bitvar.imaging.open import ImageLimits, RefusedError
from bitvar.metrics.frechet import FeatureNetwork, Moments, frechet_distance

_BATCH: Final = 32


class FrechetMetric:
    """The Frechet distance to the real images of a data set's split.

    Args:
        network: Feature network.
        data: Captioned data set.
        device: Device of the network.
        split: Split with the real images.
    """

    name: str = "frechet"

    def __init__(self, network: FeatureNetwork, data: Path, device: torch.device | str, *, split: str = "val") -> None:
        self.network, self.data, self.device, self.split = network, data, device, split
        self._real: Moments | None = None

    def __call__(self, images: Sequence[GeneratedImage]) -> MetricResult:
        if self._real is None:
            self._real = self._moments(self._real_images())
        generated = self._moments(image.open() for image in images)
        distance = frechet_distance(self._real, generated) if generated.count > 1 else None
        values = {
            "distance": None if distance is None else short(distance),
            "images": generated.count,
            "real_images": self._real.count,
            "network": self.network.title,
        }
        return MetricResult(values)

    def _real_images(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for record in ImageStream([self.data], split=self.split):
            try:
                yield np.asarray(open_record(record, ImageLimits(min_side=8)))
            except RefusedError as error:
                raise UsageError(f"Can't read {record.name}.", str(error), "restore the data set") from None

    @torch.inference_mode()
    def _moments(self, stream: Iterator[UInt8[np.ndarray, "H W 3"]]) -> Moments:
        moments = Moments(self.network.width)
        for images in in_batches(stream, _BATCH):
            moments.add(self.network(images.to(self.device)))
        return moments
