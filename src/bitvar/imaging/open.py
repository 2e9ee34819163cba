"""The one safe decoder of images from unknown sources: every limit is checked before a pixel is decoded.

It knows nothing of captions or folders. An image that can't be used raises `RefusedError`, with a short reason that
reports use for counting.
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

_WARNING_FORMATS: Final = ("TIFF", "GIF")
"""Formats whose decoders may issue warnings while decoding pixels."""


class RefusedError(ValueError):
    """Raised for a sample that can't be used. `reason` is one of a fixed set; `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class ImageLimits:
    """Bounds that an image must keep.

    Attributes:
        max_bytes: Largest size of the file in bytes.
        max_pixels: Largest product of width and height. A small file can unpack to gigabytes.
        min_side: Smallest length of the shorter side in pixels.
        max_ratio: Largest ratio of the longer side to the shorter.
    """

    max_bytes: int = 64 << 20
    max_pixels: int = 50_000_000
    min_side: int = 16
    max_ratio: float = 4.0


@runtime_checkable
class Readable(Protocol):
    """A source of an image's bytes."""

    @property
    def address(self) -> str:
        """A text that identifies the source: equal if and only if the bytes are the same."""
        ...

    def read(self, *, max_bytes: int) -> bytes:
        """Return the bytes, or raise RefusedError."""
        ...


@dataclass(frozen=True)
class Location:
    """The location of an image's bytes: a whole file, or a part of one, such as a member of a tar."""

    file: Path
    offset: int = 0
    size: int | None = None

    @property
    def address(self) -> str:
        """File and offset as a text. "./a.png" and "b/../a.png" have the same address."""
        file = os.path.normpath(self.file)
        return f"{file} at byte {self.offset}" if self.size is not None else file

    def read(self, *, max_bytes: int) -> bytes:
        """Return the bytes.

        Raises:
            RefusedError: If the file is missing, unreadable, empty, or larger than `max_bytes`.
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
    """Translate an error from opening or reading a file into a RefusedError."""
    if isinstance(error, FileNotFoundError):
        return RefusedError("missing-image", f"there is no {path}")
    if isinstance(error, OSError):
        return RefusedError("unreadable-file", error.strerror or str(error))
    return RefusedError(
        "unreadable-file", f"no file can have this name: {first_line(error)}"
    )  # it has a zero byte, for example


def check_bytes(count: int, limit: int) -> None:
    """Reject a file by its number of bytes.

    Raises:
        RefusedError: If the file is empty, or larger than the limit.
    """
    if count > limit:
        raise RefusedError("too-many-bytes", f"larger than {limit} bytes")
    if not count:
        raise RefusedError("empty-file", "it has no bytes")


def open_image(data: bytes | BinaryIO, limits: ImageLimits) -> Image.Image:
    """Open an image by its header, without decoding a pixel. A file must stay open until the pixels are decoded.

    The format is told by content. If a photograph contains a second image, as phones write them, the first is opened.

    Raises:
        RefusedError: If the format isn't read, the image is animated or has several pages, or a side is out of the
            limits. No other error is raised, whatever a decoder runs into.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    name = None
    try:
        name = find_format(file.read(HEAD))
        file.seek(0)
        if name is None:
            raise RefusedError("not-an-image", f"it is not {READ}")
        with without_warnings():
            image = open_as(name, file)
    except RefusedError:
        raise
    except FormatError as error:
        raise RefusedError("other-format", str(error)) from None
    except Image.DecompressionBombError as error:
        raise RefusedError("too-many-pixels", str(error)) from None
    except UnidentifiedImageError:  # its text would name a Python object
        raise RefusedError("not-an-image", f"it begins like a {name} file, but isn't one") from None
    except Exception as error:  # a decoder may raise anything
        raise RefusedError("not-an-image", first_line(error)) from None
    check_image(image, limits)
    return image


def check_image(image: Image.Image, limits: ImageLimits) -> None:
    """Reject an opened image by its header.

    Raises:
        RefusedError: If the image is animated, has several pages, or a side is out of the limits.
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
        raise RefusedError("several-pages", "it has several pages: save the one you want as a separate file")
    if several:
        raise RefusedError("animated", f"it has {getattr(image, 'n_frames', 'several')} frames")


def seen_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of an opened image after turning it by its orientation tag."""
    return (image.height, image.width) if is_sideways(find_orientation(image)) else image.size


