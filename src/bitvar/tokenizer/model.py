"""The image tokenizer: from images to a pyramid of bits, and from a latent back to images."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bitvar import pyramid
from bitvar.errors import UsageError
from bitvar.finite import require_finite
from bitvar.scales import Grid, code_norms_of
from bitvar.tokenizer.autoencoder import Decoder, Encoder
from bitvar.tokenizer.config import TokenizerConfig
from bitvar.tokenizer.tiling import Crop, tiled_features, tiled_pixels


class InfinityTokenizer(nn.Module):
    """An encoder, a residual pyramid of bits, and a decoder. Implements `ImageTokenizer`.

    The encoder and the decoder compute in the dtype of their parameters; the pyramid computes in fp32.

    Attributes:
        tile: Side of the tiles that `reconstruct` decodes in, in pixels, set from outside (`bitvar.runtime`); None for
            one pass.
    """

    tile: int | None = None

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.conv_in.weight.device

    @property
    def levels(self) -> list[nn.Module]:
        """The levels of the encoder and the decoder: the units of compilation and activation checkpointing."""
        return [*self.encoder.levels, *self.decoder.levels]

    def features(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        """Encode images in [-1, 1] to fp32 features.

        Raises:
            UsageError: if a side is not a multiple of the stride.
            ComputationError: if the features are not finite. Not raised in training, which watches its losses.
        """
        height, width = images.shape[-2:]
        if height % self.config.stride or width % self.config.stride:
            raise UsageError(
                f"The tokenizer can't take an image of {width}x{height} pixels.",
                f"both sides must be multiples of its stride, {self.config.stride}",
                "resize or crop the image first",
            )
        features = self.encoder(images.to(self.dtype))
        if not features.requires_grad:
            require_finite(features, "the tokenizer's features")
        return features.float()

    def tiled_features(self, crop: Crop, size: Grid, *, tile: int) -> Float[Tensor, "1 d h w"]:
        """Compute `features` of one large image, tile by tile (`tokenizer.tiling.tiled_features`)."""
        return tiled_features(self.encoder, self.config, crop, size, tile=tile)

    def encode(
        self, images: Float[Tensor, "b c H W"], grids: Sequence[Grid]
    ) -> tuple[list[Bool[Tensor, "b d _ _"]], Float[Tensor, "b d h w"]]:
        """Encode images in [-1, 1] to the bits of every scale and the latent that they sum to.

        Args:
            images: Images whose sides are the last grid times the stride.
            grids: Rows and columns of cells at each scale, coarse to fine (`ScaleSchedule.latent_grids`).
        """
        steps = list(self.encode_scales(self.features(images), grids))
        return [step.bits for step in steps], steps[-1].latent

    def encode_scales(self, features: Float[Tensor, "b d h w"], grids: Sequence[Grid]) -> Iterator[pyramid.ScaleStep]:
        """Quantise features to bits, scale by scale (`pyramid.encode`).

        Args:
            features: Output of the encoder.
            grids: Rows and columns of cells at every scale of the schedule, coarse to fine.

        Raises:
            ComputationError: if the features are not finite. Their signs would pass for valid bits.
        """
        if not features.requires_grad:
            require_finite(features, "the features to quantise")
        return pyramid.encode(features, grids, code_norms_of(self.config.code_norms, len(grids)))

    def decode_latent(self, bits: Sequence[Bool[Tensor, "b d _ _"]], grids: Sequence[Grid]) -> Float[Tensor, "b d h w"]:
        """Sum the codes of every scale, or of the first scales only (`pyramid.decode_latent`).

        Args:
            bits: Bits of each scale, coarse to fine.
            grids: Rows and columns of cells at every scale of the schedule, including scales that `bits` lacks.
        """
        return pyramid.decode_latent(bits, grids[-1], code_norms_of(self.config.code_norms, len(grids)))

    def decode(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """Decode a latent, complete or of the first scales only, to fp32 images in [-1, 1].

        Raises:
            ComputationError: if the pixels are not finite.
        """
        pixels = self.decoder(latent.to(self.dtype))
        require_finite(pixels, "the pixels that the tokenizer decoded")
        return pixels.float().clamp(-1, 1)

    def reconstruct(self, latent: Float[Tensor, "b d h w"]) -> Float[Tensor, "b c H W"]:
        """Decode a latent without the clamp and the check of `decode`: a clamp would cut off gradients in training."""
        if self.tile is not None and not torch.is_grad_enabled():
            return torch.cat([self._joined_tiles(row, self.tile) for row in latent.split(1)])
        return self.decoder(latent.to(self.dtype)).float()

    def _joined_tiles(self, latent: Float[Tensor, "1 d h w"], tile: int) -> Float[Tensor, "1 c H W"]:
        stride = self.config.stride
        height, width = latent.shape[-2] * stride, latent.shape[-1] * stride
        pixels = torch.empty(1, self.config.image_channels, height, width, device=latent.device)
        for rows, columns, part in self.tiled_pixels(latent, tile=tile):
            pixels[..., rows, columns] = part
        return pixels

    def tiled_pixels(
        self, latent: Float[Tensor, "1 d h w"], *, tile: int
    ) -> Iterator[tuple[slice, slice, Float[Tensor, "1 c _ _"]]]:
        """Compute `decode` of one large latent, one tile at a time (`tokenizer.tiling.tiled_pixels`)."""
        return tiled_pixels(self.decoder, self.config, latent, tile=tile)
