"""The layouts that captioned pictures come in: folders with sidecars, tables, JSON lines, tars.

Each reader yields what it found, usable or not, one entry at a time and in a fixed order; none stops at a bad one, and
none opens a picture. Whether a picture is sound is `check`'s business.
"""

import csv
import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import Any, BinaryIO, Final, TypeAlias

from bitvar.data.formats import IMAGE_SUFFIXES
from bitvar.data.pictures import Location, Readable, RefusedError, open_plain
from bitvar.errors import UsageError, explain

SUFFIXES: Final = IMAGE_SUFFIXES
PICTURE_FIELDS: Final = ("image_path", "file_name", "path", "image", "file")
CAPTION_FIELDS: Final = ("long_caption", "caption", "text", "short_caption", "prompt")
MAX_CAPTION: Final = 4000
"""Characters; a longer one is a mistake in the table, not a caption."""

_JOINERS: Final = "\u200c\u200d"
"""Not printable to Python, but Persian, Hindi and emoji are spelt with them."""

_SPLIT = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_OFFICIAL_NAME = re.compile(r"\d+(?:\.\d+)?_(?P<count>\d+)\.jsonl")
_MAX_LINE = 1 << 20


@dataclass(frozen=True)
class Candidate:
    """A captioned picture whose picture nobody has opened yet.

    Attributes:
        name: how reports call it: a relative path, or a file and the line or member in it.
        picture: where its bytes are.
        captions: one or more, each true of the picture, the longest kind first.
        split: the split its source puts it in, if any.
        ratio: height / width as its source claims, if it does.
        key: what it is known by wherever it stands in its source: the picture's path as a table writes it, else `name`.
        digest: the sha256 that the picture's bytes must have, if the source knows one.
    """

    name: str
    picture: Readable
    captions: tuple[str, ...]
    split: str | None = None
    ratio: float | None = None
    key: str = ""
    digest: bytes | None = None


@dataclass(frozen=True)
class Refusal:
    """A sample that can't be used, and why."""

    name: str
    reason: str
    detail: str


Entry: TypeAlias = Candidate | Refusal


@dataclass(frozen=True)
class _Found:
    """What a layout has of a sample, before anything in `fields` is checked."""

    picture: Readable
    fields: Mapping[str, Any]
    key: str


def read_entries(source: Path) -> Iterator[Entry]:
    """Every sample of a folder or file, whichever layout it has.

    Args:
        source: a `.jsonl`, `.csv`, `.tsv` or `.tar` file; a folder of one kind of these; or a folder of pictures with a
            `.txt` or `.json` of the same name beside each.

    Raises:
        UsageError: if there is nothing there, or a folder holds several kinds.
    """
    if source.is_file():
        reader = _READERS.get(source.suffix.lower())
        if reader is None:
            why = f"known are folders of pictures, and {', '.join(_READERS)}"
            raise UsageError(explain(f"Can't read {source} as a captioned set.", why, "name one of those"))
        return reader(source)
    if not source.is_dir():
        raise UsageError(explain(f"There is no {source}.", "no such file or folder", "check the path"))
    with os.scandir(source) as found:
        listings = sorted(
            Path(item.path)
            for item in found
            if not item.name.startswith(".") and Path(item.name).suffix.lower() in _READERS and item.is_file()
        )
    own = source / "samples.jsonl"  # what bitvar writes; its other files are no samples
    listings = [own] if own in listings else listings
    kinds = sorted({path.suffix.lower() for path in listings})
    if len(kinds) > 1:
        why = f"it holds {' and '.join(kinds)} files, and they may list the same pictures"
        raise UsageError(explain(f"Can't tell which layout {source} has.", why, "name one file instead of the folder"))
    if kinds:
        return (entry for path in listings for entry in _READERS[kinds[0]](path))
    return _read_sidecars(source)


def _read_sidecars(folder: Path) -> Iterator[Entry]:
    """Pictures with a text beside each: `cat.jpg` and `cat.txt` (a caption a line), or `cat.json`.

    Goes folder by folder, and holds the names of one at a time.
    """
    problems: list[OSError] = []
    empty = True
    for parent, folders, files in os.walk(folder, onerror=problems.append):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (here / name).is_symlink():
                empty = False
                where = (here / name).relative_to(folder).as_posix()
                yield Refusal(where, "unreadable-file", "a link to a folder is not followed")
        for entry in _pair(folder, here, sorted(name for name in files if not name.startswith("."))):
            empty = False
            yield entry
    for problem in problems:
        yield Refusal(os.path.relpath(problem.filename, folder), "unreadable-file", problem.strerror or str(problem))
    if empty and not problems:
        why = f"it has no {', '.join(SUFFIXES)} in it, and no table"
        raise UsageError(explain(f"{folder} holds no pictures.", why, "check the path"))


