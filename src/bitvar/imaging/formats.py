"""The format of an image file, told by its first bytes and never by its name, and the decoder for it.

Files of formats that aren't read are recognised too, so that an error can name them. No pixel is decoded here.
"""

import importlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from PIL import Image, JpegImagePlugin, features

FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""Pillow's names of the formats it reads itself. HEIC is read as well, with the package pillow-heif."""

READ: Final = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or HEIC"
"""The formats that are read, by their common names."""

IMAGE_SUFFIXES: Final = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif",
)  # fmt: skip
"""File endings, in lower case, that a folder is searched for."""

HEAD: Final = 4096
"""Number of bytes at the start of a file that suffice to tell its format."""

_HEIC: Final = "HEIC"
_STARTS: Final = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
)
_TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHER_STARTS: Final = (
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"8BPS", "a Photoshop (PSD) file"),
    (b"%PDF", "a PDF file"),
    (b"%!PS", "a PostScript file"),
    (b"gimp xcf", "a GIMP (XCF) file"),
    (b"FUJIFILMCCD-RAW", "a camera RAW file"),
    (b"IIRO", "a camera RAW file"),
    (b"IIRS", "a camera RAW file"),
    (b"IIU\0", "a camera RAW file"),
    (b"FOVb", "a camera RAW file"),
    (b"v/1\x01", "an OpenEXR file"),
    (b"#?RADIANCE", "a Radiance HDR file"),
    (b"\0\0\x01\0", "an icon (ICO) file"),
    (b"qoif", "a QOI file"),
    (b"DDS ", "a DDS file"),
    (b"P1\n", "a PNM file"),
    (b"P2\n", "a PNM file"),
    (b"P3\n", "a PNM file"),
    (b"P4\n", "a PNM file"),
    (b"P5\n", "a PNM file"),
    (b"P6\n", "a PNM file"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (`git lfs pull` gets that)"),
)
_OTHER_BRANDS: Final = (
    (("crx ",), "a camera RAW file"),
    (("jxl ",), "a JPEG XL file"),
    (("isom", "iso2", "mp41", "mp42", "qt  ", "M4V ", "avc1", "3gp4", "3gp5"), "a video"),
)
_AVIF_BRANDS: Final = ("avif", "avis")
_HEIC_BRANDS: Final = ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1")
_PREVIEW: Final = 254
"""The TIFF tag NewSubfileType. Its lowest bit marks a page as a reduced copy of another."""

_SUB_IMAGES: Final = 330
_MAX_PREVIEWS: Final = 16

_one_at_a_time = threading.Lock()


class FormatError(Exception):
    """Raised for a file of a format that isn't read here. The text says which one, and what to do."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence the warnings of decoders, since the rejection of a file says what is wrong with it.

    Warning filters belong to the whole process, so threads take turns.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def find_format(head: bytes) -> str | None:
    """Tell a file's format by its first `HEAD` bytes: one of `FORMATS`, "HEIC", or None if it is unknown.

    Raises:
        FormatError: If the format is known but isn't read.
    """
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(_TIFF_STARTS):
        if head[8:10] == b"CR":
            raise _unread("a camera RAW file")
        return "TIFF"
    if head[4:8] == b"ftyp":
        return _find_by_brand(head)
    for start, what in _OTHER_STARTS:
        if head.startswith(start):
            raise _unread(what)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        raise _unread("an SVG file")
    if text.startswith((b"<!doctype html", b"<html")):
        raise FormatError("it is a web page, not an image: download the image itself")
    return None


def open_as(name: str, file: BinaryIO | io.BytesIO) -> Image.Image:
    """Open a file whose format is known from `find_format`. The header is read, but no pixel is decoded.

    Raises:
        FormatError: If the decoder isn't installed.
        Exception: Of any kind, if the file is broken.
    """
    if name == "JPEG":  # Image.open would return a multi-image class for photographs with a second image inside
        return JpegImagePlugin.JpegImageFile(file)
    if name == _HEIC:
        return _heic_class()(file)
    if name == "AVIF" and not features.check("avif"):
        raise FormatError("it is an AVIF file, and this build of Pillow can't read those: pip install --upgrade pillow")
    return Image.open(file, formats=(name,))


def count_images(image: Image.Image) -> int:
    """Count the images in a file: 1, or 2 for "several". Previews and second images of photographs don't count.

    Raises:
        FormatError: If the first page of a TIFF is a preview, as in raw camera files.
        Exception: Of any kind, if the file is broken.
    """
    if image.format in ("JPEG", "MPO", "HEIF"):  # the first or primary image is used
        return 1
    if image.format == "TIFF":
        return _count_pages(image)
    return 2 if getattr(image, "is_animated", False) else 1


def _count_pages(image: Image.Image) -> int:
    if image.tell() == 0 and _is_preview(image) and _SUB_IMAGES in getattr(image, "tag_v2", {}):
        raise _unread("a camera RAW file (its first page is a preview)")
    here, count = image.tell(), 1
    try:
        for page in range(_MAX_PREVIEWS):
            image.seek(here + page + 1)
            if not _is_preview(image):
                count = 2
                break
    except EOFError:
        pass
    image.seek(here)
    return count


def _is_preview(image: Image.Image) -> bool:
    kind = getattr(image, "tag_v2", {}).get(_PREVIEW, 0)
    return isinstance(kind, int) and bool(kind & 1)


def _find_by_brand(head: bytes) -> str | None:
    size = min(max(int.from_bytes(head[:4]), 16), len(head))
    brands = [head[at : at + 4].decode("latin-1") for at in (8, *range(16, size - 3, 4))]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "AVIF"
    if any(brand in _HEIC_BRANDS for brand in brands):
        return _HEIC
    for known, what in _OTHER_BRANDS:
        if any(brand in known for brand in brands):
            raise _unread(what)
    return None


def _heic_class() -> Callable[[BinaryIO | io.BytesIO], Image.Image]:
    try:
        plugin = importlib.import_module("pillow_heif")
    except ImportError:
        raise FormatError("it is a HEIC file, which needs an extra: pip install pillow-heif") from None
    return plugin.HeifImageFile


def _unread(what: str) -> FormatError:
    return FormatError(f"it is {what}, which isn't read: convert it to PNG or JPEG")
