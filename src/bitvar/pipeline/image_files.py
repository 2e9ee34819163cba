"""Image files with the record of their settings inside: formats, final sizes and atomic writing.

PNG keeps the record as a text chunk, WebP and JPEG as an EXIF comment. This module knows nothing about models.
"""

import contextlib
import io
import stat
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageOps, PngImagePlugin

from bitvar.errors import UsageError
from bitvar.files import atomic_path
from bitvar.imaging.alpha import flatten
from bitvar.imaging.embedded_text import exif_with
from bitvar.pipeline.file_names import Target, targets_of, write_new
from bitvar.pipeline.record import KEY, ImageRecord
from bitvar.pipeline.request import Background

FORMATS: Final = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Format of each suffix. PNG and WebP are lossless; JPEG, at quality 95, is not."""

TRANSPARENT_FORMATS: Final = ("PNG", "WEBP")
"""Formats that hold transparency."""

_MAX_SIDE: Final = {"JPEG": 65_500, "WEBP": 16_383}
"""Longest side in pixels that a format allows."""


def format_of(path: Path) -> str:
    """Return the image format for a path: by its suffix, or PNG for a pipe or device with another suffix.

    Raises:
        UsageError: The suffix is not one of `FORMATS`.
    """
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return FORMATS.get(path.suffix.lower(), "PNG")
    if path.suffix.lower() not in FORMATS:
        problem = f"{path.suffix!r} is none of" if path.suffix else "the name ends in none of"
        why = f"the suffix names the format, and {problem} {', '.join(FORMATS)}"
        raise UsageError(f"Can't write {path}.", why, "end the name in one of them, or in / for a folder")
    return FORMATS[path.suffix.lower()]


def check_size(size: tuple[int, int], image_format: str) -> None:
    """Refuse a size that a format can't hold.

    Args:
        size: Width and height in pixels.
        image_format: A value of `FORMATS`.

    Raises:
        UsageError: A side is too long.
    """
    limit = _MAX_SIDE.get(image_format)
    if limit is not None and max(size) > limit:
        why = f"{image_format} allows at most {limit} pixels a side, and this image has {max(size)}"
        raise UsageError(f"Can't write the image as {image_format}.", why, "write a PNG, or a smaller image")


def check_background(background: Background, image_format: str) -> None:
    """Refuse a format that can't hold the transparency that was asked for.

    Args:
        background: Background that was requested. Others than "transparent" suit every format: where a format has no
            transparency, images are laid on white.
        image_format: A value of `FORMATS`.

    Raises:
        UsageError: The background is to be transparent, and the format has no transparency.
    """
    if background == "transparent" and image_format not in TRANSPARENT_FORMATS:
        why = f"{image_format} holds no transparency; PNG and WebP do"
        fix = "end the name in .png or .webp, or choose the background auto or opaque"
        raise UsageError(f"Can't write a transparent image as {image_format}.", why, fix)


def resize_as_recorded(image: Image.Image, record: ImageRecord) -> Image.Image:
    """Resize a generated image to the size that its record names.

    The image is cropped to the requested aspect ratio if the record asks for an exact size, and enlarged otherwise.
    """
    size = record.image_size
    if image.size == size:
        return image
    if record.exact_size:
        return ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)
    return image.resize(size, Image.Resampling.LANCZOS)


def encode_image(
    image: Image.Image,
    record: ImageRecord,
    image_format: str = "PNG",
    *,
    quality: int | None = None,
    fast: bool = False,
) -> bytes:
    """Encode an image with its record inside. The same image, record and options give the same bytes.

    Args:
        image: Image to encode. JPEG lays a transparent one on white.
        record: Settings to store inside.
        image_format: A value of `FORMATS`.
        quality: Quality of JPEG and WebP from 0 to 100; WebP is lossless at 100. None is 95 for JPEG, 100 for WebP.
            PNG ignores it.
        fast: Whether to compress PNG less, which takes a quarter of the time.

    Raises:
        UsageError: The format can't hold an image of that size, or the transparency that the record asks for.
    """
    check_size(image.size, image_format)
    check_background(record.background, image_format)
    file = io.BytesIO()
    if image_format == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, record.json_text())
        image.save(file, format=image_format, pnginfo=info, compress_level=1 if fast else 6)
        return file.getvalue()
    exif = exif_with(KEY, record.json_text())
    options: dict[str, Any] = {"lossless": True} if quality in (None, 100) else {"quality": quality}
    if image_format == "JPEG":
        options = {"quality": 95 if quality is None else quality, "subsampling": 0}
        image = flatten(image)
    image.save(file, format=image_format, exif=exif, **options)
    return file.getvalue()


def write_image(image: Image.Image, record: ImageRecord, target: Target) -> Path:
    """Write an image with its record atomically, in the format of the suffix.

    Returns:
        The path written, which has a number appended if the target was taken and the user hadn't named it.
    """
    data = encode_image(image, record, format_of(target.path))
    if not target.named:
        return write_new(target.path, data)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target.path) as temporary:
        temporary.write_bytes(data)
    return target.path


def save_images(images: list[Image.Image], records: list[ImageRecord], where: str | Path) -> list[Path]:
    """Write images with their records to the paths that `targets_of` gives for `where`.

    Raises:
        UsageError: A path can't be written as an image. No image has been written.
    """
    targets = targets_of(where, [(record.prompt, record.seed) for record in records])
    for target, record in zip(targets, records, strict=True):
        check_background(record.background, format_of(target.path))
    return [write_image(*image) for image in zip(images, records, targets, strict=True)]
