"""The rules for a captioned sample in any layout: its captions, its split, and the ratio of its image.

`data check`, `data import`, `data index` and training all read samples through `parse_record`, so they accept the same
samples and reject the others for the same reasons. Of files, this module knows only the names.
"""

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import Any, Final, TypeAlias

from bitvar.imaging.formats import IMAGE_SUFFIXES
from bitvar.imaging.open import Location, Readable, RefusedError

SUFFIXES: Final = IMAGE_SUFFIXES
"""Endings of files that are opened as images. A file that can't be read is rejected by name, never skipped."""

IMAGE_FIELDS: Final = ("image_path", "file_name", "path", "image", "file")
CAPTION_FIELDS: Final = ("long_caption", "caption", "text", "short_caption", "prompt")
OTHER_FIELDS: Final = ("captions", "split", "h_div_w")
MAX_CAPTION: Final = 4000
"""Largest number of characters in a caption. A longer text is a mistake in the table."""

MAX_LINE: Final = 1 << 20
"""Largest number of bytes in a line, or in a text file beside an image."""

_SPLIT = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)

# Written out, since the tables in Python change with every version of Unicode.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""Format characters that affect only the layout of a text: soft hyphens, zero-width spaces, direction and byte order
marks. Joiners (U+200C, U+200D) and tags (from U+E0020) stay, since scripts and emoji are spelt with them."""

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane * 0x10000 + 0xFFFE) + chr(plane * 0x10000 + 0xFFFF) for plane in range(17))
    + "]"
)
"""Control characters other than white space, surrogates, and code points that Unicode never assigns."""

_LIST = re.compile(r"""\s*\[\s*(["']).*\1\s*,?\s*\]\s*""", re.DOTALL)
"""A list of texts as JSON or Python writes it."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_CAMERA_WORDS = frozenset(
    ("img", "image", "dsc", "dscn", "dscf", "pxl", "photo", "pic", "picture", "scan", "screenshot", "untitled", "copy")
)


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a source.

    Attributes:
        root: Folder that relative paths in tables start from; None for each table's own folder.
        caption_lines: Whether every line of a text file is a caption. Otherwise the file is one caption.
        caption: Caption for samples that have none.
        captions_from_names: Whether samples without a caption get the words of their file names.
    """

    root: Path | None = None
    caption_lines: bool = False
    caption: str | None = None
    captions_from_names: bool = False

    @property
    def makes_captions(self) -> bool:
        """Whether samples without a caption get one."""
        return self.caption is not None or self.captions_from_names


DEFAULT_OPTIONS: Final = ReadOptions()


@dataclass(frozen=True)
class RawSample:
    """A captioned image that hasn't been opened yet.

    Attributes:
        name: Name in reports: a relative path, or a file and the line or member in it.
        image: Source of the image's bytes.
        captions: One or more captions, each describing the image, the most detailed kind first.
        split: Split given by the source, if any.
        ratio: Height / width given by the source, if any.
        key: Identity that doesn't depend on the position in the source: the image's path as the table has it, or
            `name` if there is no table.
        digest: The sha256 that the image's bytes must have, if the source gives one.
        labels: All other fields that the source has for the sample.
    """

    name: str
    image: Readable
    captions: tuple[str, ...]
    split: str | None = None
    ratio: float | None = None
    key: str = ""
    digest: bytes | None = None
    labels: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Rejected:
    """A sample that can't be used: its name in reports, a short reason to count by, and the detail."""

    name: str
    reason: str
    detail: str


Record: TypeAlias = RawSample | Rejected
"""An item of a source: a sample, or the reason why it isn't one."""


@dataclass(frozen=True)
class RawFields:
    """The unchecked fields of a sample, as a layout has them."""

    image: Readable
    fields: Mapping[str, Any]
    key: str


def parse_record(
    name: str, read_fields: Callable[[], RawFields], options: ReadOptions, *, split: str | None = None
) -> Record:
    """Check a sample's fields. Return the sample, or its rejection.

    Args:
        name: The sample's name in reports.
        read_fields: Reads the sample's fields; may raise RefusedError.
        options: Options for reading the source.
        split: Split of a sample whose fields give none.
    """
    try:
        found = read_fields()
        own, ratio = read_split(found.fields.get("split")), _ratio(found.fields.get("h_div_w"))
        captions = _captions(found.fields, found.key, options)
        return RawSample(name, found.image, captions, own or split, ratio, found.key, labels=found.fields)
    except RefusedError as error:
        return Rejected(name, error.reason, error.detail)


def fields_in_row(folder: Path, row: Mapping[str, Any], options: ReadOptions) -> RawFields:
    """Return the fields of a table's row, and the image that it names.

    A path may be absolute or lead out of the folder, as in the official tables. Files are only ever read.

    Args:
        folder: The folder of the table.
        row: The fields by column name.
        options: Options for reading the source.

    Raises:
        RefusedError: If the row names no image.
    """
    known = next((name for name in IMAGE_FIELDS if row.get(name)), None)
    if known is None:
        raise RefusedError("missing-field", f"it has none of {', '.join(IMAGE_FIELDS)}")
    text = row[known]
    if not isinstance(text, str) or "\0" in text:
        raise RefusedError("wrong-type", f"{known} is not a path: {short(text)}")
    if _ADDRESS.match(text):
        raise RefusedError("missing-image", f"{text[:100]} is a URL: download the images, and name the files")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise RefusedError("wrong-type", f"{known} can't be a file name: {short(text)}") from None
    return RawFields(Location((folder if options.root is None else options.root) / text), row, text)


def text_fields(text: str, options: ReadOptions) -> Mapping[str, Any]:
    """Return the fields of a text file: one caption, or one per line."""
    return {"captions": text.splitlines() or [""]} if options.caption_lines else {"captions": [text]}


def _captions(fields: Mapping[str, Any], key: str, options: ReadOptions) -> tuple[str, ...]:
    given = fields.get("captions")
    if given is None or given == "":
        given = [fields[name] for name in CAPTION_FIELDS if fields.get(name) is not None]
        given = [caption for value in given for caption in _listed(value)]
    elif isinstance(given, str):
        given = _listed(given)
    elif not isinstance(given, list):
        raise RefusedError("wrong-type", f"captions is not a list of texts: {short(given)}")
    if options.makes_captions and all(isinstance(caption, str) and not caption.strip() for caption in given):
        given = _made_captions(key, options)
    if not given:
        raise RefusedError("no-caption", f"it has none of captions, {', '.join(CAPTION_FIELDS)}")
    return fold_captions(given)


def _listed(value: Any) -> list[Any]:
    """Return the captions in a field meant for one. A cell of a table may hold a list of them as JSON.

    Raises:
        RefusedError: If the value is a list in Python's notation: brackets and quotes would become part of a caption.
    """
    if not isinstance(value, str) or not _LIST.fullmatch(value):
        return [value]
    try:
        given = json.loads(value)
    except (ValueError, RecursionError):
        raise RefusedError("wrong-type", f"the list of captions is not JSON: {short(value)}") from None
    return given if all(isinstance(caption, str) for caption in given) else [value]


def _made_captions(key: str, options: ReadOptions) -> list[str]:
    words = words_of_name(key) if options.captions_from_names else ""
    if not words and options.caption is None:
        raise RefusedError("no-caption", "its file name has no words")
    return [words or options.caption or ""]


def words_of_name(name: str) -> str:
    """Return the words in a file name, without numbers: "cats/red_cat-01.png" gives "red cat".

    A name made of numbers and camera prefixes only ("IMG_0042") has no words.
    """
    stem = PurePosixPath(name).name
    stem = stem[: stem.rindex(".")] if stem.lower().endswith(SUFFIXES) else stem
    words = [word for word in _BETWEEN_WORDS.split(stem) if any(character.isalpha() for character in word)]
    return "" if all(word.rstrip("0123456789").lower() in _CAMERA_WORDS for word in words) else " ".join(words)


def fold_captions(given: Sequence[Any]) -> tuple[str, ...]:
    """Normalise captions: fold white space, remove invisible layout characters, drop empty ones and repetitions.

    Raises:
        RefusedError: If a caption is not a text, is too long or has control characters, or if all are empty.
    """
    captions: dict[str, None] = {}
    for caption in given:
        if not isinstance(caption, str):
            raise RefusedError("wrong-type", f"a caption is not a text: {short(caption)}")
        if not (caption.isascii() and caption.isprintable()):  # most captions are plain, and need no search
            if _FORBIDDEN.search(caption):
                raise RefusedError("bad-caption", f"it has control characters: {caption[:60]!r}")
            caption = _INVISIBLE.sub("", caption)  # noqa: PLW2901
        folded = " ".join(caption.split())
        if len(folded) > MAX_CAPTION:
            raise RefusedError("long-caption", f"it has {len(folded)} characters; at most {MAX_CAPTION} are allowed")
        if folded:
            captions[folded] = None
    if not captions:
        raise RefusedError("empty-caption", "every caption is empty")
    return tuple(captions)


def read_split(value: Any) -> str | None:
    """Return the name of a split, or None for an empty value.

    Raises:
        RefusedError: If the value is not a text, or not a valid name.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RefusedError("wrong-type", f"split is not a text: {short(value)}")
    if not _SPLIT.fullmatch(value):
        raise RefusedError(
            "bad-split", f"the name of a split has letters, digits, '_', '-' and '.' only: {short(value)}"
        )
    return value


def _ratio(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        ratio = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        ratio = math.nan
    if not 0 < ratio < math.inf:
        raise RefusedError("wrong-type", f"h_div_w is not a ratio: {short(value)}")
    return ratio


def decode_text(line: bytes) -> str:
    """Decode UTF-8, and drop the byte order mark.

    Raises:
        RefusedError: If the text is too long, or not UTF-8.
    """
    if len(line) >= MAX_LINE:
        raise RefusedError("broken-line", f"it is longer than {MAX_LINE} bytes")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError("not-utf8", f"byte {error.start} is not UTF-8: save the file as UTF-8") from None


def parse_object(text: str) -> Mapping[str, Any]:
    """Parse a JSON object.

    Raises:
        RefusedError: If the text is not a JSON object, or has a key twice.
    """
    try:
        row = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise RefusedError("broken-line", f"it is not JSON: {error.msg.lower()} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError("broken-line", f"it is not JSON: {str(error)[:100]}") from None
    if not isinstance(row, dict):
        raise RefusedError("broken-line", f"it is not a JSON object but {type(row).__name__}")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, and reject repeated keys: of two captions, it would be unclear which one is meant."""
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise RefusedError("broken-line", f"it has the key {short(key)} twice")
        row[key] = value
    return row
