"""Comparison of the candidates' reconstructions of images of one size with the originals."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitvar.codec import ImageCodec
from bitvar.codec.bitfile import MAX_PIXELS
from bitvar.codec.image_codec import MAX_RATIO
from bitvar.evaluation.reconstruction.accumulators import MetricAccumulator, energy_ratio
from bitvar.evaluation.reconstruction.baselines import FORMATS, Result, ScaleResult, reconstruct
from bitvar.finite import require_finite
from bitvar.imaging.convert import RGBA_CHANNELS, channels_first
from bitvar.imaging.open import ImageLimits
from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import Distance, block_mean_error, psnr, ssim
from bitvar.metrics.frechet import FeatureNetwork
from bitvar.metrics.networks import three_channels
from bitvar.metrics.sharpness import high_frequency_energy, outline_error

ORIGINALS: Final = ""
"""Stands for the original images in the place of a candidate."""

_MIN_SIDE: Final = 6  # pixels, for SSIM

_RGB: Final = 3


@dataclass(frozen=True)
class ReconstructionComparison:
    """The candidates of a comparison, and the metrics between their reconstructions and the originals.

    Attributes:
        codecs: Tokenizers by label.
        formats: Baselines, names of `FORMATS`.
        distance, features: Networks of the perceptual and of the Frechet distance.
        device: Device of both networks.
        refine_steps: Number of refinement steps of each encoding.
    """

    codecs: Mapping[str, ImageCodec]
    formats: Sequence[str]
    distance: Distance
    features: FeatureNetwork
    device: torch.device
    refine_steps: int = 0

    @property
    def limits(self) -> ImageLimits:
        """Limits within which every candidate can take an image."""
        smallest = max(codec.limits.min_side for codec in self.codecs.values())
        min_side = max(smallest, self.distance.min_side, _MIN_SIDE)
        return ImageLimits(max_pixels=MAX_PIXELS, min_side=min_side, max_ratio=MAX_RATIO)

    @property
    def channels(self) -> int:
        """Number of channels of the original images: 4 if a tokenizer reconstructs opacity as well, or else 3."""
        return max(codec.tokenizer.config.image_channels for codec in self.codecs.values())

    def results(self, images: UInt8[np.ndarray, "b H W c"]) -> Iterator[tuple[str, Result]]:
        """Yield each candidate's reconstructions, tokenizers first.

        Args:
            images: Original images; with opacity, laid on white (`imaging.alpha`). Candidates without it see the first
                three channels.
        """
        sizes: list[int] = []
        for label, codec in self.codecs.items():
            seen = images[..., : codec.tokenizer.config.image_channels]
            result = reconstruct(codec, seen, refine_steps=self.refine_steps)
            sizes = sizes or [-(-bits // 8) for bits in result.bits]
            yield label, result
        for name in self.formats:
            yield name, FORMATS[name].compress(images[..., :_RGB], sizes)

    def to_signed(self, images: UInt8[np.ndarray, "b H W c"]) -> Float[Tensor, "b c H W"]:
        """Convert images from 0..255 to [-1, 1], on the device."""
        return to_signed(channels_first(images).to(self.device))

    @torch.inference_mode()
    def measure_batch(
        self, images: UInt8[np.ndarray, "b H W c"], accumulator: Callable[[str], MetricAccumulator]
    ) -> Iterator[tuple[str, list[dict[str, float | None]]]]:
        """Accumulate the metrics of images of one size; yield each candidate's values, image by image.

        Args:
            images: Original images, of `channels` channels.
            accumulator: Returns the accumulator of a candidate, or of `ORIGINALS`.
        """
        originals = self.to_signed(images)
        on_white, energy = three_channels(originals), high_frequency_energy(originals)
        pixels = images.shape[1] * images.shape[2]
        accumulator(ORIGINALS).features.add(self.features(on_white))
        for label, result in self.results(images):
            decoded = self.to_signed(result.images)
            shown = three_channels(decoded)
            values = {
                "psnr": psnr(shown, on_white),
                "ssim": ssim(shown, on_white),
                "block_mean_error": block_mean_error(shown, on_white),
                "distance": self.distance(shown, on_white),
                "bits_per_pixel": torch.tensor(result.bits) / pixels,
            }
            for name, value in values.items():
                require_finite(value, f"the {name.replace('_', ' ')} of {label}")
            sums = accumulator(label)
            sums.features.add(self.features(shown))
            sums.add("images", len(images))
            for name, value in values.items():
                sums.add(name, value.double().sum())
            details = _details(decoded, originals, energy)
            _count_details(sums, "", details)
            if label not in self.codecs:
                sums.add("too_large", int(result.too_large.sum()))
            for k, scale in enumerate(result.scales):
                self._count_scale(sums, f"scale{k}/", scale, originals, energy)
            columns = {name: value.tolist() for name, value in values.items()} | _columns(details)
            yield label, [{name: column[i] for name, column in columns.items()} for i in range(len(images))]

    def _count_scale(
        self,
        sums: MetricAccumulator,
        prefix: str,
        scale: ScaleResult,
        originals: Float[Tensor, "b c H W"],
        energy: Float[Tensor, " b"],
    ) -> None:
        count, pixels = len(originals), originals.shape[2] * originals.shape[3]
        decoded = self.to_signed(scale.images)
        sums.add(prefix + "images", count)
        sums.add(prefix + "psnr", psnr(three_channels(decoded), three_channels(originals)).double().sum())
        sums.add(prefix + "bits_per_pixel", count * scale.bits / pixels)
        sums.add(prefix + "set_bits", scale.set_bits)
        sums.add(prefix + "cells", scale.cells)
        sums.add(prefix + "residual", scale.residual.sum(dim=1))
        _count_details(sums, prefix, _details(decoded, originals, energy))


def _details(
    decoded: Float[Tensor, "b c H W"], originals: Float[Tensor, "b _ H W"], energy: Float[Tensor, " b"]
) -> dict[str, Float[Tensor, " b"]]:
    """Compute what sharpness is made of, and the errors of the opacity if the reconstructions have one.

    Args:
        decoded: Reconstructions in [-1, 1].
        originals: Originals in [-1, 1], of at least as many channels.
        energy: High-frequency energy of the originals.
    """
    details = {"energy": high_frequency_energy(decoded), "original_energy": energy}
    if decoded.shape[1] == RGBA_CHANNELS:
        opacity, reference = ((images[:, _RGB:] + 1) / 2 for images in (decoded, originals))
        details["opacity_error"] = (opacity - reference).abs().mean(dim=(1, 2, 3))
        details["outline_error"] = outline_error(opacity, reference)
    return details


def _count_details(sums: MetricAccumulator, prefix: str, details: Mapping[str, Float[Tensor, " b"]]) -> None:
    """Add details to sums; those of images without outlines, which are NaN, are left out."""
    for name, value in details.items():
        sums.add(prefix + name, value.double().nansum())
    if "outline_error" in details:
        sums.add(prefix + "outlines", int((~details["outline_error"].isnan()).sum()))


def _columns(details: Mapping[str, Float[Tensor, " b"]]) -> dict[str, list[float | None]]:
    """List the values of every image; None where an image has no detail to compare, or no outline."""
    ratios = zip(details["energy"].tolist(), details["original_energy"].tolist(), strict=True)
    columns: dict[str, list[float | None]] = {"sharpness": [energy_ratio(*pair) for pair in ratios]}
    for name in ("opacity_error", "outline_error"):
        if name in details:
            columns[name] = [None if math.isnan(value) else value for value in details[name].tolist()]
    return columns
