"""Sums over images, from which every figure of a report comes. They stay small, and can be saved."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitvar.metrics.frechet import Moments, frechet_distance
from bitvar.metrics.per_scale import bit_entropy, dead_share

_MOMENTS = "features."


class Tally:
    """Named fp64 sums of one contender at one size, and the moments of its images' features.

    Args:
        width: of a feature vector.
    """

    def __init__(self, width: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.features = Moments(width)

    def add(self, name: str, value: Tensor | float) -> None:
        """Add to a sum; one that is new begins at 0."""
        value = torch.as_tensor(value, dtype=torch.float64)
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def mean(self, name: str, count: str = "images") -> float:
        """A sum over another, which counts."""
        return (self.sums[name] / self.sums[count]).item()

    def tensors(self) -> dict[str, Tensor]:
        """What `from_tensors` takes."""
        return self.sums | {_MOMENTS + name: tensor for name, tensor in self.features.tensors().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Tally":
        """The tally whose `tensors()` these are."""
        moments = {name.removeprefix(_MOMENTS): t for name, t in tensors.items() if name.startswith(_MOMENTS)}
        tally = cls(0)
        tally.features = Moments.from_tensors(moments)
        tally.sums = {name: tensor for name, tensor in tensors.items() if not name.startswith(_MOMENTS)}
        return tally


def figures(tally: Tally, originals: Moments) -> dict[str, Any]:
    """A contender's figures at one size, as `report.json` has them.

    Args:
        tally: of at least one image.
        originals: moments of the features of the same images, untouched.
    """
    images = int(tally.sums["images"].item())
    entry: dict[str, Any] = {
        "images": images,
        "bits_per_pixel": _short(tally.mean("bits_per_pixel")),
        "psnr": _short(tally.mean("psnr")),
        "ssim": _short(tally.mean("ssim")),
        "tint": _short(tally.mean("tint")),
        "distance": _short(tally.mean("distance")),
        "frechet": _short(frechet_distance(originals, tally.features)) if images > 1 else None,
    }
    if "too_large" in tally.sums:
        entry["too_large"] = int(tally.sums["too_large"].item())
    count = sum(name.startswith("scale") and name.endswith("/images") for name in tally.sums)
    if count:
        entry["scales"] = [_scale(tally, f"scale{k}/") for k in range(count)]
    return entry


def _scale(tally: Tally, prefix: str) -> dict[str, Any]:
    usage = tally.sums[prefix + "set_bits"] / tally.sums[prefix + "cells"]
    count = prefix + "images"
    return {
        "images": int(tally.sums[count].item()),
        "psnr": _short(tally.mean(prefix + "psnr", count)),
        "bits_per_pixel": _short(tally.mean(prefix + "bits_per_pixel", count)),
        "bit_entropy": _short(bit_entropy(usage)),
        "dead_bits": _short(dead_share(usage)),
        "residual_norm": [_short(value) for value in (tally.sums[prefix + "residual"] / tally.sums[count]).tolist()],
        "bit_usage": [_short(value) for value in usage.tolist()],
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
