"""Reading the images of an edit: from bytes, paths and PIL images to upright sRGB with straight alpha."""

import io
from pathlib import Path
from typing import Any, Final

from PIL import Image

from bitvar import arguments
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits, Location, RefusedError, as_rgba, open_image

MASK_SIDE: Final = 64
"""Longer side in pixels of the mask of a region. No official grid is finer."""

LIMITS: Final = ImageLimits(min_side=1, max_ratio=64.0)


def file_bytes(image: Any) -> bytes:
    """Return the bytes of an image file.

    Args:
        image: The bytes themselves, the path of a file, or a PIL image, which is written as PNG.

    Raises:
        UsageError: for a file that can't be read, or a value of another kind.
    """
    if isinstance(image, bytes | bytearray):
        if not image:
            raise UsageError("The image is empty.", "it has no bytes", "give the bytes of a PNG, WebP or JPEG file")
        return bytes(image)
    if isinstance(image, Image.Image):
        if not image.width or not image.height:
            raise UsageError("The image is empty.", f"it has {image.width}x{image.height} pixels", "give another image")
        buffer = io.BytesIO()
        try:
            as_rgba(image).save(buffer, "PNG", compress_level=1)
        except RefusedError as error:
            raise _unusable("the image", error) from None
        return buffer.getvalue()
    if isinstance(image, str | Path):
        path = Path(arguments.checked("image", image, arguments.path))
        try:
            return Location(path).read(max_bytes=LIMITS.max_bytes)
        except RefusedError as error:
            raise UsageError(f"{arguments.shown(str(path))} can't be used.", str(error), "check the path") from None
    why = f"got a {type(image).__name__}"
    raise UsageError("An edit takes an image.", why, "give a path, the bytes of a file, or a PIL image")


def open_rgba(data: bytes, what: str) -> Image.Image:
    """Decode an image as viewers show it, with its transparency.

    Args:
        data: Bytes of a file.
        what: Name of the image in errors, such as "the mask".

    Raises:
        UsageError: for an image that can't be used: damaged, animated, of another format or too large.
    """
    try:
        return as_rgba(open_image_or_refuse(data, what))
    except RefusedError as error:
        raise _unusable(what, error) from None


def open_image_or_refuse(data: bytes, what: str) -> Image.Image:
    """Open an image within `LIMITS` without decoding a pixel.

    Args:
        data: Bytes of a file.
        what: Name of the image in errors.

    Raises:
        UsageError: for an image that can't be used.
    """
    try:
        return open_image(data, LIMITS)
    except RefusedError as error:
        raise _unusable(what, error) from None


def reduced_mask(data: bytes) -> bytes:
    """Reduce a mask to grey PNG of at most `MASK_SIDE` pixels a side, unless it is that already.

    Args:
        data: Bytes of an image file.

    Raises:
        UsageError: for an image that can't be used, or is black everywhere.
    """
    image = open_image_or_refuse(data, "the mask of a region")
    is_small = image.mode == "L" and image.format == "PNG" and max(image.size) <= MASK_SIDE
    grey = open_rgba(data, "the mask of a region").convert("L")
    if grey.getbbox() is None:
        raise UsageError("The mask of a region selects nothing.", "it is black", "make the region white")
    if is_small:
        return data
    factor = min(1.0, MASK_SIDE / max(grey.size))
    size = (max(1, round(grey.width * factor)), max(1, round(grey.height * factor)))
    buffer = io.BytesIO()
    grey.resize(size, Image.Resampling.BOX).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _unusable(what: str, error: RefusedError) -> UsageError:
    return UsageError(f"{what[0].upper()}{what[1:]} can't be used.", str(error), "give another image")
