"""The layouts that captioned pictures come in: folders with sidecars, tables, JSON lines, tars.

Each reader yields what it found, usable or not, one entry at a time and in a fixed order; none stops at a bad one, and
none opens a picture. Whether a picture is sound is `check`'s business.
"""

import csv
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, TypeAlias

from bitvar.data.pictures import Location, RefusedError
from bitvar.errors import UsageError, explain

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
PICTURE_FIELDS: Final = ("image_path", "file_name", "path", "image", "file")
CAPTION_FIELDS: Final = ("long_caption", "caption", "text", "short_caption", "prompt")
MAX_CAPTION: Final = 4000
"""Characters; a longer one is a mistake in the table, not a caption."""

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
    """

    name: str
    picture: Location
    captions: tuple[str, ...]
    split: str | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Refusal:
    """A sample that can't be used, and why."""

    name: str
    reason: str
    detail: str


Entry: TypeAlias = Candidate | Refusal


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
    files = sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
    own = source / "samples.jsonl"  # what bitvar writes; its other files are no samples
    listings = [own] if own in files else [path for path in files if path.suffix.lower() in _READERS]
    kinds = sorted({path.suffix.lower() for path in listings})
    if len(kinds) > 1:
        why = f"it holds {' and '.join(kinds)} files, and they may list the same pictures"
        raise UsageError(explain(f"Can't tell which layout {source} has.", why, "name one file instead of the folder"))
    if kinds:
        return (entry for path in listings for entry in _READERS[kinds[0]](path))
    return _read_sidecars(source)


def _read_sidecars(folder: Path) -> Iterator[Entry]:
    """Pictures with a text beside each: `cat.jpg` and `cat.txt` (a caption a line), or `cat.json`."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and not path.is_dir()
    ]
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    texts = {path for path in files if path.suffix.lower() in (".txt", ".json")}
    if not pictures and not texts:
        why = f"it has no {', '.join(SUFFIXES)} in it, and no table"
        raise UsageError(explain(f"{folder} holds no pictures.", why, "check the path"))
    stems: dict[Path, Path] = {}
    for path in pictures:
        name, stem = path.relative_to(folder).as_posix(), path.with_suffix("")
        if stem in stems:
            yield Refusal(name, "duplicate", f"{stems[stem].name} has the same name, so the same captions")
            continue
        stems[stem] = path
        sidecars = [path.with_suffix(suffix) for suffix in (".txt", ".json") if path.with_suffix(suffix) in texts]
        if not sidecars:
            yield Refusal(name, "no-caption", f"there is no {path.stem}.txt or {path.stem}.json beside it")
        else:
            yield _entry(name, lambda path=path, sidecar=sidecars[0]: _beside(path, sidecar))
    for text in sorted(texts):
        if text.with_suffix("") not in stems:
            yield Refusal(text.relative_to(folder).as_posix(), "missing-picture", "no picture has its name")


def _beside(picture: Path, sidecar: Path) -> tuple[Location, Mapping[str, Any]]:
    try:
        text = sidecar.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RefusedError("not-utf8", f"{sidecar.name} is no UTF-8 text") from None
    except OSError as error:
        raise RefusedError("unreadable-file", f"{sidecar.name}: {error.strerror}") from None
    fields = _parse(text) if sidecar.suffix.lower() == ".json" else {"captions": text.splitlines() or [""]}
    return Location(picture), fields


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
            for what, known in (("picture", PICTURE_FIELDS), ("caption", CAPTION_FIELDS)):
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
            for member in archive:
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
    def found() -> tuple[Location, Mapping[str, Any]]:
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
        return Location(path, picture.offset_data, picture.size), fields

    return _entry(f"{path.name}:{PurePosixPath(key)}", found)


def _from_row(path: Path, row: Mapping[str, Any]) -> tuple[Location, Mapping[str, Any]]:
    field = next((name for name in PICTURE_FIELDS if row.get(name)), None)
    if field is None:
        raise RefusedError("missing-field", f"it has none of {', '.join(PICTURE_FIELDS)}")
    if not isinstance(row[field], str) or "\0" in row[field]:
        raise RefusedError("wrong-type", f"{field} is no path: {row[field]!r:.80}")
    return Location(path.parent / row[field]), row


def _entry(name: str, find: Callable[[], tuple[Location, Mapping[str, Any]]]) -> Entry:
    """A candidate of what `find` finds, or the refusal it raises."""
    try:
        location, fields = find()
        split = fields.get("split")
        if split is not None and not isinstance(split, str):
            raise RefusedError("wrong-type", f"split is no text: {split!r:.80}")
        return Candidate(name, location, _captions(fields), split or None, _ratio(fields.get("h_div_w")))
    except RefusedError as error:
        return Refusal(name, error.reason, error.detail)


def _captions(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Every caption, white space folded, none twice. One empty among others is no caption; none at all is refused."""
    given = fields.get("captions")
    if not isinstance(given, list):
        given = [fields[name] for name in CAPTION_FIELDS if fields.get(name) is not None]
    if not given:
        raise RefusedError("no-caption", f"it has none of captions, {', '.join(CAPTION_FIELDS)}")
    captions: dict[str, None] = {}
    for caption in given:
        if not isinstance(caption, str):
            raise RefusedError("wrong-type", f"a caption is no text: {caption!r:.80}")
        folded = " ".join(caption.split())
        if len(folded) > MAX_CAPTION:
            raise RefusedError("long-caption", f"{len(folded)} characters; at most {MAX_CAPTION}")
        if any(not character.isprintable() for character in folded):
            raise RefusedError("bad-caption", f"it has characters that can't be shown: {folded[:60]!r}")
        if folded:
            captions[folded] = None
    if not captions:
        raise RefusedError("empty-caption", "every caption is empty")
    return tuple(captions)


def _ratio(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        ratio = float(value)
    except (TypeError, ValueError):
        ratio = math.nan
    if not 0 < ratio < math.inf:
        raise RefusedError("wrong-type", f"h_div_w is no ratio: {value!r:.80}")
    return ratio


def _decode(line: bytes) -> str:
    if len(line) >= _MAX_LINE:
        raise RefusedError("broken-line", f"longer than {_MAX_LINE} bytes")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError("not-utf8", f"byte {error.start}") from None


def _parse(text: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError("broken-line", f"no JSON: {str(error)[:100]}") from None
    if not isinstance(row, dict):
        raise RefusedError("broken-line", f"no JSON object but {type(row).__name__}")
    return row


_READERS: Final[Mapping[str, Callable[[Path], Iterator[Entry]]]] = {
    ".jsonl": _read_lines,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".tar": _read_tar,
}
