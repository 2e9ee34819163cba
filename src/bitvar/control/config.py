"""Sizes of a control adapter: what a recipe chooses, and what the base model fixes."""

from typing import Annotated

from pydantic import Field

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.transformer.config import TransformerConfig

Channels = Annotated[int, Field(ge=1, le=1 << 10)]


class ControlSettings(Config):
    """Settings of a control adapter that a recipe chooses.

    Attributes:
        channels: Channels of the encoder after each halving of the map, from fine to coarse. The last level has the
            tokenizer's cells, so there must be as many as `log2(stride)`.
        depth: Residual blocks on the last level.
        hidden: Width between the encoder and the projections of the scales.
        thick: Share of the training maps whose lines are widened by a pixel on each side, so that thick pens work.
        erased: Share of the training maps of which a part is erased, so that unfinished drawings work.
    """

    channels: tuple[Channels, ...] = Field(default=(32, 64), min_length=1, max_length=8)
    depth: int = Field(default=3, ge=0, le=64)
    hidden: int = Field(default=256, ge=1, le=1 << 14)
    thick: float = Field(default=0.4, ge=0, le=1)
    erased: float = Field(default=0.3, ge=0, le=1)


class ControlConfig(Config):
    """Architecture of a control adapter, as its file has it.

    Attributes:
        channels, depth, hidden: As in `ControlSettings`.
        scales: Scales of the base model, each with a projection of its own.
        width: Width of the base model's tokens.
        patch_size: Cells per side of a token of the base model.
    """

    channels: tuple[Channels, ...] = Field(min_length=1, max_length=8)
    depth: int = Field(ge=0, le=64)
    hidden: int = Field(ge=1, le=1 << 14)
    scales: int = Field(ge=1, le=1 << 10)
    width: int = Field(ge=1, le=1 << 16)
    patch_size: int = Field(ge=1, le=16)

    @classmethod
    def of(cls, settings: ControlSettings, base: TransformerConfig, *, stride: int) -> "ControlConfig":
        """Combine a recipe's settings with a base model.

        Args:
            settings: Settings of the recipe.
            base: Configuration of the base model.
            stride: Pixels per side of a cell of the base model's tokenizer.

        Raises:
            UsageError: If the encoder's levels don't end at the cells.
        """
        levels = len(settings.channels)
        if 2**levels != stride:
            why = f"{levels} levels make a map {2**levels} times smaller, and the tokenizer's stride is {stride}"
            fix = f"give control.channels {stride.bit_length() - 1} numbers"
            raise UsageError("The control adapter's encoder doesn't fit the base model.", why, fix)
        return cls(
            channels=settings.channels,
            depth=settings.depth,
            hidden=settings.hidden,
            scales=max(len(schedule) for schedule in base.all_schedules()),
            width=base.width,
            patch_size=base.patch_size,
        )

    @property
    def pixels_per_cell(self) -> int:
        """Pixels per side of a cell of the last level."""
        return 2 ** len(self.channels)
