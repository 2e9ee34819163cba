"""What an image file says of how it was made: a checked record, written to and read from PNG, WebP and JPEG.

A record is read from a file's header without decoding a pixel, and is believed only within its bounds. Knows nothing of
models or pipelines.
"""

import io
import json
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal, TypeAlias

from PIL import Image, PngImagePlugin
from pydantic import Field, StrictBool, field_validator, model_validator

from bitvar.config import Config
from bitvar.errors import UsageError, explain
from bitvar.files import atomic_path
from bitvar.naming import Target, targets_of, write_new

KEY: Final = "bitvar"
"""The PNG text chunk that holds the record, and the key of it in the EXIF comment of WebP and JPEG."""

FORMATS: Final = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""By suffix. PNG and WebP keep every pixel; JPEG, of quality 95, does not."""

MAX_RECORD_BYTES: Final = 60_000
"""As JSON. What a JPEG's EXIF segment can hold, less some room; so that every record fits every format."""

MAX_PIXELS: Final = 2**28
"""Of a finished image or sheet: 16384 x 16384."""

MAX_IMAGES: Final = 64
"""On a sheet."""

_MAX_CHUNK: Final = 4 * MAX_RECORD_BYTES
_MAX_CHUNKS: Final = 200_000
_COMMENT: Final = b"ASCII\0\0\0"
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_GAP: Final = 4

Seed: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Side: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=16384)]
Number: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=100)]
PerScale: TypeAlias = Number | Annotated[tuple[Number, ...], Field(min_length=1, max_length=64)]
Prompt: TypeAlias = Annotated[str, Field(min_length=1, max_length=20_000)]
Source: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_.-]{1,96}$")]
"""A hub id; never a path."""


class UsedAdapter(Config):
    """What a record says of an adapter the image was made with.

    Attributes:
        name: what it was called.
        weight: how much it counted.
        source: its hub id; None for a file.
        sha256: of its file.
        fused: whether it was part of the model's weights.
    """

    name: str = Field(max_length=200)
    weight: float = Field(strict=True)
    source: Source | None
    sha256: str = Field(max_length=64)
    fused: StrictBool


class ImageRecord(Config):
    """The settings of one image, or of a sheet of several, complete enough to make it again.

    Attributes:
        prompt: what was drawn.
        negative_prompt: what guidance steered away from.
        seed: the image's own; on a sheet, the first.
        seeds: those of a sheet, in order; empty for a single image.
        width, height: the size that the model drew, in pixels.
        asked_width, asked_height: the size asked for, both or neither.
        exact_size: whether the image was resized and cut to the size asked for.
        enlarge: how many times as large it was written.
        grid: whether it is a sheet.
        guidance_scale, temperature, top_k, top_p: as `GenerationOptions`.
        model: the model's name and the first digits of its digest.
        model_source: its hub id; None for the embedded one and for a folder.
        dtype, device: what the model computed in, and on.
        version: of bitvar.
        lora: the adapters that counted, in order.
    """

    prompt: Prompt
    negative_prompt: Prompt | None = None
    seed: Seed
    seeds: Annotated[tuple[Seed, ...], Field(max_length=MAX_IMAGES)] = ()
    width: Side
    height: Side
    asked_width: Side | None = None
    asked_height: Side | None = None
    exact_size: StrictBool = False
    enlarge: int = Field(default=1, strict=True, ge=1, le=16)
    grid: StrictBool = False
    guidance_scale: PerScale
    temperature: PerScale
    top_k: int = Field(strict=True, ge=0, le=1_000_000)
    top_p: float = Field(strict=True, ge=0, le=1)
    model: str | None = Field(default=None, max_length=200)
    model_source: Source | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device: str | None = Field(default=None, max_length=40)
    version: str | None = Field(default=None, max_length=40)
    lora: Annotated[tuple[UsedAdapter, ...], Field(max_length=32)] = ()

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
        if (self.asked_width is None) != (self.asked_height is None):
            raise ValueError("only one of asked_width and asked_height is there")
        if self.exact_size and self.asked_width is None:
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
        if self.exact_size and self.asked_width is not None and self.asked_height is not None:
            width, height = self.asked_width, self.asked_height
        return width * self.enlarge, height * self.enlarge

    @property
    def file_size(self) -> tuple[int, int]:
        """Width and height of the file: of the image, or of the whole sheet."""
        return sheet_size(self.image_size, len(self.seeds)) if self.grid else self.image_size

    def json_text(self) -> str:
        """The record as the files hold it: ASCII, sorted, what is left at its default left out."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


def sheet_size(size: tuple[int, int], count: int, gap: int = _GAP) -> tuple[int, int]:
    """Width and height of a sheet of `count` images of one size."""
    columns = _columns(count)
    rows = -(-count // columns)
    return columns * (size[0] + gap) - gap, rows * (size[1] + gap) - gap


def montage(images: list[Image.Image], gap: int = _GAP) -> Image.Image:
    """Images of one size in a near-square grid on white."""
    columns = _columns(len(images))
    width, height = images[0].size
    sheet = Image.new("RGB", sheet_size((width, height), len(images), gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def _columns(count: int) -> int:
    return max(1, round(count**0.5 + 0.499))


def format_of(path: Path) -> str:
    """The format that a file's suffix stands for.

    Raises:
        UsageError: for another suffix than those of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        why = f"the suffix names the format, and {path.suffix or 'none'!r} is none of {known}"
        raise UsageError(explain(f"Can't write {path}.", why, f"let the name end in {known}"))
    return FORMATS[path.suffix.lower()]