def _pair(folder: Path, here: Path, names: Sequence[str]) -> Iterator[Entry]:
    """The samples among the files `names` of the folder `here`, called by their paths from `folder`."""
    parent = here.relative_to(folder)
    texts = {name for name in names if Path(name).suffix.lower() in (".txt", ".json")}
    stems: dict[str, str] = {}
    for picture in names:
        if Path(picture).suffix.lower() not in SUFFIXES:
            continue
        name, stem = (parent / picture).as_posix(), Path(picture).stem
        if stem in stems:
            yield Refusal(name, "duplicate", f"{stems[stem]} has the same name, so the same captions")
            continue
        stems[stem] = picture
        sidecars = [stem + suffix for suffix in (".txt", ".json") if stem + suffix in texts]
        if not sidecars:
            yield Refusal(name, "no-caption", f"there is no {stem}.txt or {stem}.json beside it")
        else:
            place, sidecar = Location(here / picture), here / sidecars[0]
            yield _entry(name, lambda n=name, p=place, s=sidecar: _Found(p, _beside(s), n))
    for text in sorted(texts):
        if Path(text).stem not in stems:
            yield Refusal((parent / text).as_posix(), "missing-picture", "no picture has its name")


def _beside(sidecar: Path) -> Mapping[str, Any]:
    try:
        with open_plain(sidecar) as file:
            text = _decode(file.read(_MAX_LINE))
    except OSError as error:
        raise RefusedError("unreadable-file", f"{sidecar.name}: {error.strerror}") from None
    return _parse(text) if sidecar.suffix.lower() == ".json" else {"captions": text.splitlines() or [""]}


def _read_lines(path: Path) -> Iterator[Entry]:
    """JSON lines, each with a picture's path and captions; the official `[ratio]_[count].jsonl` among them."""
    official = _OFFICIAL_NAME.fullmatch(path.name)
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                count += 1
                yield _entry(f"{path.name}:{number}", lambda line=line: _from_row(path, _parse(_decode(line))))
    if official and int(official["count"]) != count:
        yield Refusal(path.name, "wrong-count", f"the name says {int(official['count'])} samples, there are {count}")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file; of one longer than `_MAX_LINE`, only so much is ever held."""
    while line := file.readline(_MAX_LINE):
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_MAX_LINE)
        yield line


def _read_table(path: Path) -> Iterator[Entry]:
    """CSV or TSV with a header that names the picture and caption columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            header = [name for name in rows.fieldnames or () if name]
            for what, known in (("picture", PICTURE_FIELDS), ("caption", ("captions", *CAPTION_FIELDS))):
                if not set(header) & set(known):
                    why = f"its header is {header or 'empty'}; a {what} column is one of {', '.join(known)}"
                    raise UsageError(explain(f"{path} has no {what} column.", why, "rename the column"))
            for row in rows:
                yield _entry(f"{path.name}:{rows.line_num}", lambda row=row: _from_row(path, row))
    except UnicodeDecodeError as error:
        yield Refusal(path.name, "not-utf8", f"byte {error.start}: the rest of the table is unread")
    except csv.Error as error:
        yield Refusal(path.name, "broken-line", f"{error}: the rest of the table is unread")


def _read_tar(path: Path) -> Iterator[Entry]:
    """A WebDataset tar: members of one key (the name up to its first dot) make a sample. Nothing is unpacked."""
    try:
        with tarfile.open(path, mode="r:") as archive:
            key, members = "", dict[str, tarfile.TarInfo]()
            while (member := archive.next()) is not None:
                archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - it keeps every header it has read
                if not member.isreg():
                    if not member.isdir():
                        yield Refusal(f"{path.name}:{member.name}", "bad-member", "it is no plain file")
                    continue
                parent, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if (found := f"{parent}/{stem}".lstrip("/")) != key:
                    if members:
                        yield _from_members(path, archive, key, members)
                    key, members = found, {}
                members[suffix.lower()] = member
            if members:
                yield _from_members(path, archive, key, members)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        yield Refusal(path.name, "broken-tar", f"{error}: what follows is unread")


