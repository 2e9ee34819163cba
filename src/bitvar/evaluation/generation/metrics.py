"""Figures of a contender's images beside its verdicts: each measure is one object. The Frechet distance is here.

The others are in `comparisons`; a new one goes into a file of its own and into `cli/scenes.py`. It knows no verdicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8

from bitvar.errors import UsageError
from bitvar.evaluation.generation.images import Shown
from bitvar.evaluation.generation.sheet import SheetRow
from bitvar.evaluation.reconstruction.images import ImageStream, open_entry
from bitvar.imaging.batches import in_batches
from bitvar.imaging.open import ImageLimits, RefusedError
from bitvar.metrics.frechet import FeatureNetwork, Moments, frechet_distance

_AT_ONCE: Final = 32


@dataclass(frozen=True)
class Finding:
    """What a measure found.

    Attributes:
        figures: for the report, plain numbers and texts.
        rows: for the sheet.
    """

    figures: Mapping[str, Any]
    rows: Sequence[SheetRow] = field(default_factory=tuple)


@runtime_checkable
class Measure(Protocol):
    """Something to measure of every contender whose images are its own: not the floor, nor the shuffled prompts."""

    name: str
    """Its key in the report."""

    def __call__(self, shown: Sequence[Shown]) -> Finding:
        """Of a contender's images, each with its prompt and the number of its seed."""
        ...


class FrechetMeasure:
    """The Frechet distance to the icon set's validation split.

    Args:
        network: gives features.
        data: the icon set.
        device: of the network.
    """

    name: str = "frechet"
    split: ClassVar[str] = "val"

    def __init__(self, network: FeatureNetwork, data: Path, device: torch.device | str) -> None:
        self.network, self.data, self.device = network, data, device
        self._real: Moments | None = None

    def __call__(self, shown: Sequence[Shown]) -> Finding:
        if self._real is None:
            self._real = self._moments(self._validation())
        made = self._moments(each.open() for each in shown)
        distance = frechet_distance(self._real, made) if made.count > 1 else None
        figures = {
            "distance": None if distance is None else float(f"{distance:.6g}"),
            "images": made.count,
            "real_images": self._real.count,
            "network": self.network.title,
        }
        return Finding(figures)

    def _validation(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for entry in ImageStream([self.data], split=self.split):
            try:
                yield np.asarray(open_entry(entry, ImageLimits(min_side=8)))
            except RefusedError as error:
                raise UsageError(f"Can't read {entry.name}.", str(error), "build the icon set anew") from None

    @torch.inference_mode()
    def _moments(self, stream: Iterator[UInt8[np.ndarray, "H W 3"]]) -> Moments:
        moments = Moments(self.network.width)
        for images in in_batches(stream, _AT_ONCE):
            moments.add(self.network(images.to(self.device)))
        return moments
