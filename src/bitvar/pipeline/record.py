"""The record inside an image file: validated settings from which the image can be generated again.

A record is read from a file's header without decoding a pixel, and every value is checked against its bounds. This
module knows nothing about models; `image_files` writes records, and `reproduce` finds the model that a record names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from PIL import Image
from pydantic import Field, StrictBool, field_validator, model_validator

from bitvar.config import Config
from bitvar.control.used import UsedControl
from bitvar.editing.spec import EditSummary, MixedPrompt, MixedSeed
from bitvar.errors import UsageError
from bitvar.imaging.embedded_text import find_text, find_text_in
from bitvar.imaging.sheet import GridStyle, Tile, draw_grid, grid_size, near_square_columns
from bitvar.lora.used import HubId, UsedAdapter
from bitvar.pipeline.request import MAX_MIXED, Background
from bitvar.sampling.quality import QualityOptions

KEY: Final = "bitvar"
"""Name of the PNG text chunk that holds the record, and its key in the EXIF comment of WebP and JPEG."""

CURRENT: Final = 2
"""Format number of records written now."""

MAX_RECORD_BYTES: Final = 60_000
"""Longest record as JSON. A JPEG's EXIF segment holds slightly more, so every record fits every format."""

MAX_PIXELS: Final = 2**28
"""Most pixels of a finished image or sheet: 16384 x 16384."""

MAX_IMAGES: Final = 64
"""Most images on a sheet."""

_GRID: Final = GridStyle(gap=4, margin=0)

Seed: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Side: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=16384)]
Number: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=100)]
PerScale: TypeAlias = Number | Annotated[tuple[Number, ...], Field(min_length=1, max_length=64)]
Prompt: TypeAlias = Annotated[str, Field(max_length=20_000)]
OptimizationName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]