def _from_members(path: Path, archive: tarfile.TarFile, key: str, members: Mapping[str, tarfile.TarInfo]) -> Entry:
    name = f"{path.name}:{PurePosixPath(key)}"

    def found() -> _Found:
        picture = next((members[s[1:]] for s in SUFFIXES if s[1:] in members), None)
        if picture is None:
            raise RefusedError("missing-picture", f"its members are {', '.join(members)}")
        fields: dict[str, Any] = {}
        for suffix in ("json", "txt"):
            if suffix in members:
                if members[suffix].size > _MAX_LINE:
                    raise RefusedError("broken-line", f"its .{suffix} has {members[suffix].size} bytes")
                file = archive.extractfile(members[suffix])
                assert file is not None, "a regular member has content"
                text = _decode(file.read())
                fields |= _parse(text) if suffix == "json" else {"captions": text.splitlines() or [""]}
        return _Found(Location(path, picture.offset_data, picture.size), fields, name)

    return _entry(name, found)


def _from_row(path: Path, row: Mapping[str, Any]) -> _Found:
    """A row's path may be absolute or lead out of the table's folder: official tables do so, and it is only read."""
    field = next((name for name in PICTURE_FIELDS if row.get(name)), None)
    if field is None:
        raise RefusedError("missing-field", f"it has none of {', '.join(PICTURE_FIELDS)}")
    text = row[field]
    if not isinstance(text, str) or "\0" in text:
        raise RefusedError("wrong-type", f"{field} is no path: {short(text)}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise RefusedError("wrong-type", f"{field} can't be the name of a file: {short(text)}") from None
    return _Found(Location(path.parent / text), row, text)


def _entry(name: str, find: Callable[[], _Found]) -> Entry:
    """A candidate of what `find` finds, or the refusal it raises."""
    try:
        found = find()
        split, ratio = _split(found.fields.get("split")), _ratio(found.fields.get("h_div_w"))
        return Candidate(name, found.picture, _captions(found.fields), split, ratio, found.key)
    except RefusedError as error:
        return Refusal(name, error.reason, error.detail)


def _captions(fields: Mapping[str, Any]) -> tuple[str, ...]:
    given = fields.get("captions")
    if given is None or given == "":
        given = [fields[name] for name in CAPTION_FIELDS if fields.get(name) is not None]
    elif isinstance(given, str):
        given = [given]
    elif not isinstance(given, list):
        raise RefusedError("wrong-type", f"captions is no list of texts: {short(given)}")
    if not given:
        raise RefusedError("no-caption", f"it has none of captions, {', '.join(CAPTION_FIELDS)}")
    return fold_captions(given)


def fold_captions(given: Sequence[Any]) -> tuple[str, ...]:
    """Every caption, white space folded, none twice. An empty one among others is no caption.

    Raises:
        RefusedError: if one is no text, too long or can't be shown, or all are empty.
    """
    captions: dict[str, None] = {}
    for caption in given:
        if not isinstance(caption, str):
            raise RefusedError("wrong-type", f"a caption is no text: {short(caption)}")
        folded = " ".join(caption.split())
        if len(folded) > MAX_CAPTION:
            raise RefusedError("long-caption", f"{len(folded)} characters; at most {MAX_CAPTION}")
        if any(not (character.isprintable() or character in _JOINERS) for character in folded):
            raise RefusedError("bad-caption", f"it has characters that can't be shown: {folded[:60]!r}")
        if folded:
            captions[folded] = None
    if not captions:
        raise RefusedError("empty-caption", "every caption is empty")
    return tuple(captions)


def _split(value: Any) -> str | None:
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


def _decode(line: bytes) -> str:
    """A text without its byte order mark."""
    if len(line) >= _MAX_LINE:
        raise RefusedError("broken-line", f"longer than {_MAX_LINE} bytes")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError("not-utf8", f"byte {error.start}") from None


def _parse(text: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text, object_pairs_hook=_unique)
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


_READERS: Final[Mapping[str, Callable[[Path], Iterator[Entry]]]] = {
    ".jsonl": _read_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".tar": _read_tar,
}
LISTINGS: Final = tuple(_READERS)
"""Endings of the files that list samples."""
