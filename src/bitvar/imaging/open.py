"""Opening strangers' images: every limit is checked on the header, before a pixel is decoded.

Knows nothing of captions or folders. An image that can't be used raises `RefusedError`, whose reason
reports count by.
"""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from bitvar.errors import UsageError
from bitvar.files import open_plain
from bitvar.imaging.formats import (
    FORMATS,
    HEAD,
    READ,
    FormatError,
    count_images,
    find_format,
    open_as,
    without_warnings,
)
from bitvar.imaging.orientation import find_orientation, is_sideways, turn

__all__ = ["FORMATS", "ImageLimits", "Location", "Readable", "RefusedError"]

_TALKATIVE: Final = ("TIFF", "GIF")
"""Formats whose decoders may warn while they decode pixels."""


class RefusedError(ValueError):
    """A sample that can't be used: `reason` is one of a fixed set of words, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be.

    Attributes:
        max_bytes: of the file.
        max_pixels: width times height; a small file can unpack to gigabytes.
        min_side: pixels of the shorter side.
        max_ratio: longer side over shorter.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    min_side: int = 16
    max_ratio: float = 4.0


@runtime_checkable
class Readable(Protocol):
    """Where an image's bytes can be had."""

    @property
    def address(self) -> str:
        """A text that is equal for equal bytes' places only."""
        ...

    def read(self, *, max_bytes: int) -> bytes:
        """The bytes, or RefusedError."""
        ...


@dataclass(frozen=True)
class Location:
    """Where an image's bytes are: a file, or a part of one (a tar's member)."""

    file: Path
    offset: int = 0
    size: int | None = None

    @property
    def address(self) -> str:
        """File and offset; "./a.png" and "b/../a.png" are one place."""
        file = os.path.normpath(self.file)
        return f"{file} at byte {self.offset}" if self.size is not None else file

    def read(self, *, max_bytes: int) -> bytes:
        """The bytes.

        Raises:
            RefusedError: if there is no such file, it can't be read, is empty, or is larger than `max_bytes`.
        """
        try:
            with open_plain(self.file) as file:
                file.seek(self.offset)
                data = file.read(max_bytes + 1 if self.size is None else min(self.size, max_bytes + 1))
        except (OSError, ValueError) as error:
            raise unreadable(self.file, error) from None
        check_bytes(len(data), max_bytes)
        if self.size is not None and len(data) < self.size:
            raise RefusedError("broken-image", f"cut off after {len(data)} of {self.size} bytes")
        return data


def unreadable(path: Path, error: OSError | ValueError) -> RefusedError:
    """The refusal of a file that can't be opened or read, by what opening or reading it raised."""
    if isinstance(error, FileNotFoundError):
        return RefusedError("missing-image", f"there is no {path}")
    if isinstance(error, OSError):
        return RefusedError("unreadable-file", error.strerror or str(error))
    return RefusedError("unreadable-file", f"no file can have this name: {first_line(error)}")  # such as a zero byte


def check_bytes(count: int, limit: int) -> None:
    """Refuse a file by its number of bytes.

    Raises:
        RefusedError: if it has none, or more than the limit.
    """
    if count > limit:
        raise RefusedError("too-many-bytes", f"larger than {limit} bytes")
    if not count:
        raise RefusedError("empty-file", "it has no bytes")


def open_image(data: bytes | BinaryIO, limits: ImageLimits) -> Image.Image:
    """Open an image by its header; no pixel is decoded yet. A file must stay open until they are.

    The format is told by content. Of a photograph with a second image inside, as phones make them, it is the first.

    Raises:
        RefusedError: for another format, an animation, several pages, or sides out of the limits. Nothing else,
            whatever a decoder meets.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    name = None
    try:
        name = find_format(file.read(HEAD))
        file.seek(0)
        if name is None:
            raise RefusedError("not-an-image", f"it is none of {READ}")
        with without_warnings():
            image = open_as(name, file)
    except RefusedError:
        raise
    except FormatError as error:
        raise RefusedError("other-format", str(error)) from None
    except Image.DecompressionBombError as error:
        raise RefusedError("too-many-pixels", str(error)) from None
    except UnidentifiedImageError:  # its text names a Python object
        raise RefusedError("not-an-image", f"it begins as a {name} file and goes on as none") from None
    except Exception as error:  # a decoder may raise anything
        raise RefusedError("not-an-image", first_line(error)) from None
    check_image(image, limits)
    return image


def check_image(image: Image.Image, limits: ImageLimits) -> None:
    """Refuse an opened image by what its header says.

    Raises:
        RefusedError: for an animation, several pages, or sides out of the limits.
    """
    check_sides(*image.size, limits)
    try:
        with without_warnings():
            several = count_images(image) > 1
    except FormatError as error:
        raise RefusedError("other-format", str(error)) from None
    except Exception as error:  # a decoder may raise anything
        raise RefusedError("broken-image", first_line(error)) from None
    if several and image.format == "TIFF":
        raise RefusedError("several-pages", "it has more than one page: save the wanted one as a file of its own")
    if several:
        raise RefusedError("animated", f"it has {getattr(image, 'n_frames', 'several')} frames")


def seen_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image as people see it, turned by its orientation tag."""
    return (image.height, image.width) if is_sideways(find_orientation(image)) else image.size


