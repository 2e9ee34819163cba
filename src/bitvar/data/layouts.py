"""Readers for all layouts of captioned images: folders with sidecar files, tables, JSON lines and tars.

Each reader yields samples and rejections one at a time, in a fixed order. None stops at a bad sample, and none opens
an image: `records` checks captions, and `validation` checks images.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from bitvar.data.records import (
    DEFAULT_OPTIONS,
    MAX_CAPTION,
    MAX_LINE,
    SUFFIXES,
    RawFields,
    RawSample,
    ReadOptions,
    Record,
    Rejected,
    decode_text,
    fields_in_row,
    fold_captions,
    parse_object,
    parse_record,
    read_split,
    text_fields,
)
from bitvar.data.tables import read_table
from bitvar.data.tars import read_tar
from bitvar.data.validation import SeenSet
from bitvar.errors import UsageError
from bitvar.files import open_plain
from bitvar.imaging.open import Location, RefusedError

__all__ = [
    "LISTINGS",
    "MAX_CAPTION",
    "SUFFIXES",
    "RawSample",
    "ReadOptions",
    "Record",
    "Rejected",
    "fold_captions",
    "kinds_text",
    "read_lines",
    "read_records",
]  # fmt: skip

SET_TABLE: Final = "samples.jsonl"
"""The table of a captioned set."""

_METADATA: Final = ("metadata.jsonl", "metadata.csv")
"""Tables of an image folder as the package `datasets` reads it."""

_TEXT_SUFFIXES: Final = (".json", ".txt", ".caption")
"""Endings of sidecar files. If several hold captions, the last one in this order takes precedence."""
UNNAMED: Final = "unlisted image(s)"
"""The kind of the images beside a table that none of its valid lines names, for counting."""

_OTHER_IMAGES: Final = frozenset((
    ".svg", ".jxl", ".jp2", ".psd", ".xcf", ".tga", ".ico", ".eps", ".pdf", ".exr", ".hdr", ".ai", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".npy",
))  # fmt: skip
"""Endings of image formats that can't be read, for reports."""

_SPLIT_FOLDERS: Final = {"train": "train", "training": "train", "validation": "val", "valid": "val", "val": "val"}
_OFFICIAL_NAME = re.compile(r"\d+(?:\.\d+)?_(?P<count>\d+)\.jsonl")


def read_records(
    source: Path, options: ReadOptions = DEFAULT_OPTIONS, *, other_files: Counter[str] | None = None
) -> Iterator[Record]:
    """Read every sample of a folder or file of any layout.

    Args:
        source: A `.jsonl`, `.csv`, `.tsv` or `.tar` file; a folder of files of one of these kinds; or a folder of
            images with a `.txt`, `.caption` or `.json` file of the same name beside each, or with a `metadata.jsonl` or
            `metadata.csv`.
        options: Options for reading the source.
        other_files: Counter of a folder's files that belong to no sample, by ending; "hidden" for hidden files.

    Raises:
        UsageError: If there is no such source, a folder holds files of several kinds, or an option doesn't apply to
            the layout.
    """
    other_files = Counter() if other_files is None else other_files
    if source.is_file():
        kind = source.suffix.lower()
        if kind not in LISTINGS:
            why = f"a captioned set is a folder of images, or one of {', '.join(LISTINGS)}"
            raise UsageError(f"Can't read {source} as a captioned set.", why, "name one of those")
        return _listing(kind, source, options, other_files)
    if not source.is_dir():
        raise UsageError(f"There is no {source}.", fix="check the path")
    with os.scandir(source) as found:
        listings = sorted(
            Path(item.path)
            for item in found
            if not item.name.startswith(".") and Path(item.name).suffix.lower() in LISTINGS and item.is_file()
        )
    own = source / SET_TABLE  # bitvar wrote this set; its other files are not samples
    listings = [own] if own in listings else listings
    kinds = sorted({path.suffix.lower() for path in listings})
    if len(kinds) > 1:
        why = f"it holds {' and '.join(kinds)} files, and they may list the same images"
        raise UsageError(f"Can't tell which layout {source} has.", why, "name one of the files instead of the folder")
    if kinds:
        readers = [_listing(kinds[0], path, options, other_files) for path in listings]
        records = (record for reader in readers for record in reader)
        return (
            records
            if own in listings or options.root is not None
            else _accounted(records, source, kinds[0], other_files)
        )
    return _read_folder(source, options, other_files)


