"""Accumulators of metrics: sums over images from which a report is computed. They stay small and can be saved."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from bitvar.metrics.frechet import Moments, frechet_distance
from bitvar.metrics.per_scale import bit_entropy, dead_share

_MOMENTS: Final = "features."

_LEAST_ENERGY: Final = 1e-12
"""Constant images have less high-frequency energy than this, all of it from rounding."""


class MetricAccumulator:
    """Named fp64 sums of one candidate at one size, and the moments of its images' features.

    Args:
        width: Width of a feature vector.
    """

    def __init__(self, width: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.features = Moments(width)

    def add(self, name: str, value: Tensor | float) -> None:
        """Add to a sum; a new one begins at 0."""
        value = torch.as_tensor(value, dtype=torch.float64)
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def mean(self, name: str, count: str = "images") -> float:
        """Divide a sum by another that counts."""
        return (self.sums[name] / self.sums[count]).item()

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums and moments as `from_tensors` takes them."""
        return self.sums | {_MOMENTS + name: tensor for name, tensor in self.features.tensors().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "MetricAccumulator":
        """Restore an accumulator from its `tensors()`."""
        moments = {name.removeprefix(_MOMENTS): t for name, t in tensors.items() if name.startswith(_MOMENTS)}
        accumulator = cls(0)
        accumulator.features = Moments.from_tensors(moments)
        accumulator.sums = {name: tensor for name, tensor in tensors.items() if not name.startswith(_MOMENTS)}
        return accumulator


def results(accumulator: MetricAccumulator, originals: Moments) -> dict[str, Any]:
    """Compute a candidate's results at one size, as `report.json` holds them.

    Args:
        accumulator: Sums over at least one image.
        originals: Moments of the features of the original images.
    """
    images = int(accumulator.sums["images"].item())
    entry: dict[str, Any] = {
        "images": images,
        "bits_per_pixel": _short(accumulator.mean("bits_per_pixel")),
        "psnr": _short(accumulator.mean("psnr")),
        "ssim": _short(accumulator.mean("ssim")),
        "block_mean_error": _short(accumulator.mean("block_mean_error")),
        "distance": _short(accumulator.mean("distance")),
        "frechet": _short(frechet_distance(originals, accumulator.features)) if images > 1 else None,
        **_details(accumulator, ""),
    }
    if "too_large" in accumulator.sums:
        entry["too_large"] = int(accumulator.sums["too_large"].item())
    count = sum(name.startswith("scale") and name.endswith("/images") for name in accumulator.sums)
    if count:
        entry["scales"] = [_scale(accumulator, f"scale{k}/") for k in range(count)]
    return entry


def _scale(accumulator: MetricAccumulator, prefix: str) -> dict[str, Any]:
    usage = accumulator.sums[prefix + "set_bits"] / accumulator.sums[prefix + "cells"]
    count = prefix + "images"
    return {
        "images": int(accumulator.sums[count].item()),
        "psnr": _short(accumulator.mean(prefix + "psnr", count)),
        "bits_per_pixel": _short(accumulator.mean(prefix + "bits_per_pixel", count)),
        **_details(accumulator, prefix),
        "bit_entropy": _short(bit_entropy(usage)),
        "dead_bits": _short(dead_share(usage)),
        "residual_norm": [
            _short(value) for value in (accumulator.sums[prefix + "residual"] / accumulator.sums[count]).tolist()
        ],
        "bit_usage": [_short(value) for value in usage.tolist()],
    }


def _details(accumulator: MetricAccumulator, prefix: str) -> dict[str, float | None]:
    """Compute sharpness, and the errors of the opacity if they were summed."""
    sums = accumulator.sums
    sharpness = energy_ratio(sums[prefix + "energy"].item(), sums[prefix + "original_energy"].item())
    details: dict[str, float | None] = {"sharpness": None if sharpness is None else _short(sharpness)}
    if prefix + "opacity_error" in sums:
        details["opacity_error"] = _short(accumulator.mean(prefix + "opacity_error", prefix + "images"))
        outlines = sums[prefix + "outlines"].item()
        details["outline_error"] = _short(sums[prefix + "outline_error"].item() / outlines) if outlines else None
    return details


def energy_ratio(energy: float, original: float) -> float | None:
    """Divide the high-frequency energy of reconstructions by that of their originals; None if these have none."""
    return energy / original if original > _LEAST_ENERGY else None


def _short(value: float) -> float:
    return float(f"{value:.6g}")
