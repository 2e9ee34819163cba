"""Configuration of the image tokenizer."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bitvar.config import CodeNorms, Config


class TokenizerConfig(Config):
    """Sizes of the image tokenizer.

    Attributes:
        bits: Bits per cell, `d`.
        base_channels: Channels of the first level.
        channel_multipliers: Channels of each level, as multiples of the base. Every level except one halves the image.
        res_blocks: Residual blocks in each level of the encoder; a level of the decoder has one more.
        norm: "group", as in the published tokenizers, or "pixel", which normalises each position by itself.
        linear_skip: Whether a 1x1 convolution leads past the encoder, from pixels to features, and another past the
            decoder, from the latent to pixels. The published tokenizers have none.
        code_norms: Norm of each scale's codes, coarse to fine (`scales.code_norms_of`); 1 in the published tokenizers.
        norm_groups: Groups of every group norm; must divide the channels of every level. Unused with "pixel".
        image_channels: Channels of the image.
        pixel_patch: Side of the squares of pixels that the first level reads as one position, with their values as
            channels. 1 in the published tokenizers; 2 halves the sides of the finest, most expensive level.
    """

    bits: int = Field(gt=0, le=128)
    base_channels: int = Field(gt=0, le=1 << 12)
    channel_multipliers: tuple[Annotated[int, Field(gt=0, le=64)], ...] = Field(min_length=1, max_length=12)
    res_blocks: int = Field(default=2, ge=1, le=64)
    norm: Literal["group", "pixel"] = "group"
    linear_skip: bool = False
    code_norms: CodeNorms = (1.0,)
    norm_groups: int = Field(default=32, ge=1, le=1 << 12)
    image_channels: int = Field(default=3, ge=1, le=16)
    pixel_patch: int = Field(default=1, ge=1, le=8)

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> "TokenizerConfig":
        for channels in self.channels if self.norm == "group" else ():
            if channels % self.norm_groups:
                raise ValueError(f"norm_groups {self.norm_groups} must divide the {channels} channels of every level")
        return self

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def least_parameters(self) -> int:
        """A lower bound on the parameters, counted without building a tokenizer: those of the blocks' convolutions."""
        return sum(2 * 2 * self.res_blocks * 9 * channels**2 for channels in self.channels[1:])

    @property
    def stride(self) -> int:
        """Pixels per cell side."""
        return self.pixel_patch * 2 ** (len(self.channel_multipliers) - 1)

    @property
    def patch_channels(self) -> int:
        """Values in one square of pixels: the channels that enter the first level and leave the last."""
        return self.image_channels * self.pixel_patch**2

    @property
    def has_opacity(self) -> bool:
        """Whether images are laid on white, with their opacity as a fourth channel (`imaging.alpha`)."""
        return self.image_channels == 4

    @property
    def cell_channels(self) -> int:
        """Values in the pixels of one cell."""
        return self.image_channels * self.stride**2


def _official(bits: int, multipliers: tuple[int, ...]) -> TokenizerConfig:
    return TokenizerConfig(bits=bits, base_channels=128, channel_multipliers=multipliers)


TOKENIZER_PRESETS: dict[str, TokenizerConfig] = {
    **{f"d{bits}": _official(bits, (1, 2, 4, 4, 4)) for bits in (16, 24, 32, 64)},
    "d56_f8": _official(14, (1, 2, 4, 4)),
}
"""The published tokenizers: four with stride 16, and the one of the 8B models with stride 8 (14 bits, 56 a patch)."""
