"""Opening strangers' pictures: every limit is checked on the header, before a pixel is decoded.

Knows nothing of captions or folders. A picture that can't be used raises `RefusedError`, whose reason
reports count by.
"""

import contextlib
import errno
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, runtime_checkable

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

FORMATS: Final = ("PNG", "JPEG", "WEBP")
_UNREADABLE: Final = (OSError, ValueError, SyntaxError, struct.error)


class RefusedError(ValueError):
    """A sample that can't be used: `reason` is one of a fixed set of words, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class PictureLimits:
    """What a picture may be.

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
    """Where a picture's bytes can be had."""

    @property
    def place(self) -> str:
        """A text that is equal for equal bytes' places only."""
        ...

    def read(self, *, max_bytes: int) -> bytes:
        """The bytes, or RefusedError."""
        ...


@dataclass(frozen=True)
class Location:
    """Where a picture's bytes are: a file, or a part of one (a tar's member)."""

    file: Path
    offset: int = 0
    size: int | None = None

    @property
    def place(self) -> str:
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
        except FileNotFoundError:
            raise RefusedError("missing-picture", f"there is no {self.file}") from None
        except OSError as error:
            raise RefusedError("unreadable-file", error.strerror or str(error)) from None
        if len(data) > max_bytes:
            raise RefusedError("too-many-bytes", f"larger than {max_bytes} bytes")
        if not data:
            raise RefusedError("empty-file", "it has no bytes")
        if self.size is not None and len(data) < self.size:
            raise RefusedError("broken-picture", f"cut off after {len(data)} of {self.size} bytes")
        return data


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """A file to read; a pipe or a device, which might never answer or never end, is an OSError."""
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "It is a pipe or a device")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for a pipe's other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_picture(data: bytes | BinaryIO, limits: PictureLimits) -> Image.Image:
    """The picture as its header describes it; no pixel is decoded yet. A file must stay open until they are.

    Raises:
        RefusedError: for another format, an animation, or sides out of the limits.
    """
    try:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise RefusedError("too-many-pixels", str(error)) from None
    except UnidentifiedImageError:  # its text names a Python object
        raise RefusedError("not-a-picture", f"it is none of {', '.join(FORMATS)}") from None
    except _UNREADABLE as error:
        raise RefusedError("not-a-picture", first_line(error)) from None
    check_picture(image, limits)
    return image


def check_picture(image: Image.Image, limits: PictureLimits) -> None:
    """Refuse an opened picture by what its header says.

    Raises:
        RefusedError: for an animation, or sides out of the limits.
    """
    check_sides(*image.size, limits)
    if getattr(image, "is_animated", False):
        raise RefusedError("animated", f"it has {getattr(image, 'n_frames', 'several')} frames")


def check_sides(width: int, height: int, limits: PictureLimits) -> None:
    """Refuse a picture by its sides.

    Raises:
        RefusedError: if they are out of the limits.
    """
    if width * height > limits.max_pixels:
        raise RefusedError("too-many-pixels", f"{width}x{height} is over {limits.max_pixels} pixels")
    if min(width, height) < limits.min_side:
        raise RefusedError("too-small", f"{width}x{height}; the shorter side needs {limits.min_side} pixels")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise RefusedError("extreme-ratio", f"{width}x{height} is longer than {limits.max_ratio:g} to 1")


def decode_picture(data: bytes, limits: PictureLimits, *, at_least: int | None = None) -> Image.Image:
    """The picture as people see it: turned by its orientation tag, in sRGB, on white where it is transparent.

    A colour profile is applied where it can be read; one that can't be counts as sRGB, as viewers have it.

    Args:
        data: the file.
        limits: what a picture may be.
        at_least: pixels a side that are enough. A JPEG of twice as many and more is decoded at a half, a quarter or an
            eighth, which takes a fraction of the time.

    Raises:
        RefusedError: as `open_picture`, and for pixels that can't be decoded.
    """
    image = open_picture(data, limits)
    if at_least is not None:
        image.draft(None, (at_least, at_least))
    return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """What `decode_picture` makes of an opened picture, whatever its mode.

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
    """Colours, and how opaque they are, if the picture says."""
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I") or image.mode == "F":  # 16 bits: keep the upper 8
            image = image.point(lambda value: value / 257).convert("L") if image.mode != "F" else image.convert("L")
        profile = image.info.get("icc_profile")
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        rgb = _to_srgb(image, profile) if profile else image.convert("RGB")
    except (*_UNREADABLE, EOFError, zlib.error, Image.DecompressionBombError) as error:
        raise RefusedError("broken-picture", first_line(error)) from None
    rgb.info.clear()  # the profile is done with, and the one of sRGB bears the time; what else there is is not pixels
    return rgb, alpha


def fit_picture(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at `size` (width, height): scaled to cover it, and cut to it around the middle."""
    return ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    plain = image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image.convert("RGB")
    assert converted is not None, "only in-place conversion returns nothing"
    return converted


def first_line(error: Exception) -> str:
    """What an error says, for a refusal's detail."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
