"""What a tokenizer is made of."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bitvar.config import CodeNorms, Config


class TokenizerConfig(Config):
    """Sizes of the image tokenizer.

    Attributes:
        bits: bits per cell, `d`.
        base_channels: channels of the first level.
        channel_multipliers: channels of each level, as multiples of the base; every level but one halves the image.
        res_blocks: residual blocks of each encoder level; the decoder has one more.
        norm: "group", as in the published tokenizers, or "pixel": each place by itself.
        linear_skip: a 1x1 convolution beside the encoder, straight from pixels to features, and one beside the decoder,
            straight from the latent to pixels. The published tokenizers have none.
        code_norms: Norm of each scale's codes, coarse to fine (`scales.code_norms_of`); 1 in the published tokenizers.
        norm_groups: groups of every GroupNorm, of which "pixel" has none; must divide every level's channels.
        image_channels: channels of the image.
        pixel_patch: side of the squares of pixels that the first level takes as one place, with all their values as
            channels. The published tokenizers have 1; 2 makes the finest, costliest level half as wide.
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
        """Parameters of the blocks' convolutions alone: fewer than a tokenizer has, counted without building one."""
        return sum(2 * 2 * self.res_blocks * 9 * channels**2 for channels in self.channels[1:])

    @property
    def stride(self) -> int:
        """Pixels per cell side."""
        return self.pixel_patch * 2 ** (len(self.channel_multipliers) - 1)

    @property
    def patch_channels(self) -> int:
        """Values of one square of pixels: channels that enter the first level and leave the last."""
        return self.image_channels * self.pixel_patch**2

    @property
    def cell_channels(self) -> int:
        """Values of the pixels of one cell."""
        return self.image_channels * self.stride**2


def _official(bits: int, multipliers: tuple[int, ...]) -> TokenizerConfig:
    return TokenizerConfig(bits=bits, base_channels=128, channel_multipliers=multipliers)


TOKENIZER_PRESETS: dict[str, TokenizerConfig] = {
    **{f"d{bits}": _official(bits, (1, 2, 4, 4, 4)) for bits in (16, 24, 32, 64)},
    "d56_f8": _official(14, (1, 2, 4, 4)),
}
"""The published tokenizers: four of stride 16, and the stride-8 one of the 8B models (14 bits, 56 in a 2x2 patch)."""
