"""Reading what the codec is given: images of any kind as pixels, and bit files."""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bitvar.codec.arguments import require_path
from bitvar.codec.bitfile import BitFile
from bitvar.errors import UsageError
from bitvar.imaging.convert import RGBA_CHANNELS, image_bytes
from bitvar.imaging.formats import READ
from bitvar.imaging.open import ImageLimits, Location, RefusedError, as_rgb, as_rgba, check_image, open_image

ImageInput = Image.Image | str | Path
"""An image, or the path of its file."""

BitFileInput = BitFile | bytes | str | Path
"""A bit file, its content, or its path."""

MAX_FILE_BYTES: Final = 1 << 31

MAX_UNCHECKED_PIXELS: Final = 1_000_000
"""Number of pixels that any bit file may declare."""

MAX_PIXELS_PER_BIT: Final = 500
"""Number of pixels that a bit file of a larger image may declare for each bit it holds. A complete file has more than
one bit for every pixel."""


class Pixels(NamedTuple):
    """The values of an image as a tokenizer sees it, and the digest of its file if it came from one."""

    values: UInt8[np.ndarray, "H W c"]
    sha256: str | None


def read_image(image: ImageInput, limits: ImageLimits, *, channels: int = 3) -> Pixels:
    """Read an image. Its size is checked before any pixel is decoded.

    Args:
        image: Image or path.
        limits: Bounds on size and shape.
        channels: 3 for RGB on white, 4 to have the opacity as well (`imaging.alpha`).

    Raises:
        UsageError: for an image that can't be read or exceeds the limits.
    """
    if not isinstance(image, Image.Image):
        image = require_path(image, "image")
    name = f"The image {image}" if isinstance(image, Path) else "The image"
    try:
        if isinstance(image, Image.Image):
            check_image(image, limits)
            return Pixels(_decode(image, channels), None)
        data = Location(image).read(max_bytes=limits.max_bytes)
        return Pixels(_decode(open_image(data, limits), channels), hashlib.sha256(data).hexdigest())
    except RefusedError as error:
        fix = f"convert or resize it: {READ}, of at most 50 megapixels"
        raise UsageError(f"{name} can't be used.", str(error), fix) from None


def _decode(image: Image.Image, channels: int) -> UInt8[np.ndarray, "H W c"]:
    return image_bytes(as_rgba(image) if channels == RGBA_CHANNELS else as_rgb(image), channels)


def read_bitfile(file: BitFileInput) -> BitFile:
    """Read a bit file from its content or its path.

    Raises:
        UsageError: for a file that is missing, damaged, of another format, or of a newer version.
    """
    if isinstance(file, BitFile):
        return file
    if isinstance(file, bytes | bytearray | memoryview):
        return BitFile.from_bytes(bytes(file))
    path = require_path(file, "bit file")
    try:
        data = Location(path).read(max_bytes=MAX_FILE_BYTES)
    except RefusedError as error:
        raise UsageError(f"Can't read {path}.", error.detail, "give a bit file") from None
    return BitFile.from_bytes(data, source=str(path))


def require_enough_bits(file: BitFile, name: str) -> None:
    """Refuse a file that declares a large image and holds few of its bits.

    Without this check, a hundred bytes could start minutes of decoding.
    """
    pixels = file.header.width * file.header.height
    if pixels <= max(MAX_UNCHECKED_PIXELS, MAX_PIXELS_PER_BIT * file.num_bits):
        return
    content = f"scales 1 to {len(file.payloads)} of {len(file.header.grids)}, {file.num_bits:,} bits"
    raise UsageError(
        f"{name} declares {file.header.width}x{file.header.height} pixels, but holds almost none of their bits.",
        f"it has {content}; at most {MAX_PIXELS_PER_BIT:,} pixels per bit are decoded by default",
        f"to decode it anyway, name its scales: --scales {len(file.payloads)} (in Python scales=)",
    )
