"""What an image file says of how it was made: a checked record, written to and read from PNG, WebP and JPEG.

A record is read from a file's header without decoding a pixel, and is believed only within its bounds. Knows nothing of
models or pipelines.
"""

import contextlib
import io
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from PIL import Image, PngImagePlugin
from pydantic import Field, StrictBool, field_validator, model_validator

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.files import atomic_path
from bitvar.imaging.embedded_text import exif_with, find_text
from bitvar.imaging.sheet import GridStyle, Tile, draw_grid, grid_size, near_square_columns
from bitvar.lora.used import HubId, UsedAdapter
from bitvar.pipeline.file_names import Target, targets_of, write_new

KEY: Final = "bitvar"
"""The PNG text chunk that holds the record, and the key of it in the EXIF comment of WebP and JPEG."""

FORMATS: Final = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""By suffix. PNG and WebP keep every pixel; JPEG, of quality 95, does not."""

CURRENT: Final = 2
"""The format of records written now."""

MAX_RECORD_BYTES: Final = 60_000
"""As JSON. What a JPEG's EXIF segment can hold, less some room; so that every record fits every format."""

MAX_PIXELS: Final = 2**28
"""Of a finished image or sheet: 16384 x 16384."""

MAX_IMAGES: Final = 64
"""On a sheet."""

_GRID: Final = GridStyle(gap=4, margin=0)

Seed: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Side: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=16384)]
Number: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=100)]
PerScale: TypeAlias = Number | Annotated[tuple[Number, ...], Field(min_length=1, max_length=64)]
Prompt: TypeAlias = Annotated[str, Field(min_length=1, max_length=20_000)]


