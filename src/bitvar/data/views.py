"""Views of an image for a training step of the tokenizer: its channels, and a crop.

Images of 1, 3 or 4 channels (grey, RGB, RGBA) come as image files of any format that `imaging.formats` reads; RGBA is
seen as `imaging.alpha` says. Images of any number of channels come as NumPy arrays `(H, W, c)` in `.npy` files, with 8
bits, 16 bits (the upper 8 are kept) or floats in [0, 1].
"""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from bitvar.files import open_plain
from bitvar.imaging.alpha import lay_on_white
from bitvar.imaging.convert import RGBA_CHANNELS
from bitvar.imaging.open import (
    ImageLimits,
    RefusedError,
    as_rgba,
    check_bytes,
    check_sides,
    decode_image,
    first_line,
    open_image,
    seen_size,
    unreadable,
)

NUM_DRAWS: Final = 4
"""Number of uniform draws that a view takes: size, horizontal and vertical position, mirrored or not."""

ARRAY_SUFFIX: Final = ".npy"
_ARRAY_MAGIC: Final = b"\x93NUMPY"
_IMAGE_CHANNELS: Final = (1, 3, RGBA_CHANNELS)
_SHARP: Final = 2
"""An image is decoded with at least this multiple of the wanted side, so that the quality depends on our scaling."""