class ImageRecord(Config):
    """The settings of one image, or of a sheet of several, complete enough to generate it again.

    Attributes:
        prompt: Text that the image was generated from.
        negative_prompt: Text that guidance steered away from.
        seed: Seed of the image; on a sheet, of its first image.
        seeds: Seeds of a sheet, in order; empty for a single image.
        width, height: Size in pixels at which the model generated the image.
        requested_width, requested_height: Size that was requested; both or neither.
        exact_size: Whether the image was resized and cropped to the requested size.
        enlarge: Factor by which the image was enlarged before it was written.
        grid: Whether the file is a sheet.
        guidance_scale, temperature, top_k, top_p: Sampling parameters, as in `SamplingParams`.
        model: Name of the model and the first digits of its digest.
        model_source: Hub id of the model; None for the embedded model and for a folder.
        dtype, device: Precision and kind of device of the computation.
        version: Version of bitvar.
        batch_invariant: Whether the image was computed by itself, so that its batch had no influence.
        lora: Active adapters, in order.
        watermark: Public id of the key that the bits were drawn with (`Watermark.key_id`); None without a watermark.
        background: Background that was requested: as the model draws it, transparent, or opaque.
        optimizations: Optimizations that the image's bits depend on, in the order in which they were applied.
        control: Control adapter and map that the image followed; None without them.
        edit: Edit of another image that the image was made by; None for a new image.
        mix: Further prompts, as in `GenerationRequest`.
        mixed_seed: Second seed, as in `GenerationRequest`.
        quality: Options that the image was drawn with, a preset's written out; None for none.
        original_prompt: Prompt as the user gave it, if `prompt` is what a language model made of it.
        rewritten_by: Name of that language model.
        format: Format number. Records of version 0.1.0 have 1; its images used other random numbers.
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
    watermark: str | None = Field(default=None, pattern=r"^[0-9a-f]{16}$")
    background: Background = "auto"
    optimizations: Annotated[tuple[OptimizationName, ...], Field(max_length=16)] = ()
    control: UsedControl | None = None
    edit: EditSummary | None = None
    mix: Annotated[tuple[MixedPrompt, ...], Field(max_length=MAX_MIXED)] = ()
    mixed_seed: MixedSeed | None = None
    quality: QualityOptions | None = None
    original_prompt: Prompt | None = None
    rewritten_by: str | None = Field(default=None, max_length=200)
    format: Annotated[int, Field(strict=True, ge=1, le=CURRENT)] = 1

    @classmethod
    def of(cls, metadata: Mapping[str, Any], **more: Any) -> "ImageRecord":
        """Make the record of a new image.

        Args:
            metadata: Metadata from the pipeline.
            more: Values that the pipeline doesn't know; they override the metadata.

        Raises:
            UsageError: A value is out of the record's bounds.
        """
        return cls.parse({**metadata, **more, "format": CURRENT}, source="the settings of the image")

    @model_validator(mode="before")
    @classmethod
    def _convert_batch_record(cls, values: Any) -> Any:
        """Convert a record of version 0.1.0, which named the batch's first seed, its size and the image's index."""
        if not isinstance(values, Mapping) or not {"batch_size", "batch_index"} & values.keys():
            return values
        rest = dict(values)
        size, index, seed = rest.pop("batch_size", 1), rest.pop("batch_index", 0), rest.get("seed")
        if type(size) is not int or not 1 <= size <= MAX_IMAGES:
            raise ValueError(f"batch_size is not a whole number from 1 to {MAX_IMAGES}")
        if type(index) is not int or not 0 <= index < size:
            raise ValueError(f"batch_index is not a whole number from 0 to {size - 1}")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise ValueError("seed is not a whole number from 0 to 2^63 - 1")
        if rest.get("grid") is True:
            rest["seeds"] = tuple((seed + i) % 2**63 for i in range(size))
        else:
            rest["seed"] = (seed + index) % 2**63
        return rest

    @field_validator("negative_prompt")
    @classmethod
    def _not_blank(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("it is blank")
        return text

    @model_validator(mode="after")
    def _consistent(self) -> "ImageRecord":
        if not self.prompt.strip() and self.edit is None:
            raise ValueError("the prompt is blank")
        if (self.requested_width is None) != (self.requested_height is None):
            raise ValueError("only one of requested_width and requested_height is given")
        if self.exact_size and self.requested_width is None:
            raise ValueError("exact_size needs requested_width and requested_height")
        if self.grid and (not self.seeds or self.seeds[0] != self.seed):
            raise ValueError("a sheet must list its seeds, with seed as the first of them")
        if self.seeds and not self.grid:
            raise ValueError("it lists several seeds but is not a sheet")
        if self.grid and self.background == "transparent":
            raise ValueError("a sheet is never transparent")
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
        """Width and height of each image in the file."""
        width, height = self.width, self.height
        if self.exact_size and self.requested_width is not None and self.requested_height is not None:
            width, height = self.requested_width, self.requested_height
        return width * self.enlarge, height * self.enlarge

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of the whole file: a single image or a sheet."""
        return sheet_size(self.image_size, len(self.seeds)) if self.grid else self.image_size

    def json_text(self) -> str:
        """The record as stored in files: ASCII, with sorted keys and without default values."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


def sheet_size(size: tuple[int, int], count: int) -> tuple[int, int]:
    """Width and height of a sheet of `count` images of one size."""
    return grid_size(count, columns=near_square_columns(count), cell=size, style=_GRID)


def montage(images: list[Image.Image]) -> Image.Image:
    """Draw images of one size in a near-square grid on white."""
    columns = near_square_columns(len(images))
    return draw_grid([Tile(image) for image in images], columns=columns, cell=images[0].size, style=_GRID)


def read_record(path: Path) -> ImageRecord:
    """Read and check the record inside an image file. No pixel is decoded.

    Raises:
        UsageError: The file doesn't exist, isn't a PNG, WebP or JPEG, or has no record or one out of bounds.
    """
    try:
        text = find_text(path, KEY, max_bytes=4 * MAX_RECORD_BYTES)
    except FileNotFoundError:
        raise UsageError(f"There is no {path}.", fix="check the path") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(str(error))
        raise UsageError(f"Can't read {path}.", why, "give an image that bitvar wrote") from None
    values = None if text is None else _parse_json(text, path)
    if values is None:
        why = "bitvar didn't write it, or another program removed them"
        raise UsageError(f"{path} holds no settings.", why, "give the original file")
    return ImageRecord.parse(values, source=f"the settings in {path}")


def find_record(data: bytes) -> ImageRecord | None:
    """Read the record inside the bytes of an image file; None if there is none, or none that can be used."""
    try:
        text = find_text_in(data, KEY, max_bytes=4 * MAX_RECORD_BYTES)
        return None if text is None else ImageRecord.parse(_parse_json(text, Path("the image")), source="the image")
    except ValueError:  # of which UsageError is one
        return None


def _parse_json(text: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(values, dict):
            raise ValueError("they are not a JSON object")
        json.dumps(values, ensure_ascii=False).encode()  # lone surrogates can't be encoded
    except (ValueError, RecursionError) as error:
        why = "they are nested too deeply" if isinstance(error, RecursionError) else _first_line(str(error))
        raise UsageError(f"Can't read the settings in {path}.", why, "give the original file") from None
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _first_line(text: str) -> str:
    return text.splitlines()[0][:200] if text else "unreadable"
