"""Requested sizes and aspect ratios: read from text, and matched with the sizes that a model generates."""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bitvar.errors import UsageError

if TYPE_CHECKING:
    from bitvar.pipeline.text_to_image import InfinityPipeline

MAX_REQUESTED_SIDE: Final = 16384
MAX_RATIO: Final = 100


@dataclass(frozen=True)
class RequestedSize:
    """A requested size or aspect ratio.

    Attributes:
        text: Text it was read from.
        width, height: Sides in pixels, or the two sides of the ratio.
        is_ratio: Whether it is an aspect ratio.
    """

    text: str
    width: float
    height: float
    is_ratio: bool

    def in_pixels(self, default_size: tuple[int, int]) -> tuple[int, int]:
        """Width and height in pixels. A ratio takes the area of the model's default size."""
        if not self.is_ratio:
            return int(self.width), int(self.height)
        side = math.sqrt(default_size[0] * default_size[1])
        factor = math.sqrt(self.width / self.height)
        return max(1, round(side * factor)), max(1, round(side / factor))

    def is_matched_by(self, generated: tuple[int, int], default_size: tuple[int, int]) -> bool:
        """Whether a generated (width, height) is the requested size, or has the requested ratio."""
        if self.is_ratio:
            return math.isclose(generated[0] / generated[1], self.width / self.height, rel_tol=0.002)
        return generated == self.in_pixels(default_size)


def parse_size(text: str) -> RequestedSize:
    """Read a size such as "512x512".

    Raises:
        UsageError: The text isn't a size, or a side is out of bounds.
    """
    match = re.fullmatch(r"([0-9]{1,12})[xX\u00d7*]([0-9]{1,12})", text.strip())
    if match is None:
        raise _unreadable("size", text, "two whole numbers with an x between them", "512x512")
    width, height = int(match[1]), int(match[2])
    if not (1 <= width <= MAX_REQUESTED_SIDE and 1 <= height <= MAX_REQUESTED_SIDE):
        why = f"each side takes 1 to {MAX_REQUESTED_SIDE} pixels"
        raise UsageError(f"Can't generate the size {text!r}.", why, "write it like 512x512")
    return RequestedSize(text.strip(), width, height, is_ratio=False)


def parse_aspect_ratio(text: str) -> RequestedSize:
    """Read an aspect ratio, width first, such as "16:9".

    Raises:
        UsageError: The text isn't a ratio, or the ratio is out of bounds.
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)[:/]([0-9]{1,6}(?:\.[0-9]{1,6})?)", text.strip())
    if match is None:
        raise _unreadable("aspect ratio", text, "two plain numbers with a colon between them, width first", "16:9")
    width, height = float(match[1]), float(match[2])
    if not (width > 0 and height > 0 and 1 / MAX_RATIO <= width / height <= MAX_RATIO):
        why = f"width to height must lie between 1:{MAX_RATIO} and {MAX_RATIO}:1"
        raise UsageError(f"Can't generate the aspect ratio {text!r}.", why, "write it like 16:9")
    return RequestedSize(text.strip(), width, height, is_ratio=True)


def nearest_size(
    pipeline: "InfinityPipeline", requested: tuple[int, int], *, any_distance: bool = False
) -> tuple[int, int]:
    """The (width, height) that a model generates for a requested one.

    Args:
        pipeline: Pipeline of the model.
        requested: Width and height in pixels.
        any_distance: Whether to accept a size however different, for an image that is resized afterwards.

    Raises:
        UsageError: The nearest size differs by more than a factor of two, and `any_distance` is False.
    """
    schedules = pipeline.transformer.config.all_schedules()
    tolerance = math.inf if any_distance else 2.0
    from bitvar.scales import nearest_schedule  # loads torch, which reading a size needs not

    schedule = nearest_schedule(
        schedules, height=requested[1], width=requested[0], stride=pipeline.stride, tolerance=tolerance
    )
    return schedule[-1][1] * pipeline.stride, schedule[-1][0] * pipeline.stride


def _unreadable(what: str, text: str, form: str, example: str) -> UsageError:
    return UsageError(f"Can't read the {what} {text!r}.", f"it is not {form}", f"write it like {example}")