_PNG_TEXTS: Final = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG that may hold an orientation."""

Box = tuple[float, float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class View:
    """The way images are cropped and mirrored for training.

    Attributes:
        channels: Number of channels, 1 to 16.
        smallest_crop: Side of the smallest random crop relative to the largest one. At 1 every crop is the largest,
            around the middle. A crop is never smaller than the size it is scaled to, if the image is large enough.
        mirrored: Whether half of the crops are mirrored left to right.
    """

    channels: int = 3
    smallest_crop: float = 1.0
    mirrored: bool = False

    @property
    def is_random(self) -> bool:
        return self.smallest_crop < 1 or self.mirrored

    def see(
        self, data: bytes, limits: ImageLimits, size: Size, draws: Sequence[float] | None = None
    ) -> UInt8[np.ndarray, "H W c"]:
        """Return the pixels of a view of an image file.

        Args:
            data: The bytes of the file.
            limits: Bounds on an image's size and shape.
            size: Width and height that the crop is scaled to.
            draws: `NUM_DRAWS` numbers in [0, 1); None for the largest crop around the middle.

        Raises:
            RefusedError: If the image can't be used, or has another number of channels.
        """
        enough = math.ceil(_SHARP * max(size) / self.smallest_crop)
        planes = decode_planes(data, limits, self.channels, at_least=enough)
        box = self._box(planes[0].size, size, draws)
        seen = [np.atleast_3d(np.asarray(plane.resize(size, Image.Resampling.LANCZOS, box=box))) for plane in planes]
        pixels = self._joined(seen)
        return pixels[:, ::-1].copy() if self.mirrored and draws is not None and draws[3] < 0.5 else pixels

    def see_whole(self, data: bytes, limits: ImageLimits) -> UInt8[np.ndarray, "H W c"]:
        """Return the pixels of a whole image file, in its own size.

        Raises:
            RefusedError: If the image can't be used, or has another number of channels.
        """
        planes = decode_planes(data, limits, self.channels)
        return self._joined([np.atleast_3d(np.asarray(plane)) for plane in planes])

    def _joined(self, planes: Sequence[np.ndarray]) -> UInt8[np.ndarray, "H W c"]:
        pixels = np.concatenate(planes, axis=2)
        return lay_on_white(pixels) if self.channels == RGBA_CHANNELS and len(planes) == 1 else pixels

    def _box(self, whole: Size, size: Size, draws: Sequence[float] | None) -> Box:
        """Return the edges of the crop (left, upper, right, lower) in pixels of the image."""
        fit = min(whole[0] / size[0], whole[1] / size[1])
        share, across, down = 1.0, 0.5, 0.5
        if draws is not None and self.smallest_crop < 1:
            smallest = max(self.smallest_crop, min(1.0, 1 / fit))
            share, across, down = smallest + (1 - smallest) * draws[0], draws[1], draws[2]
        width, height = size[0] * fit * share, size[1] * fit * share
        left, upper = across * (whole[0] - width), down * (whole[1] - height)
        return left, upper, min(left + width, whole[0]), min(upper + height, whole[1])


def decode_planes(data: bytes, limits: ImageLimits, channels: int, *, at_least: int | None = None) -> list[Image.Image]:
    """Decode an image into a form that Pillow can scale: one image of 1, 3 or 4 channels, or a grey one per channel.

    Args:
        data: The bytes of the file.
        limits: Bounds on an image's size and shape.
        channels: Number of channels that the image must have.
        at_least: Length of a side that suffices, as in `decode_image`. RGBA images are always decoded in full.

    Raises:
        RefusedError: If the image can't be used, or has another number of channels.
    """
    if data.startswith(_ARRAY_MAGIC):
        array = _read_array(data, limits)
        if array.shape[2] != channels:
            raise RefusedError("other-channels", f"it has {array.shape[2]} channels, not {channels}")
        return [Image.fromarray(np.ascontiguousarray(array[..., c])) for c in range(channels)]
    if channels not in _IMAGE_CHANNELS:
        raise RefusedError("other-channels", f"images of {channels} channels must be {ARRAY_SUFFIX} files")
    if channels == RGBA_CHANNELS:
        return [as_rgba(open_image(data, limits))]
    rgb = decode_image(data, limits, at_least=at_least)
    return [rgb.convert("L") if channels == 1 else rgb]


def image_size(path: Path, limits: ImageLimits) -> Size:
    """Return the width and height of an image file after turning it upright, from its header.

    Raises:
        RefusedError: If the file is not an image, can't be read, or is out of the limits.
    """
    try:
        with open_plain(path) as file:
            check_bytes(os.fstat(file.fileno()).st_size, limits.max_bytes)  # some decoders read all of it
            is_array = file.read(len(_ARRAY_MAGIC)) == _ARRAY_MAGIC
            file.seek(0)
            if not is_array:
                image = open_image(file, limits)
                if _is_told_behind(image, file):
                    image.load()
                return seen_size(image)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # a decoder may raise anything
        raise _as_refused(error) from None
    height, width = _check_array(array, limits).shape[:2]
    return width, height


def _is_told_behind(image: Image.Image, file: BinaryIO) -> bool:
    """Tell whether a PNG may have its orientation after the pixels, which must be decoded to reach it."""
    if image.format != "PNG" or "exif" in image.info:
        return False
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    return any(chunk in data for chunk in _PNG_TEXTS)


def _read_array(data: bytes, limits: ImageLimits) -> UInt8[np.ndarray, "H W c"]:
    """Read the array of a file. The header is checked before memory is allocated for the size it claims."""
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read_header(file)
        if dtype.kind not in "uif":
            raise RefusedError("broken-image", f"it has {dtype} values; use uint8, uint16 or floats in [0, 1]")
        _check_shape(shape, limits)
        array = np.frombuffer(data, dtype, count=math.prod(shape), offset=file.tell())
        array = array.reshape(shape, order="F" if by_columns else "C")
    except Exception as error:  # a decoder may raise anything
        raise _as_refused(error) from None
    return _to_bytes(_check_array(array, limits))


def _as_refused(error: Exception) -> RefusedError:
    if isinstance(error, RefusedError):
        return error
    return RefusedError("broken-image", first_line(error))


def _check_array(array: np.ndarray, limits: ImageLimits) -> np.ndarray:
    """Check an array against the limits. Return it with shape `(H, W, c)`."""
    _check_shape(array.shape, limits)
    return array[..., None] if array.ndim == 2 else array


def _check_shape(shape: tuple[int, ...], limits: ImageLimits) -> None:
    if len(shape) not in (2, 3) or not 1 <= (*shape, 1)[2] <= 16:
        raise RefusedError("not-an-image", f"it is an array of shape {shape}, not (height, width, 1 to 16 channels)")
    check_sides(shape[1], shape[0], limits)


def _to_bytes(array: np.ndarray) -> UInt8[np.ndarray, "H W c"]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return np.round(array * 255).astype(np.uint8)
    raise RefusedError("not-an-image", f"it has {array.dtype} values; use uint8, uint16 or floats in [0, 1]")
