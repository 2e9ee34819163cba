"""Captioned samples in WebDataset tars. Nothing is unpacked, and sizes in headers are checked before they are used."""

import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, cast

from bitvar.data.records import (
    MAX_LINE,
    SUFFIXES,
    RawFields,
    ReadOptions,
    Record,
    Rejected,
    decode_text,
    parse_object,
    parse_record,
    text_fields,
)
from bitvar.files import open_plain
from bitvar.imaging.open import Location, RefusedError

_TEXTS: Final = ("json", "txt", "caption")
_BROKEN: Final = (tarfile.TarError, OSError, EOFError, ValueError, RecursionError, OverflowError)
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_CURE: Final = "sort the tar by name: unpack it, then tar --sort=name -cf sorted.tar FOLDER"

_Members = dict[str, tarfile.TarInfo]


def read_tar(path: Path, options: ReadOptions, *, other_files: Counter[str]) -> Iterator[Record]:
    """Read the samples of a tar. Adjacent members with the same key (the name up to its first dot) make a sample.

    Hidden members, which macOS adds, are ignored like hidden files in folders.

    Args:
        path: An uncompressed tar.
        options: Options for reading the source.
        other_files: Counts the members that are neither images nor texts, by ending.
    """
    try:
        torn = _torn_keys(path)
        with _open(path) as archive:
            key, members, problems = "", _Members(), list[Rejected]()
            broken: list[str] = []
            for member in _members(archive, broken):
                if _is_hidden(member.name):
                    other_files["hidden"] += 1
                    continue
                if (problem := _problem(member)) is not None:
                    yield Rejected(f"{path.name}:{member.name}", "bad-member", problem)
                    continue
                found, suffix = _key(member.name)
                if found != key:
                    yield from _samples(path, archive, key, members, problems, options, torn)
                    key, members, problems = found, _Members(), []
                if suffix in members:
                    why = f"its key has a .{suffix} already"
                    problems.append(Rejected(f"{path.name}:{member.name}", "duplicate", why))
                    continue
                members[suffix] = member
                if f".{suffix}" not in SUFFIXES and suffix not in _TEXTS:
                    other_files[f".{suffix}" if suffix else "without an ending"] += 1
            yield from _samples(path, archive, key, members, problems, options, torn)
    except _BROKEN as error:
        broken = [str(error) or type(error).__name__]
    yield from (Rejected(path.name, "broken-tar", f"{why}: the rest is not read") for why in broken)


def _samples(
    path: Path,
    archive: tarfile.TarFile,
    key: str,
    members: _Members,
    problems: list[Rejected],
    options: ReadOptions,
    torn: dict[str, bool],
) -> Iterator[Record]:
    """Yield the sample of one key, and a rejection for each of its members that can't be used."""
    if not members:
        return
    name = f"{path.name}:{PurePosixPath(key)}"
    if key in torn:
        if not torn[key]:
            torn[key] = True
            yield Rejected(name, "unsorted-tar", f"its members are not adjacent; {_CURE}")
        return
    images = [suffix[1:] for suffix in SUFFIXES if suffix[1:] in members]
    yield parse_record(name, lambda: _read_fields(path, archive, name, members, images, options), options)
    for extra in images[1:]:
        why = f"its key has a .{images[0]} already, and so the same captions"
        yield Rejected(f"{path.name}:{members[extra].name}", "duplicate", why)
    yield from problems


def _read_fields(
    path: Path,
    archive: tarfile.TarFile,
    name: str,
    members: Mapping[str, tarfile.TarInfo],
    images: list[str],
    options: ReadOptions,
) -> RawFields:
    if not images:
        raise RefusedError("missing-image", f"its members are {', '.join(f'.{suffix}' for suffix in members)}")
    image = members[images[0]]
    fields: dict[str, Any] = {}
    for suffix in _TEXTS:
        if suffix in members:
            if members[suffix].size > MAX_LINE:
                raise RefusedError("broken-line", f"its .{suffix} has {members[suffix].size} bytes")
            file = archive.extractfile(members[suffix])
            assert file is not None, "a regular member has content"
            text = decode_text(file.read())
            fields |= parse_object(text) if suffix == "json" else text_fields(text, options)
    return RawFields(Location(path, image.offset_data, image.size), fields, name)


def _torn_keys(path: Path) -> dict[str, bool]:
    """Find the keys whose members aren't adjacent, by the headers alone. The values say that none is reported yet."""
    torn: dict[str, bool] = {}
    seen: set[int] = set()  # hashes of the keys: among a million, two collide with a probability of 3e-8
    last = ""
    try:
        with _open(path) as archive:
            for member in _members(archive, []):
                if _is_hidden(member.name) or _problem(member) is not None:
                    continue
                key, _ = _key(member.name)
                if key != last and hash(key) in seen:
                    torn[key] = False
                seen.add(hash(key))
                last = key
    except _BROKEN:
        pass  # the second pass reports the error
    return torn


def _members(archive: tarfile.TarFile, broken: list[str]) -> Iterator[tarfile.TarInfo]:
    """Yield every member that isn't a folder. If the tar ends too early, the reason is appended to `broken`.

    A header that points backwards counts as such an end, since it would be read again and again.
    """
    reached = -1
    try:
        while (member := archive.next()) is not None:
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - it would keep every header
            if member.size < 0 or archive.offset <= reached:
                raise tarfile.ReadError(f"the header of {member.name[:100]!r} claims {member.size} bytes")
            reached = archive.offset
            if not member.isdir():
                yield member
        left = cast("_HeaderReader", archive.fileobj).size - archive.offset
        if 0 < left < tarfile.BLOCKSIZE:  # tarfile takes this for the end
            raise tarfile.ReadError(f"it is cut off in a header, after {left} bytes of it")
    except _BROKEN as error:
        broken.append(str(error) or type(error).__name__)


def _problem(member: tarfile.TarInfo) -> str | None:
    if not member.isreg():
        return "it is not a regular file"
    return "it is stored with holes (sparse)" if member.issparse() else None


def _key(name: str) -> tuple[str, str]:
    """Split a member's name into the key of its sample and the rest in lower case."""
    parent, _, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{parent}/{stem}".lstrip("/"), suffix.lower()


def _is_hidden(name: str) -> bool:
    """Tell whether a member or a folder above it is hidden, or was added by macOS or an old version of tar."""
    return any(
        (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" or part.startswith("PaxHeader")
        for part in name.split("/")
    )


class _HeaderReader:
    """A file that rejects large reads, since a header may claim an extension of gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size = file, os.fstat(file.fileno()).st_size
        self.name = None
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_LINE + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a header claims an extension of {size} bytes")
        return self._file.read(size)


@contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    with open_plain(path) as file:
        start = file.read(max(map(len, _COMPRESSED)))
        if (kind := next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)) is not None:
            raise tarfile.ReadError(f"it is compressed with {kind}, and images are read in place: decompress it")
        file.seek(0)
        with tarfile.open(fileobj=cast("Any", _HeaderReader(file)), mode="r:") as archive:
            yield archive