def require_image(path: Path, limits: ImageLimits, *, todo: str, transparent: bool = False) -> Image.Image:
    """Read an image that the user named, decoded by `decode_image`.

    Args:
        path: The file.
        limits: Bounds on size and shape.
        todo: What to do if the image can't be used; becomes the last line of the error.
        transparent: Whether to keep the transparency, as `as_rgba` does, instead of laying the image on white.

    Raises:
        UsageError: If the image can't be used; names the path and the reason.
    """
    try:
        data = Location(path).read(max_bytes=limits.max_bytes)
        return as_rgba(open_image(data, limits)) if transparent else decode_image(data, limits)
    except RefusedError as error:
        cure = "check the path" if error.reason in ("missing-image", "unreadable-file") else todo
        raise UsageError(f"The image {path} can't be used.", str(error), cure) from None


def check_sides(width: int, height: int, limits: ImageLimits) -> None:
    """Reject an image by its width and height.

    Raises:
        RefusedError: If one of them is out of the limits.
    """
    if width * height > limits.max_pixels:
        raise RefusedError("too-many-pixels", f"{width}x{height} is over {limits.max_pixels} pixels")
    if min(width, height) < limits.min_side:
        raise RefusedError("too-small", f"{width}x{height}; the shorter side needs at least {limits.min_side} pixels")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise RefusedError("extreme-ratio", f"{width}x{height} is more elongated than {limits.max_ratio:g} to 1")


def decode_image(data: bytes, limits: ImageLimits, *, at_least: int | None = None) -> Image.Image:
    """Decode an image as viewers show it: turned by its orientation tag, in sRGB, on white where it is transparent.

    A colour profile is applied if it can be read. Otherwise the colours count as sRGB, as in image viewers.

    Args:
        data: The bytes of the file.
        limits: Bounds on size and shape.
        at_least: Length of a side in pixels that suffices. A JPEG of at least twice that size is decoded at a half, a
            quarter or an eighth of its size, in a fraction of the time.

    Raises:
        RefusedError: If `open_image` raises it, or the pixels can't be decoded.
    """
    image = open_image(data, limits)
    if at_least is not None and image.format == "JPEG":
        image.draft(None, (at_least, at_least))
    return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image of any mode as `decode_image` does.

    Raises:
        RefusedError: If the pixels can't be decoded.
    """
    rgb, alpha = _decode(image)
    if alpha is None:
        return rgb
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def as_rgba(image: Image.Image) -> Image.Image:
    """Decode like `as_rgb`, but keep the transparency instead of laying the image on white.

    Raises:
        RefusedError: If the pixels can't be decoded.
    """
    rgb, alpha = _decode(image)
    if alpha is None:
        return rgb.convert("RGBA")
    rgb.putalpha(alpha)
    return rgb


def _decode(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours, and the alpha channel if the image has one."""
    try:
        with without_warnings() if image.format in _WARNING_FORMATS else contextlib.nullcontext():
            image.load()
        image = turn(image, find_orientation(image))
        profile = image.info.get("icc_profile")
        colours, alpha = _to_bytes(image)
        rgb = _to_srgb(colours, profile) if profile else colours.convert("RGB")
    except RefusedError:
        raise
    except Exception as error:  # a decoder may raise anything
        raise RefusedError("broken-image", first_line(error)) from None
    rgb.info.clear()  # the profile is applied; what remains would make equal pixels unequal files
    return rgb, alpha


def _to_bytes(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours of an image of any mode in 8 bits, and its alpha channel separately."""
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if not image.has_transparency_data:
        return image, None
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:  # 16 bits per colour: keep the upper 8
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    whole = image.convert("RGBA")
    colours = image.getchannel("L") if image.mode == "LA" else image
    if image.mode in ("P", "PA", "RGBA"):
        colours = whole.convert("RGB")
    return colours, whole.getchannel("A")


def _from_deep(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Convert grey of 16 bits (the upper 8 are kept) or of floats (in [0, 1], or else in [0, 255])."""
    values, alpha = np.asarray(image), None
    low, high = values.min(), values.max()
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    if image.mode == "F":
        if not (low >= 0 and high <= 255):  # False for NaN
            raise RefusedError("broken-image", f"its values range from {low:g} to {high:g}; floats must lie in [0, 1]")
        grey = np.round(values * 255) if high <= 1 else values
    else:
        if not (low >= 0 and high <= 65535):
            raise RefusedError("broken-image", f"its values range from {low} to {high}; at most 16 bits are read")
        grey = values // 257
    return Image.fromarray(grey.astype(np.uint8)), alpha


def fit_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image to cover `size` (width, height), and crop it around the middle."""
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
    """Return the first line of an error's text, for the detail of a rejection."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
