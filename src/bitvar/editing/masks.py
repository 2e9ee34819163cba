"""Masks as people give them: by alpha, by brightness, as a box, or around an image that is to grow."""

from typing import Final, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageChops

from bitvar.editing.images import LIMITS
from bitvar.errors import UsageError
from bitvar.imaging.open import RefusedError, check_sides

Convention: TypeAlias = Literal["alpha", "white", "auto"]
"""What marks the part that may change: transparency, white, or the first of these that the mask has."""

MAX_MARGIN: Final = 16384


def read_mask(image: Image.Image, size: tuple[int, int], *, convention: Convention) -> Image.Image:
    """Convert a mask to grey, 255 where the image may change and 0 where it stays.

    Args:
        image: Mask in RGBA.
        size: Width and height of the image that it belongs to.
        convention: "alpha", the image API's: transparent where the image may change; "white": white there; "auto": by
            alpha if it has transparent parts, else by white.

    Raises:
        UsageError: for a mask of another size, one that selects nothing, or one without transparency where that is
            what counts.
    """
    if image.size != size:
        why = f"the mask has {image.size[0]}x{image.size[1]} pixels, and the image {size[0]}x{size[1]}"
        raise UsageError("The mask doesn't fit the image.", why, "give a mask of the image's size")
    opaque = int(np.asarray(image.getchannel("A")).min()) == 255
    if convention == "white" or (convention == "auto" and opaque):
        white = Image.new("RGBA", size, (0, 0, 0, 255))
        white.alpha_composite(image)
        mask = white.convert("L")
        fix = "make the part that may change white"
    else:
        if opaque:
            why = "its transparent part says where the image may change, and it has none"
            fix = "erase that part of the mask, or say that white is the part to change"
            raise UsageError("The mask has no transparent part.", why, fix)
        mask, fix = ImageChops.invert(image.getchannel("A")), "erase the part that may change"
    if int(np.asarray(mask).max()) == 0:
        raise UsageError("The mask selects nothing.", "no pixel of it is marked", fix)
    return mask


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Make a mask that is white in a box.

    Args:
        size: Width and height of the image.
        box: Left, top, width and height in pixels.

    Raises:
        UsageError: for a box that is empty or reaches out of the image.
    """
    left, top, width, height = box
    if width < 1 or height < 1 or left < 0 or top < 0 or left + width > size[0] or top + height > size[1]:
        why = f"it is {width}x{height} pixels at ({left}, {top}), and the image has {size[0]}x{size[1]}"
        raise UsageError("The box doesn't lie in the image.", why, "give left,top,width,height in the image's pixels")
    mask = Image.new("L", size, 0)
    mask.paste(255, (left, top, left + width, top + height))
    return mask


def invert(mask: Image.Image) -> Image.Image:
    """Swap what may change and what stays."""
    return ImageChops.invert(mask)


def extend(image: Image.Image, margins: tuple[int, int, int, int]) -> tuple[Image.Image, Image.Image]:
    """Extend an image at its sides, for outpainting.

    Args:
        image: Image in RGBA.
        margins: Pixels to add on the left, top, right and bottom, each from 0 to 16,384.

    Returns:
        The larger image, whose margins repeat the nearest edge, and the mask that selects them.

    Raises:
        UsageError: for margins out of range, or all 0, or an image that would be too large or too elongated.
    """
    left, top, right, bottom = margins
    if not all(0 <= margin <= MAX_MARGIN for margin in margins) or not any(margins):
        why = f"got {left}, {top}, {right} and {bottom} pixels"
        raise UsageError("These margins extend nothing.", why, "give at least one above 0, and none below")
    width, height = image.width + left + right, image.height + top + bottom
    try:
        check_sides(width, height, LIMITS)
    except RefusedError as error:
        raise UsageError("The margins are too large.", str(error), "add fewer pixels") from None
    padded = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="edge")
    mask = Image.new("L", (padded.shape[1], padded.shape[0]), 255)
    mask.paste(0, (left, top, left + image.width, top + image.height))
    return Image.fromarray(padded), mask