class ImageRecord(Config):
    """The settings of one image, or of a sheet of several, complete enough to make it again.

    Attributes:
        prompt: what was drawn.
        negative_prompt: what guidance steered away from.
        seed: the image's own; on a sheet, the first.
        seeds: those of a sheet, in order; empty for a single image.
        width, height: the size that the model drew, in pixels.
        requested_width, requested_height: the size asked for, both or neither.
        exact_size: whether the image was resized and cut to the size asked for.
        enlarge: how many times as large it was written.
        grid: whether it is a sheet.
        guidance_scale, temperature, top_k, top_p: as `GenerationOptions`.
        model: the model's name and the first digits of its digest.
        model_source: its hub id; None for the embedded one and for a folder.
        dtype, device: what the model computed in, and on.
        version: of bitvar.
        batch_invariant: whether it was computed by itself, so that it is the same in any batch.
        lora: the adapters that counted, in order.
        format: 1 up to version 0.1.0, whose random numbers were others; since then `CURRENT`.
    """

    prompt: Prompt
    negative_prompt: Prompt | None = None
    seed: Seed
    seeds: Annotated[tuple[Seed, ...], Field(max_length=MAX_IMAGES)] = ()
    width: Side
    height: Side
    requested_width: Side | None = None
    requested_height: Side | None = None
    exact_size: StrictBool = False
    enlarge: int = Field(default=1, strict=True, ge=1, le=16)
    grid: StrictBool = False
    guidance_scale: PerScale
    temperature: PerScale
    top_k: int = Field(strict=True, ge=0, le=1_000_000)
    top_p: float = Field(strict=True, ge=0, le=1)
    model: str | None = Field(default=None, max_length=200)
    model_source: HubId | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = Field(default=None, max_length=40)
    version: str | None = Field(default=None, max_length=40)
    batch_invariant: StrictBool = True
    lora: Annotated[tuple[UsedAdapter, ...], Field(max_length=32)] = ()
    format: Annotated[int, Field(strict=True, ge=1, le=CURRENT)] = 1

    @classmethod
    def of(cls, metadata: Mapping[str, Any], **more: Any) -> "ImageRecord":
        """The record of an image made now.

        Args:
            metadata: what the pipeline says of it.
            more: what it doesn't know; goes first.

        Raises:
            UsageError: if that is out of the record's bounds.
        """
        return cls.parse({**metadata, **more, "format": CURRENT}, source="the settings of the image")

    @model_validator(mode="before")
    @classmethod
    def _of_a_batch(cls, values: Any) -> Any:
        """Records of version 0.1.0 named the first seed of a batch, its size, and which image of it this is."""
        if not isinstance(values, Mapping) or not {"batch_size", "batch_index"} & values.keys():
            return values
        rest = dict(values)
        size, index, seed = rest.pop("batch_size", 1), rest.pop("batch_index", 0), rest.get("seed")
        if type(size) is not int or not 1 <= size <= MAX_IMAGES:
            raise ValueError(f"batch_size is no whole number from 1 to {MAX_IMAGES}")
        if type(index) is not int or not 0 <= index < size:
            raise ValueError(f"batch_index is no whole number from 0 to {size - 1}")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise ValueError("seed is no whole number from 0 to 2^63 - 1")
        if rest.get("grid") is True:
            rest["seeds"] = tuple((seed + i) % 2**63 for i in range(size))
        else:
            rest["seed"] = (seed + index) % 2**63
        return rest

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _some_words(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("it has no words")
        return text

    @model_validator(mode="after")
    def _coherent(self) -> "ImageRecord":
        if (self.requested_width is None) != (self.requested_height is None):
            raise ValueError("only one of requested_width and requested_height is there")
        if self.exact_size and self.requested_width is None:
            raise ValueError("exact_size without the size asked for")
        if self.grid and (not self.seeds or self.seeds[0] != self.seed):
            raise ValueError("a sheet names its seeds, and the first of them again as its seed")
        if self.seeds and not self.grid:
            raise ValueError("several seeds, but it is no sheet")
        width, height = self.file_size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
        if len(self.json_text()) > MAX_RECORD_BYTES:
            raise ValueError(f"the settings are longer than {MAX_RECORD_BYTES} bytes")
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seed of every image in the file."""
        return self.seeds or (self.seed,)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of each image as it is written."""
        width, height = self.width, self.height
        if self.exact_size and self.requested_width is not None and self.requested_height is not None:
            width, height = self.requested_width, self.requested_height
        return width * self.enlarge, height * self.enlarge

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of the file: of the image, or of the whole sheet."""
        return sheet_size(self.image_size, len(self.seeds)) if self.grid else self.image_size

    def json_text(self) -> str:
        """The record as the files hold it: ASCII, sorted, what is left at its default left out."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


def sheet_size(size: tuple[int, int], count: int) -> tuple[int, int]:
    """Width and height of a sheet of `count` images of one size."""
    return grid_size(count, columns=near_square_columns(count), cell=size, style=_GRID)


def montage(images: list[Image.Image]) -> Image.Image:
    """Images of one size in a near-square grid on white."""
    columns = near_square_columns(len(images))
    return draw_grid([Tile(image) for image in images], columns=columns, cell=images[0].size, style=_GRID)


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for; PNG for a pipe or a device of any name.

    Raises:
        UsageError: for another suffix than those of `FORMATS`.
    """
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return FORMATS.get(path.suffix.lower(), "PNG")
    if path.suffix.lower() not in FORMATS:
        found = f"{path.suffix!r} is none of" if path.suffix else "the name ends in none of"
        why = f"the suffix names the format, and {found} {', '.join(FORMATS)}"
        raise UsageError(f"Can't write {path}.", why, "let the name end in one of them, or in / for a folder")
    return FORMATS[path.suffix.lower()]


def check_size(size: tuple[int, int], form: str) -> None:
    """Refuse a width and height that a format has no images of.

    Raises:
        UsageError: if a side is too long.
    """
    limit = {"JPEG": 65_500, "WEBP": 16_383}.get(form)
    if limit is not None and max(size) > limit:
        why = f"{form} has at most {limit} pixels a side, and this image has {max(size)}"
        raise UsageError(f"Can't write it as {form}.", why, "write a PNG, or a smaller image")


def encode_image(image: Image.Image, record: ImageRecord, form: str = "PNG") -> bytes:
    """A whole file: the image with its record inside. Same image and record, same bytes.

    Raises:
        UsageError: if the format has no images of that size.
    """
    check_size(image.size, form)
    file = io.BytesIO()
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, record.json_text())
        image.save(file, format=form, pnginfo=info)
        return file.getvalue()
    exif = exif_with(KEY, record.json_text())
    options = {"lossless": True} if form == "WEBP" else {"quality": 95, "subsampling": 0}
    image.save(file, format=form, exif=exif, **options)
    return file.getvalue()


def write_image(image: Image.Image, record: ImageRecord, target: Target) -> Path:
    """Write an image with its record, whole or not at all, in the format of the suffix; gives the name it got."""
    data = encode_image(image, record, format_of(target.path))
    if not target.named:
        return write_new(target.path, data)
    target.path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target.path) as temporary:
        temporary.write_bytes(data)
    return target.path


def save_images(images: list[Image.Image], records: list[ImageRecord], where: str | Path) -> list[Path]:
    """Write images with their records where `targets_of` says; nothing if one of them can't be written."""
    targets = targets_of(where, [(record.prompt, record.seed) for record in records])
    for target in targets:
        format_of(target.path)
    return [write_image(*each) for each in zip(images, records, targets, strict=True)]


def read_record(path: Path) -> ImageRecord:
    """The record inside an image file, checked. No pixel is decoded.

    Raises:
        UsageError: if there is no such file, it is none of PNG, WebP and JPEG, holds no record, or one out of bounds.
    """
    try:
        text = find_text(path, KEY, max_bytes=4 * MAX_RECORD_BYTES)
    except FileNotFoundError:
        raise UsageError(f"There is no {path}.", "the file is missing", "check the path") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else _plain(str(error))
        raise UsageError(f"Can't read {path}.", why, "give an image that bitvar wrote") from None
    values = None if text is None else _parsed(text, path)
    if values is None:
        why = "it was not written by bitvar, or has lost its settings since"
        raise UsageError(f"{path} holds no settings.", why, "give the original")
    return ImageRecord.parse(values, source=f"the settings in {path}")


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_constant=_no_constant)
        if not isinstance(values, dict):
            raise ValueError("they are no JSON object")
        json.dumps(values, ensure_ascii=False).encode()  # lone surrogates are no text
    except (ValueError, RecursionError) as error:
        why = "they are nested too deeply" if isinstance(error, RecursionError) else _plain(str(error))
        raise UsageError(f"Can't read the settings in {path}.", why, "give the original") from None
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _plain(text: str) -> str:
    return text.splitlines()[0][:200] if text else "unreadable"
