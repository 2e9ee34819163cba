"""Comparison of the candidates' reconstructions of images of one size with the originals."""

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
from bitvar.evaluation.reconstruction.accumulators import MetricAccumulator
from bitvar.evaluation.reconstruction.baselines import FORMATS, Result, ScaleResult, reconstruct
from bitvar.finite import require_finite
from bitvar.imaging.convert import channels_first
from bitvar.imaging.open import ImageLimits
from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import Distance, block_mean_error, psnr, ssim
from bitvar.metrics.frechet import FeatureNetwork

ORIGINALS: Final = ""
"""Stands for the original images in the place of a candidate."""

_MIN_SIDE: Final = 6  # pixels, for SSIM


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

    def results(self, images: UInt8[np.ndarray, "b H W 3"]) -> Iterator[tuple[str, Result]]:
        """Yield each candidate's reconstructions, tokenizers first."""
        sizes: list[int] = []
        for label, codec in self.codecs.items():
            result = reconstruct(codec, images, refine_steps=self.refine_steps)
            sizes = sizes or [-(-bits // 8) for bits in result.bits]
            yield label, result
        for name in self.formats:
            yield name, FORMATS[name].compress(images, sizes)

    def to_signed(self, images: UInt8[np.ndarray, "b H W 3"]) -> Float[Tensor, "b 3 H W"]:
        """Convert images from 0..255 to [-1, 1], on the device."""
        return to_signed(channels_first(images).to(self.device))

    @torch.inference_mode()
    def measure_batch(
        self, images: UInt8[np.ndarray, "b H W 3"], accumulator: Callable[[str], MetricAccumulator]
    ) -> Iterator[tuple[str, list[dict[str, float]]]]:
        """Accumulate the metrics of images of one size; yield each candidate's values, image by image.

        Args:
            images: Original images.
            accumulator: Returns the accumulator of a candidate, or of `ORIGINALS`.
        """
        originals = self.to_signed(images)
        pixels = images.shape[1] * images.shape[2]
        accumulator(ORIGINALS).features.add(self.features(originals))
        for label, result in self.results(images):
            decoded = self.to_signed(result.images)
            values = {
                "psnr": psnr(decoded, originals),
                "ssim": ssim(decoded, originals),
                "block_mean_error": block_mean_error(decoded, originals),
                "distance": self.distance(decoded, originals),
                "bits_per_pixel": torch.tensor(result.bits) / pixels,
            }
            for name, value in values.items():
                require_finite(value, f"the {name.replace('_', ' ')} of {label}")
            sums = accumulator(label)
            sums.features.add(self.features(decoded))
            sums.add("images", len(images))
            for name, value in values.items():
                sums.add(name, value.double().sum())
            if label not in self.codecs:
                sums.add("too_large", int(result.too_large.sum()))
            for k, scale in enumerate(result.scales):
                self._count_scale(sums, f"scale{k}/", scale, originals)
            columns = {name: value.tolist() for name, value in values.items()}
            yield label, [{name: column[i] for name, column in columns.items()} for i in range(len(images))]

    def _count_scale(
        self, sums: MetricAccumulator, prefix: str, scale: ScaleResult, originals: Float[Tensor, "b 3 H W"]
    ) -> None:
        count, pixels = len(originals), originals.shape[2] * originals.shape[3]
        sums.add(prefix + "images", count)
        sums.add(prefix + "psnr", psnr(self.to_signed(scale.images), originals).double().sum())
        sums.add(prefix + "bits_per_pixel", count * scale.bits / pixels)
        sums.add(prefix + "set_bits", scale.set_bits)
        sums.add(prefix + "cells", scale.cells)
        sums.add(prefix + "residual", scale.residual.sum(dim=1))
