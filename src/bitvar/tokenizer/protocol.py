"""The interface between an image tokenizer and the rest of the package."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bitvar.pyramid import ScaleStep
from bitvar.scales import Grid
from bitvar.tokenizer.config import TokenizerConfig
from bitvar.tokenizer.tiling import Crop


@runtime_checkable
class ImageTokenizer(Protocol):
    """What the pipeline, the codec, training and evaluation call on a tokenizer.

    `InfinityTokenizer` is the only implementation so far. Only the rooms that build, load or train one name that class.
    """

    @property
    def config(self) -> TokenizerConfig:
        """Sizes of the tokenizer."""
        ...

    @property
    def device(self) -> torch.device:
        """Device that the tokenizer computes on."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision that the tokenizer computes in."""
        ...

    @property
    def encoder(self) -> nn.Module:
        """The network from pixels to features; its weights decide which bits an image gets."""
        ...

    def features(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        """Encode images in [-1, 1], with sides that are multiples of the stride, to fp32 features."""
        ...

    def tiled_features(self, crop: Crop, size: Grid, *, tile: int) -> Float[Tensor, "1 d h w"]:
        """Compute the features of one large image, tile by tile."""
        ...

    def encode_scales(self, features: Float[Tensor, "b d h w"], grids: Sequence[Grid]) -> Iterator[ScaleStep]:
        """Quantise features to bits, scale by scale, coarse to fine."""
        ...

    def decode_latent(self, bits: Sequence[Bool[Tensor, "b d _ _"]], grids: Sequence[Grid]) -> Float[Tensor, "b d h w"]:
        """Sum the codes of every scale, or of the first scales only."""
        ...

    def decode(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """Decode a latent to fp32 images in [-1, 1]."""
        ...

    def reconstruct(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """Decode a latent to fp32 images, neither clamped nor checked."""
        ...

    def tiled_pixels(
        self, latent: Float[Tensor, "1 d h w"], *, tile: int
    ) -> Iterator[tuple[slice, slice, Float[Tensor, "1 c _ _"]]]:
        """Decode one large latent, yielding rows, columns and pixels of one tile at a time."""
        ...
