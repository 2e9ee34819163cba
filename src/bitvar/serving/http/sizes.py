"""Sizes of the API: reading them, and choosing the native size that an asked one is drawn at.

An image of another size is drawn at the native size of nearest ratio and then nearest area, resized to cover the asked
size, and cropped.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bitvar.serving.engine.model_card import ModelCard, NativeSize
from bitvar.serving.http.errors import invalid_value, shown

MULTIPLE: Final = 16
MAX_SIDE: Final = 3840
MAX_AREA: Final = 3840 * 2160
MAX_RATIO: Final = 3

Quality: TypeAlias = Literal["low", "medium", "high"]

BUDGETS: Final[Mapping[Quality, int]] = {"low": 256**2, "medium": 512**2, "high": 1024**2}
"""Area in pixels that each quality stands for."""

_SAME_RATIO: Final = 0.01
"""Difference of two ratios' logarithms that rounding to whole tokens explains."""


@dataclass(frozen=True)
class ChosenSize:
    """How an image of a size is made.

    Attributes:
        native: Size at which the model draws it.
        width, height: Size of the file.
    """

    native: NativeSize
    width: int
    height: int

    @property
    def resized(self) -> bool:
        """Whether the image is resized or cropped after it was drawn."""
        return (self.native.width, self.native.height) != (self.width, self.height)

    @property
    def cropped(self) -> float:
        """Share of the drawn image's area that is cropped away."""
        ratio = self.width / self.height * self.native.height / self.native.width
        return 1 - min(ratio, 1 / ratio)

    @property
    def text(self) -> str:
        """The size of the file as the API writes it."""
        return f"{self.width}x{self.height}"


def parse_size(text: str) -> tuple[int, int] | None:
    """Read a size such as "1024x1024".

    Returns:
        Width and height in pixels; None for "auto".

    Raises:
        ApiError: The text is no size.
    """
    if text == "auto":
        return None
    match = re.fullmatch("([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if match is None:
        message = f"size must be auto, or width and height in pixels such as 1024x1024, got {shown(text)}."
        raise invalid_value(message, "size")
    return int(match[1]), int(match[2])


def choose_size(
    asked: tuple[int, int] | None,
    card: ModelCard,
    *,
    quality: Quality | None = None,
    exact_native: bool = False,
    param: str = "size",
) -> ChosenSize:
    """Choose the native size for an asked one.

    Args:
        asked: Width and height in pixels; None leaves the choice to the server.
        card: The model.
        quality: Budget to choose among the model's where no size is asked for; None for its default size.
        exact_native: Whether to refuse a size that the model doesn't draw itself.
        param: Field that `asked` came from, for the error.

    Raises:
        ApiError: The size is out of bounds, or not native although that was insisted on.
    """
    if asked is None:
        native = _native_of_quality(card, quality)
        return ChosenSize(native, native.width, native.height)
    if asked in ((size.width, size.height) for size in card.sizes):
        return ChosenSize(card.size_of(*asked), *asked)
    _check_bounds(asked, param)
    native = _nearest(card.sizes, ratio=asked[0] / asked[1], area=asked[0] * asked[1])
    if exact_native:
        message = (
            f"{asked[0]}x{asked[1]} is no native size of this model, and exact_native asks for one; "
            f"the nearest is {native.width}x{native.height}."
        )
        raise invalid_value(message, param)
    return ChosenSize(native, *asked)


def size_near(
    image: tuple[int, int], card: ModelCard, *, quality: Quality | None = None, exact: bool = False
) -> ChosenSize:
    """Choose the native size that an image is edited at: that of nearest ratio, and of these the nearest in area.

    Args:
        image: Width and height of the image.
        card: The model.
        quality: Budget to choose among the model's in place of the image's own area.
        exact: Whether the file has the size of the image, in place of the native one.
    """
    area = image[0] * image[1] if quality is None else BUDGETS[quality]
    native = _nearest(card.sizes, ratio=image[0] / image[1], area=area)
    return ChosenSize(native, *image) if exact else ChosenSize(native, native.width, native.height)


def quality_of(native: NativeSize) -> Quality:
    """Name the quality whose budget is nearest to a native size."""
    area = native.width * native.height
    return min(BUDGETS, key=lambda quality: abs(math.log(area / BUDGETS[quality])))


def _native_of_quality(card: ModelCard, quality: Quality | None) -> NativeSize:
    default = card.sizes[0]
    if quality is None:
        return default
    return _nearest(card.sizes, ratio=default.width / default.height, area=BUDGETS[quality])


def _nearest(sizes: Sequence[NativeSize], *, ratio: float, area: int) -> NativeSize:
    """The size nearest in ratio, and of several such sizes the nearest in area."""
    distances = [abs(math.log(size.width / size.height / ratio)) for size in sizes]
    same = [size for size, far in zip(sizes, distances, strict=True) if far <= min(distances) + _SAME_RATIO]
    return min(same, key=lambda size: abs(math.log(size.width * size.height / area)))


def _check_bounds(asked: tuple[int, int], param: str) -> None:
    width, height = asked
    what = f"{width}x{height} can't be made"
    if width % MULTIPLE or height % MULTIPLE:
        raise invalid_value(f"{what}: both sides must be multiples of {MULTIPLE}.", param)
    if max(asked) > MAX_RATIO * min(asked):
        raise invalid_value(f"{what}: the ratio must lie between 1:{MAX_RATIO} and {MAX_RATIO}:1.", param)
    if max(asked) > MAX_SIDE or width * height > MAX_AREA:
        limit = f"a side has at most {MAX_SIDE:,} pixels, and an image at most {MAX_AREA:,}, as 3840x2160"
        raise invalid_value(f"{what}: {limit}.", param)
