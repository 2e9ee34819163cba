"""What a captioned sample must be, whichever layout it comes in: one set of rules for captions, splits and ratios.

`data check`, `data import`, `data index` and training all read samples through `parse_record`, so that they accept the
same ones and give the same reasons. Knows nothing of files but their names.
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
"""Endings of the files that are opened as images. One whose format can't be read is rejected by name, never skipped."""

IMAGE_FIELDS: Final = ("image_path", "file_name", "path", "image", "file")
CAPTION_FIELDS: Final = ("long_caption", "caption", "text", "short_caption", "prompt")
OTHER_FIELDS: Final = ("captions", "split", "h_div_w")
MAX_CAPTION: Final = 4000
"""Characters; a longer one is a mistake in the table, not a caption."""

MAX_LINE: Final = 1 << 20
"""Bytes of a line, or of a file beside an image."""

_SPLIT = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)

# Written out rather than asked of Python, whose tables change with every version of Unicode.
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""Format characters that only steer how a text is laid out: soft hyphens, zero-width spaces, marks of direction and of
byte order. Joiners (U+200C, U+200D) and tags (U+E0020 on) stay, for scripts and emoji are spelt with them."""

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane * 0x10000 + 0xFFFE) + chr(plane * 0x10000 + 0xFFFF) for plane in range(17))
    + "]"
)
"""Control characters other than white space, surrogates, and code points that Unicode never assigns."""

_LIST = re.compile(r"""\s*\[\s*(["']).*\1\s*,?\s*\]\s*""", re.DOTALL)
"""A list of texts, as JSON or as Python writes it."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_CAMERA_WORDS = frozenset(
    ("img", "image", "dsc", "dscn", "dscf", "pxl", "photo", "pic", "picture", "scan", "screenshot", "untitled", "copy")
)


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read, where there is a choice.

    Attributes:
        root: folder that relative paths in tables start from; each table's own folder if None.
        caption_lines: whether a text file holds one caption a line, rather than one caption.
        caption: caption of samples that have none.
        captions_from_names: whether samples that have none are captioned by the words of their file names.
    """

    root: Path | None = None
    caption_lines: bool = False
    caption: str | None = None
    captions_from_names: bool = False

    @property
    def makes_captions(self) -> bool:
        """Whether a sample may come without a caption."""
        return self.caption is not None or self.captions_from_names


DEFAULT_OPTIONS: Final = ReadOptions()


@dataclass(frozen=True)
class RawSample:
    """A captioned image whose image nobody has opened yet.

    Attributes:
        name: how reports call it: a relative path, or a file and the line or member in it.
        image: where its bytes are.
        captions: one or more, each true of the image, the longest kind first.
        split: the split its source puts it in, if any.
        ratio: height / width as its source claims, if it does.
        key: what it is known by wherever it stands in its source: the image's path as a table writes it, else `name`.
        digest: the sha256 that the image's bytes must have, if the source knows one.
        labels: everything else that its source says of it.
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
    """A sample that can't be used, and why."""

    name: str
    reason: str
    detail: str


Record: TypeAlias = RawSample | Rejected


@dataclass(frozen=True)
class RawFields:
    """What a layout has of a sample, before anything in `fields` is checked."""

    image: Readable
    fields: Mapping[str, Any]
    key: str


def parse_record(name: str, find: Callable[[], RawFields], options: ReadOptions, *, split: str | None = None) -> Record:
    """A raw_sample of what `find` finds, or the rejection it raises.

    Args:
        name: how reports call the sample.
        find: reads the sample's fields.
        options: how captions are read.
        split: the split of a sample whose fields name none.
    """
    try:
        found = find()
        own, ratio = read_split(found.fields.get("split")), _ratio(found.fields.get("h_div_w"))
        captions = _captions(found.fields, found.key, options)
        return RawSample(name, found.image, captions, own or split, ratio, found.key, labels=found.fields)
    except RefusedError as error:
        return Rejected(name, error.reason, error.detail)


def fields_in_row(folder: Path, row: Mapping[str, Any], options: ReadOptions) -> RawFields:
    """The fields of a table's row, and the image that it names.

    A path may be absolute or lead out of the folder: official tables do so, and it is only read.

    Args:
        folder: the table's.
        row: its fields.
        options: where relative paths start.

    Raises:
        RefusedError: if the row names no image.
    """
    known = next((name for name in IMAGE_FIELDS if row.get(name)), None)
    if known is None:
        raise RefusedError("missing-field", f"it has none of {', '.join(IMAGE_FIELDS)}")
    text = row[known]
    if not isinstance(text, str) or "\0" in text:
        raise RefusedError("wrong-type", f"{known} is no path: {short(text)}")
    if _ADDRESS.match(text):
        raise RefusedError("missing-image", f"{text[:100]} is an address: fetch the images, and name the files")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise RefusedError("wrong-type", f"{known} can't be the name of a file: {short(text)}") from None
    return RawFields(Location((folder if options.root is None else options.root) / text), row, text)


def text_fields(text: str, options: ReadOptions) -> Mapping[str, Any]:
    """The fields of a text file: one caption, or one a line."""
    return {"captions": text.splitlines() or [""]} if options.caption_lines else {"captions": [text]}


def _captions(fields: Mapping[str, Any], key: str, options: ReadOptions) -> tuple[str, ...]:
    given = fields.get("captions")
    if given is None or given == "":
        given = [fields[name] for name in CAPTION_FIELDS if fields.get(name) is not None]
        given = [caption for value in given for caption in _listed(value)]
    elif isinstance(given, str):
        given = _listed(given)
    elif not isinstance(given, list):
        raise RefusedError("wrong-type", f"captions is no list of texts: {short(given)}")
    if options.makes_captions and all(isinstance(caption, str) and not caption.strip() for caption in given):
        given = _made_captions(key, options)
    if not given:
        raise RefusedError("no-caption", f"it has none of captions, {', '.join(CAPTION_FIELDS)}")
    return fold_captions(given)


def _listed(value: Any) -> list[Any]:
    """The captions in a field for one: that one, or those of a list that a table's cell holds as JSON.

    Raises:
        RefusedError: for a list in Python's spelling, whose brackets and quotes would be trained on.
    """
    if not isinstance(value, str) or not _LIST.fullmatch(value):
        return [value]
    try:
        given = json.loads(value)
    except (ValueError, RecursionError):
        raise RefusedError("wrong-type", f"a list of captions that is no JSON: {short(value)}") from None
    return given if all(isinstance(caption, str) for caption in given) else [value]


def _made_captions(key: str, options: ReadOptions) -> list[str]:
    words = words_of_name(key) if options.captions_from_names else ""
    if not words and options.caption is None:
        raise RefusedError("no-caption", "its name has no words in it")
    return [words or options.caption or ""]


def words_of_name(name: str) -> str:
    """The words in a file's name, without numbers: "cats/red_cat-01.png" gives "red cat".

    A name of nothing but numbers and what cameras write ("IMG_0042") has none.
    """
    stem = PurePosixPath(name).name
    stem = stem[: stem.rindex(".")] if stem.lower().endswith(SUFFIXES) else stem
    words = [word for word in _BETWEEN_WORDS.split(stem) if any(character.isalpha() for character in word)]
    return "" if all(word.rstrip("0123456789").lower() in _CAMERA_WORDS for word in words) else " ".join(words)


def fold_captions(given: Sequence[Any]) -> tuple[str, ...]:
    """Every caption, white space folded, invisible marks of layout left out, none twice. Empty ones don't count.

    Raises:
        RefusedError: if one is no text, too long or has control characters, or all are empty.
    """
    captions: dict[str, None] = {}
    for caption in given:
        if not isinstance(caption, str):
            raise RefusedError("wrong-type", f"a caption is no text: {short(caption)}")
        if not (caption.isascii() and caption.isprintable()):  # as most are: then there is nothing to find
            if _FORBIDDEN.search(caption):
                raise RefusedError("bad-caption", f"it has control characters: {caption[:60]!r}")
            caption = _INVISIBLE.sub("", caption)  # noqa: PLW2901
        folded = " ".join(caption.split())
        if len(folded) > MAX_CAPTION:
            raise RefusedError("long-caption", f"{len(folded)} characters; at most {MAX_CAPTION}")
        if folded:
            captions[folded] = None
    if not captions:
        raise RefusedError("empty-caption", "every caption is empty")
    return tuple(captions)


def read_split(value: Any) -> str | None:
    """A split's name, if there is one.

    Raises:
        RefusedError: if it is no text, or could be no name.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RefusedError("wrong-type", f"split is no text: {short(value)}")
    if not _SPLIT.fullmatch(value):
        raise RefusedError("bad-split", f"a split is called by letters, digits, '_', '-' and '.': {short(value)}")
    return value


def _ratio(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        ratio = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        ratio = math.nan
    if not 0 < ratio < math.inf:
        raise RefusedError("wrong-type", f"h_div_w is no ratio: {short(value)}")
    return ratio


def decode_text(line: bytes) -> str:
    """A text without its byte order mark.

    Raises:
        RefusedError: if it is too long, or not UTF-8.
    """
    if len(line) >= MAX_LINE:
        raise RefusedError("broken-line", f"longer than {MAX_LINE} bytes")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError("not-utf8", f"byte {error.start}: save it as UTF-8") from None


def parse_object(text: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        RefusedError: if it is none, or has a key twice.
    """
    try:
        row = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise RefusedError("broken-line", f"no JSON: {error.msg.lower()} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError("broken-line", f"no JSON: {str(error)[:100]}") from None
    if not isinstance(row, dict):
        raise RefusedError("broken-line", f"no JSON object but {type(row).__name__}")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which every key is there once: of two captions, nobody could say which one is meant."""
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise RefusedError("broken-line", f"the key {short(key)} is there twice")
        row[key] = value
    return row