def _listing(kind: str, path: Path, options: ReadOptions, other_files: Counter[str]) -> Iterator[Record]:
    if kind == ".tar":
        _require_useful(options, path, root=False, lines=True)
        return read_tar(path, options, other_files=other_files)
    _require_useful(options, path, root=True, lines=False)
    return (read_lines if kind == ".jsonl" else read_table)(path, options)


def _accounted(records: Iterator[Record], folder: Path, kind: str, other_files: Counter[str]) -> Iterator[Record]:
    """Pass the records on, then count the folder's files that are neither tables nor named by a line."""
    named = SeenSet()
    for record in records:
        if isinstance(record, RawSample) and isinstance(record.image, Location):
            named.add(record.image.address)
        yield record
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                other_files["hidden"] += 1
            elif suffix in SUFFIXES and kind != ".tar":
                if named.add(Location(Path(parent) / name).address):
                    other_files[UNNAMED] += 1
            elif suffix != kind or Path(parent) != folder:
                other_files[suffix or "without an ending"] += 1


def _require_useful(options: ReadOptions, source: Path, *, root: bool, lines: bool) -> None:
    """Reject an option that doesn't apply to a layout, rather than ignore it."""
    what = "--root" if options.root is not None and not root else "--caption-lines"
    if what == "--root" or (options.caption_lines and not lines):
        why = f"{source} is not a table of paths" if what == "--root" else f"{source} has no text files"
        raise UsageError(f"{what} can't be used here.", why, "leave it out")


def kinds_text(other_files: Mapping[str, int]) -> str:
    """Return counted files as a text such as "12 files of other kinds: 8 .svg, 4 .md"; empty for none.

    It says which of them are images that can't be read.
    """
    if not other_files:
        return ""
    total, ordered = sum(other_files.values()), sorted(other_files.items(), key=lambda item: (-item[1], item[0]))
    text = f"{total:,} {'file' if total == 1 else 'files'} of other kinds: "
    text += ", ".join(f"{count:,} {kind}" for kind, count in ordered)
    images = [kind for kind, _ in ordered if kind in _OTHER_IMAGES]
    return text + (f" ({', '.join(images)} can't be read: convert them to PNG)" if images else "")