def require_image(path: Path, limits: ImageLimits, *, todo: str) -> Image.Image:
    """Read an image that the user named, as `decode_image` makes it.

    Args:
        path: the file.
        limits: what an image may be.
        todo: what to do if it can't be used; the last line of the error.

    Raises:
        UsageError: naming the path and what is wrong with it.
    """
    try:
        return decode_image(Location(path).read(max_bytes=limits.max_bytes), limits)
    except RefusedError as error:
        cure = "check the path" if error.reason in ("missing-image", "unreadable-file") else todo
        raise UsageError(f"The image {path} can't be used.", str(error), cure) from None


def check_sides(width: int, height: int, limits: ImageLimits) -> None:
    """Refuse an image by its sides.

    Raises:
        RefusedError: if they are out of the limits.
    """
    if width * height > limits.max_pixels:
        raise RefusedError("too-many-pixels", f"{width}x{height} is over {limits.max_pixels} pixels")
    if min(width, height) < limits.min_side:
        raise RefusedError("too-small", f"{width}x{height}; the shorter side needs {limits.min_side} pixels")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise RefusedError("extreme-ratio", f"{width}x{height} is longer than {limits.max_ratio:g} to 1")


def decode_image(data: bytes, limits: ImageLimits, *, at_least: int | None = None) -> Image.Image:
    """The image as people see it: turned by its orientation tag, in sRGB, on white where it is transparent.

    A colour profile is applied where it can be read; one that can't be counts as sRGB, as viewers have it.

    Args:
        data: the file.
        limits: what an image may be.
        at_least: pixels a side that are enough. A JPEG of twice as many and more is decoded at a half, a quarter or an
            eighth, which takes a fraction of the time.

    Raises:
        RefusedError: as `open_image`, and for pixels that can't be decoded.
    """
    image = open_image(data, limits)
    if at_least is not None and image.format == "JPEG":
        image.draft(None, (at_least, at_least))
    return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """What `decode_image` makes of an opened image, whatever its mode.

    Raises:
        RefusedError: for pixels that can't be decoded.
    """
    rgb, alpha = _decode(image)
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def as_rgba(image: Image.Image) -> Image.Image:
    """As `as_rgb`, but the colours as they are, not laid on white, and with them how opaque they are.

    Raises:
        RefusedError: for pixels that can't be decoded.
    """
    rgb, alpha = _decode(image)
    if alpha is None:
        return rgb.convert("RGBA")
    rgb.putalpha(alpha)
    return rgb


def _decode(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours, and how opaque they are, if the image says."""
    try:
        with without_warnings() if image.format in _TALKATIVE else contextlib.nullcontext():
            image.load()
        image = turn(image, find_orientation(image))
        profile = image.info.get("icc_profile")
        colours, alpha = _to_bytes(image)
        rgb = _to_srgb(colours, profile) if profile else colours.convert("RGB")
    except RefusedError:
        raise
    except Exception as error:  # a decoder may raise anything
        raise RefusedError("broken-image", first_line(error)) from None
    rgb.info.clear()  # the profile is done with, and the one of sRGB bears the time; what else there is is not pixels
    return rgb, alpha


def _to_bytes(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours of an image of any mode in 8 bits, and its transparency by itself."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if not image.has_transparency_data:
        return image, None
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits a colour, of which the upper 8 count
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    whole = image.convert("RGBA")
    colours = image.getchannel("L") if image.mode == "LA" else image
    if image.mode in ("P", "PA", "RGBA"):
        colours = whole.convert("RGB")
    return colours, whole.getchannel("A")


def _from_deep(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Grey of 16 bits, of which the upper 8 count, or of floats: in [0, 1], or else in [0, 255]."""
    values, alpha = np.asarray(image), None
    low, high = values.min(), values.max()
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    if image.mode == "F":
        if not (low >= 0 and high <= 255):  # False for NaN
            raise RefusedError("broken-image", f"its values are {low:g} to {high:g}; floats in [0, 1] are read")
        grey = np.round(values * 255) if high <= 1 else values
    else:
        if not (low >= 0 and high <= 65535):
            raise RefusedError("broken-image", f"its values are {low} to {high}; 16 bits are read")
        grey = values // 257
    return Image.fromarray(grey.astype(np.uint8)), alpha


def fit_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image at `size` (width, height): scaled to cover it, and cut to it around the middle."""
    return ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    plain = image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except Exception:  # an odd profile counts as sRGB
        return image.convert("RGB")
    assert converted is not None, "only in-place conversion returns nothing"
    return converted


def first_line(error: Exception) -> str:
    """What an error says, for a refusal's detail."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