def encode_image(image: Image.Image, record: ImageRecord, form: str = "PNG") -> bytes:
    """A whole file: the image with its record inside. Same image and record, same bytes.

    Raises:
        UsageError: if the format has no images of that size.
    """
    limit = {"JPEG": 65_500, "WEBP": 16_383}.get(form)
    if limit is not None and max(image.size) > limit:
        why = f"{form} has at most {limit} pixels a side, and this image has {max(image.size)}"
        raise UsageError(explain(f"Can't write it as {form}.", why, "write a PNG, or a smaller image"))
    file = io.BytesIO()
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, record.json_text())
        image.save(file, format=form, pnginfo=info)
        return file.getvalue()
    exif = Image.Exif()
    comment = f'{{"{KEY}": {record.json_text()}}}'
    exif.get_ifd(_EXIF)[_USER_COMMENT] = _COMMENT + comment.encode("ascii")
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
        with _open_regular(path) as file:
            text = _find_text(file)
    except FileNotFoundError:
        raise UsageError(explain(f"There is no {path}.", "the file is missing", "check the path")) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(explain(f"Can't read {path}.", why, "give an image that bitvar wrote")) from None
    values = None if text is None else _parsed(text, path)
    if values is None:
        why = "it was not written by bitvar, or has lost its settings since"
        raise UsageError(explain(f"{path} holds no settings.", why, "give the original"))
    return ImageRecord.parse(values, source=f"the settings in {path}")


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_constant=_no_constant)
        if not isinstance(values, dict):
            raise ValueError("they are no JSON object")
        json.dumps(values, ensure_ascii=False).encode()  # lone surrogates are no text
    except (ValueError, RecursionError) as error:
        why = "they are nested too deeply" if isinstance(error, RecursionError) else _plain(str(error))
        raise UsageError(explain(f"Can't read the settings in {path}.", why, "give the original")) from None
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _plain(text: str) -> str:
    return text.splitlines()[0][:200] if text else "unreadable"


def _open_regular(path: Path) -> BinaryIO:
    """A file to read; a pipe or a device, which might never answer or never end, is an OSError."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is a pipe or a device")
    return file


def _find_text(file: BinaryIO) -> str | None:
    """The JSON of a record, looked for by each format's own rules."""
    start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        file.seek(8)
        return next(_png_texts(file), None)
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        return _comment(next(_riff_chunks(file, b"EXIF"), None))
    if start.startswith(b"\xff\xd8\xff"):
        file.seek(2)
        return _comment(next(_jpeg_exif(file), None))
    raise ValueError("it is none of PNG, WebP and JPEG")


def _png_texts(file: BinaryIO) -> Iterator[str]:
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, os.SEEK_CUR)
            continue
        key = file.read(min(length, len(KEY) + 1))
        if key != KEY.encode() + b"\0":
            file.seek(length - len(key) + 4, os.SEEK_CUR)
            continue
        rest = file.read(_bounded(length) - len(key))
        if zlib.crc32(kind + key + rest).to_bytes(4, "big") != file.read(4):
            raise ValueError("its settings are damaged: their checksum is wrong")
        yield _png_text(kind, rest)
    raise ValueError(f"it has more than {_MAX_CHUNKS} chunks")


def _png_text(kind: bytes, rest: bytes) -> str:
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _unpacked(rest[1:]).decode("latin-1")
    compressed, rest = rest[:1] == b"\1", rest[2:]
    _, _, rest = rest.partition(b"\0")  # language
    _, _, rest = rest.partition(b"\0")  # the keyword, translated
    return (_unpacked(rest) if compressed else rest).decode()


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, _MAX_CHUNK)
    except zlib.error as error:
        raise ValueError(f"its settings are damaged: {error}") from None
    if not unpacker.eof:
        raise ValueError(f"its settings unpack to more than {_MAX_CHUNK} bytes, or are cut off")
    return text


def _riff_chunks(file: BinaryIO, wanted: bytes) -> Iterator[bytes]:
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], "little")
        if head[:4] == wanted:
            yield file.read(_bounded(length))
            return
        file.seek(length + length % 2, os.SEEK_CUR)
    raise ValueError(f"it has more than {_MAX_CHUNKS} chunks")


def _jpeg_exif(file: BinaryIO) -> Iterator[bytes]:
    for _ in range(_MAX_CHUNKS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):  # the pixels begin, or it ends
            return
        length = int.from_bytes(head[2:], "big") - 2
        if length < 0:
            return
        if head[1] == 0xE1:
            data = file.read(length)
            if data.startswith(b"Exif\0\0"):
                yield data
        else:
            file.seek(length, os.SEEK_CUR)
    raise ValueError(f"it has more than {_MAX_CHUNKS} segments")


def _bounded(length: int) -> int:
    if length > _MAX_CHUNK:
        raise ValueError(f"its settings have {length} bytes; {_MAX_CHUNK} are read at most")
    return length


def _comment(data: bytes | None) -> str | None:
    """The record in an EXIF block's comment, as JSON; None if there is none."""
    if data is None:
        return None
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():  # Pillow warns of odd entries; what counts is whether ours can be read
            warnings.simplefilter("ignore")
            exif.load(data)
            comment = exif.get_ifd(_EXIF).get(_USER_COMMENT)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error, OverflowError) as error:
        raise ValueError(f"its EXIF data can't be read: {_plain(str(error))}") from None
    if not isinstance(comment, bytes) or not comment.startswith(_COMMENT):
        return None
    text = comment.removeprefix(_COMMENT).decode("utf-8")
    before, after = f'{{"{KEY}": ', "}"
    return text[len(before) : -len(after)] if text.startswith(before) and text.endswith(after) else None