def _read_folder(folder: Path, options: ReadOptions, other_files: Counter[str]) -> Iterator[Record]:
    """Read images with a text file beside each (`cat.jpg` with `cat.txt`, `cat.caption` or `cat.json`), or a table.

    The names in only one folder at a time are held in memory.
    """
    _require_useful(options, folder, root=False, lines=True)
    problems: list[OSError] = []
    empty = True
    for parent, folders, files in os.walk(folder, onerror=problems.append):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (here / name).is_symlink():
                empty = False
                where = (here / name).relative_to(folder).as_posix()
                yield Rejected(where, "unreadable-file", "a link to a folder is not followed")
        other_files.update("hidden" for name in files if name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        table = next((name for name in _METADATA if name in names), None)
        if table is None:
            records = _pair(folder, here, names, options, other_files)
        else:
            folders.clear()  # the table names the images in them
            records = _described(folder, here, table, options)
        for record in records:
            empty = False
            yield record
    for problem in problems:
        yield Rejected(os.path.relpath(problem.filename, folder), "unreadable-file", problem.strerror or str(problem))
    if empty and not problems:
        why = kinds_text(other_files) or f"it has no {', '.join(SUFFIXES)} file, and no table"
        raise UsageError(f"{folder} holds no images.", why, "check the path")


def _described(folder: Path, here: Path, table: str, options: ReadOptions) -> Iterator[Record]:
    """Read the samples of a `metadata` table. The topmost folder above the table names their split."""
    parts = here.relative_to(folder).parts
    split = None
    if parts:
        try:
            split = _SPLIT_FOLDERS.get(parts[0].lower()) or read_split(parts[0])
        except RefusedError:
            split = None
    prefix = "".join(f"{part}/" for part in parts)
    for record in (read_lines if table.endswith(".jsonl") else read_table)(here / table, options, split=split):
        if isinstance(record, Rejected):
            yield Rejected(prefix + record.name, record.reason, record.detail)
        else:
            yield RawSample(
                prefix + record.name, record.image, record.captions, record.split, record.ratio, prefix + record.key,
                labels=record.labels,
            )  # fmt: skip


def _pair(
    folder: Path, here: Path, names: Sequence[str], options: ReadOptions, other_files: Counter[str]
) -> Iterator[Record]:
    """Pair images with text files among `names` in the folder `here`. Samples are named by their path from `folder`."""
    parent = here.relative_to(folder)
    texts: dict[str, list[str]] = {}
    for name in names:
        if Path(name).suffix.lower() in _TEXT_SUFFIXES:
            texts.setdefault(Path(name).stem, []).append(name)
    stems: dict[str, str] = {}
    for image in names:
        suffix = Path(image).suffix.lower()
        if suffix not in SUFFIXES:
            if suffix not in _TEXT_SUFFIXES:
                other_files[suffix or "without an ending"] += 1
            continue
        name, stem = (parent / image).as_posix(), Path(image).stem
        if stem in stems:
            yield Rejected(name, "duplicate", f"{stems[stem]} has the same name, and so the same captions")
            continue
        stems[stem] = image
        sidecars = [here / text for text in texts.get(stem, ())]
        if not sidecars and not options.makes_captions:
            yield Rejected(name, "no-caption", f"there is no {stem}.txt, {stem}.caption or {stem}.json beside it")
            continue
        location = Location(here / image)

        def read_fields(
            name: str = name, location: Location = location, sidecars: Sequence[Path] = sidecars
        ) -> RawFields:
            return RawFields(location, _read_sidecars(sidecars, options), name)

        yield parse_record(name, read_fields, options)
    for stem in sorted(texts.keys() - stems.keys()):
        beside = [name for name in names if Path(name).stem == stem and name not in texts[stem]]
        more = f"; {beside[0]} beside it has a format that can't be read: convert it to PNG" if beside else ""
        for text in texts[stem]:
            yield Rejected((parent / text).as_posix(), "missing-image", f"there is no image of the same name{more}")


def _read_sidecars(sidecars: Sequence[Path], options: ReadOptions) -> Mapping[str, Any]:
    """Merge the fields of the text files of an image."""
    fields: dict[str, Any] = {}
    for sidecar in sorted(sidecars, key=lambda path: _TEXT_SUFFIXES.index(path.suffix.lower())):
        try:
            with open_plain(sidecar) as file:
                text = decode_text(file.read(MAX_LINE))
        except OSError as error:
            raise RefusedError("unreadable-file", f"{sidecar.name}: {error.strerror}") from None
        fields |= parse_object(text) if sidecar.suffix.lower() == ".json" else text_fields(text, options)
    return fields


def read_lines(path: Path, options: ReadOptions = DEFAULT_OPTIONS, *, split: str | None = None) -> Iterator[Record]:
    """Read JSON lines, each with the path of an image and its captions, such as the official `[ratio]_[count].jsonl`.

    Args:
        path: The table.
        options: Options for reading the source.
        split: Split of the lines that name none.
    """
    official = _OFFICIAL_NAME.fullmatch(path.name)
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line.strip():
                count += 1

                def read_fields(line: bytes = line) -> RawFields:
                    return fields_in_row(path.parent, parse_object(decode_text(line)), options)

                yield parse_record(f"{path.name}:{number}", read_fields, options, split=split)
    if official and int(official["count"]) != count:
        yield Rejected(path.name, "wrong-count", f"its name says {int(official['count'])} samples, but it has {count}")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Read the lines of a file. Only the beginning of a line over the limit is held in memory."""
    while line := file.readline(MAX_LINE):
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE)
        yield line


LISTINGS: Final = (".jsonl", ".csv", ".tsv", ".tar")
"""Endings of files that list samples."""
