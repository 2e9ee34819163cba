"""Bringing images to one size: cropped around the middle, cropped to the strongest edges, or padded."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageColor, ImageOps

from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.imaging.open import fit_image

FITS: Final = ("cover", "smart", "pad")
MUCH_LOST: Final = 0.2
"""Share of an image's area that is worth a message when it is cropped away."""


@dataclass(frozen=True)
class Fit:
    """How to bring an image to a size of another ratio.

    Attributes:
        kind: "cover" scales the image to cover the size and crops it around the middle; "smart" crops to the window
            with the strongest edges, the most central of equals; "pad" scales it to fit inside and fills the rest.
        colour: Colour that fills the rest: a name, or "#rrggbb".

    Raises:
        UsageError: If the kind or the colour is unknown.
    """

    kind: str = "cover"
    colour: str = "white"

    def __post_init__(self) -> None:
        if self.kind not in FITS:
            raise UsageError(unknown(f"fit {self.kind!r}", self.kind, FITS))
        try:
            ImageColor.getrgb(self.colour)
        except ValueError:
            todo = "give a name such as white, or #rrggbb"
            raise UsageError(f"Unknown colour {self.colour!r}.", fix=todo) from None

    def apply(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Bring an RGB image to `size`, width and height in pixels."""
        if self.kind == "pad":
            colour = ImageColor.getrgb(self.colour)[:3]
            return ImageOps.pad(image, size, method=Image.Resampling.LANCZOS, color=colour)
        if self.kind == "smart":
            return image.resize(size, Image.Resampling.LANCZOS, box=_busiest_box(image, size))
        return fit_image(image, size)

    def describe(self, cut: int, total: int) -> str:
        """Say what happened to the edges of `total` images, of which `cut` lost more than `MUCH_LOST` of their area."""
        if self.kind == "pad":
            return "images are padded to the size; nothing is cropped"
        where = "around the middle" if self.kind == "cover" else "to their strongest edges"
        text = f"images are cropped to the size {where}; {cut:,} of {total:,} lost more than a fifth of their area"
        return text + (
            "; --fit pad keeps whole images, --fit smart crops to what matters" * (cut > 0 and self.kind == "cover")
        )


def lost_area(original: tuple[int, int], size: tuple[int, int]) -> float:
    """Return the share of an image's area, 0 to 1, that covering `size` crops away. Both are (width, height)."""
    ratios = original[0] / original[1], size[0] / size[1]
    return 1 - min(ratios) / max(ratios)


def _busiest_box(image: Image.Image, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the edges (left, upper, right, lower) of the window with the most detail, as large as the ratio allows."""
    width, height = image.size
    scale = min(width / size[0], height / size[1])
    window = (size[0] * scale, size[1] * scale)
    axis = 0 if width - window[0] > height - window[1] else 1  # the axis along which the window can move
    length, whole = window[axis], image.size[axis]
    small = image.convert("L")
    small.thumbnail((256, 256), Image.Resampling.BILINEAR)
    edges = np.zeros((small.height, small.width))
    grey = np.asarray(small, dtype=np.float64)
    edges[:, 1:] += np.abs(np.diff(grey, axis=1))
    edges[1:, :] += np.abs(np.diff(grey, axis=0))
    profile = edges.sum(axis=axis)  # the strength of each column, or row
    covered = max(1, min(len(profile), round(length / whole * len(profile))))
    sums = np.convolve(profile, np.ones(covered), mode="valid")
    best = np.flatnonzero(sums >= sums.max() * (1 - 1e-9))
    middle = (len(sums) - 1) / 2
    start = int(best[np.argmin(np.abs(best - middle))])
    room = max(0.0, whole - length)
    offset = room / 2 if len(sums) == 1 else room * start / (len(sums) - 1)
    if axis == 0:
        return offset, 0.0, offset + window[0], window[1]
    return 0.0, offset, window[0], offset + window[1]
