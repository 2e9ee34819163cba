"""An index of captioned images: up to a hundred million samples in a few memory-mapped files.

Samples of the same split and official ratio are adjacent. The index holds the location of each image's bytes, its size
and its captions, but not the bytes themselves. `index_writing` builds it.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field

from bitvar.config import Config, read_json
from bitvar.data.layouts import read_records
from bitvar.data.records import DEFAULT_OPTIONS, RawSample, ReadOptions, Record, read_split
from bitvar.data.validation import Summary
from bitvar.errors import UsageError
from bitvar.imaging.open import Location, RefusedError
from bitvar.official_schedules import ratio_names

FORMAT: Final = "bitvar sample index"
VERSION: Final = 1
MANIFEST: Final = "index.json"

RECORD: Final = np.dtype(
    [
        ("path", "<u4"),  # index of the file among the paths
        ("width", "<u4"),
        ("height", "<u4"),
        ("text_size", "<u4"),  # bytes of the text
        ("offset", "<u8"),  # offset of the image in its file, in bytes
        ("size", "<u8"),  # bytes of the image; 0: the whole file
        ("text", "<u8"),  # offset among the texts: captions by line, a zero byte, a tar member's name
    ]
)
PATH_END: Final = np.dtype("<u8")
DIGEST: Final = np.dtype("V32")
RECORDS, TEXTS, PATHS, PATH_ENDS, DIGESTS = "records.npy", "texts.bin", "paths.bin", "path_ends.npy", "digests.npy"

_BLOCK = 1 << 20
_LARGEST_OFFSET = (1 << 63) - 1
"""In bytes; no file can be larger."""


class Group(Config):
    """A range of the index, from `start` to `start + count`, holding the samples of one split and ratio."""

    split: str
    ratio: str
    start: int = Field(ge=0)
    count: int = Field(ge=1)


class FileEntry(Config):
    """The expected size and sha256 of a file of the index."""

    bytes: int = Field(ge=1)
    sha256: str


class IndexManifest(Config):
    """The content of `index.json`.

    Attributes:
        format, version: File format and its version. Other versions are not read.
        samples, paths: Number of samples and of paths.
        content_hash: Whether the index holds the sha256 of every image's bytes.
        source: Absolute path of the folder that relative paths start from.
        source_from_index: The same folder relative to the index, in case both are moved together.
        groups: Groups of samples in order, without a gap.
        rejected: Number of samples left out by reason; `rejected.jsonl` names them.
        caption_words: Number of captions by number of words.
        files: The other files of the index.
        allow_duplicates: Whether samples may share an image.
    """

    format: str
    version: int
    samples: int = Field(ge=1)
    paths: int = Field(ge=1)
    content_hash: bool
    source: str
    source_from_index: str
    groups: tuple[Group, ...]
    rejected: dict[str, Annotated[int, Field(ge=0)]]
    caption_words: dict[int, Annotated[int, Field(ge=0)]]
    files: dict[str, FileEntry]
    allow_duplicates: bool = False


@dataclass(frozen=True)
class IndexedSample:
    """A valid sample of an index.

    Attributes:
        image: Location of the image's bytes.
        captions: One or more captions, each describing the image.
        width, height: Size of the upright image in pixels.
        digest: The sha256 of the image's bytes, if the index has it.
        name: Name in reports: the path, or the tar and key.
    """

    image: Location
    captions: tuple[str, ...]
    width: int
    height: int
    digest: bytes | None
    name: str


class SampleIndex:
    """An open index. Its arrays are memory-mapped; a worker process that receives one opens it again."""

    def __init__(self, folder: Path, source: Path | None, manifest: IndexManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._given = source
        self.source = source or _source_of(folder, manifest)
        self._records = self._array(RECORDS, RECORD, manifest.samples)
        self._ends = self._array(PATH_ENDS, PATH_END, manifest.paths)
        self._digests = self._array(DIGESTS, DIGEST, manifest.samples) if manifest.content_hash else None
        self._texts = np.asarray(np.memmap(folder / TEXTS, mode="r", dtype=np.uint8))
        self._paths = np.asarray(np.memmap(folder / PATHS, mode="r", dtype=np.uint8))

    @classmethod
    def open(cls, folder: Path, source: Path | None = None) -> "SampleIndex":
        """Open the index in `folder`.

        Args:
            folder: A folder that `bitvar data index` wrote.
            source: Folder of the images, if they have been moved without the index.

        Raises:
            UsageError: If the folder is not an index, the index has another version, or one of its files is missing,
                truncated or malformed. `verify_files` detects changed bytes.
        """
        folder = folder.absolute()
        manifest = _read_manifest(folder)
        wanted = {RECORDS, TEXTS, PATHS, PATH_ENDS} | ({DIGESTS} if manifest.content_hash else set())
        if set(manifest.files) != wanted:
            raise _damaged(folder, f"{MANIFEST} lists {sorted(manifest.files)}, not {sorted(wanted)}")
        for name, entry in manifest.files.items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != entry.bytes:
                found = "it is missing" if size is None else f"it has {size:,} of {entry.bytes:,} bytes"
                raise _damaged(folder, f"{name}: {found}")
        _require_names(folder, manifest)
        starts = [0, *accumulate(group.count for group in manifest.groups)]
        if starts != [*(group.start for group in manifest.groups), manifest.samples]:
            raise _damaged(folder, f"the groups of {MANIFEST} don't make up its {manifest.samples:,} samples")
        return cls(folder, source, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleIndex.open, (self.folder, self._given)

    def __len__(self) -> int:
        return self.manifest.samples

    def __getitem__(self, i: int) -> IndexedSample:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        path, width, height, text_size, offset, size, text = self._records[i].item()
        out_of_files = offset + size > _LARGEST_OFFSET
        if path >= len(self._ends) or text + text_size > len(self._texts) or out_of_files or not width * height:
            raise _damaged(self.folder, f"record {i:,} points outside of it")
        where = self._path(path)
        captions, _, member = _decode(self._texts[text : text + text_size]).partition("\0")
        return IndexedSample(
            image=Location(self.source / where, offset, size or None),
            captions=tuple(captions.split("\n")),
            width=width,
            height=height,
            digest=None if self._digests is None else self._digests[i].tobytes(),
            name=member or where,
        )

    @property
    def groups(self) -> tuple[Group, ...]:
        """Groups, by split and then by ratio."""
        return self.manifest.groups

    def verified(self, i: int, data: bytes) -> bytes:
        """Return `data`, the bytes of the image of sample `i`, after checking their digest if the index has it.

        Raises:
            RefusedError: "altered", if the digest differs.
        """
        if self._digests is not None and hashlib.sha256(data).digest() != self._digests[i].tobytes():
            raise RefusedError("altered", f"{self[i].name} is not the image that was indexed")
        return data

    def verify_files(self) -> None:
        """Check the sha256 of each of the index's own files. Raise UsageError for the first that has changed."""
        for name, entry in self.manifest.files.items():
            with (self.folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                    raise _damaged(self.folder, f"{name} has been altered")

    def raw_samples(self) -> Iterator[RawSample]:
        """Yield every sample in order, in the form that the readers of layouts use."""
        for group in self.groups:
            for i in range(group.start, group.start + group.count):
                sample = self[i]
                ratio = sample.height / sample.width
                yield RawSample(
                    sample.name, sample.image, sample.captions, group.split, ratio, sample.name, sample.digest
                )

    def summary(self) -> Summary:
        """Count the samples from the arrays alone."""
        manifest = self.manifest
        summary = Summary(accepted=len(self))
        summary.rejected.update(manifest.rejected)
        summary.captions.update(manifest.caption_words)
        for group in self.groups:
            summary.splits[group.split] += group.count
            summary.ratios[group.ratio] += group.count
        for start in range(0, len(self), _BLOCK):
            block = self._records[start : start + _BLOCK]
            sides, counts = np.unique(np.minimum(block["width"], block["height"]), return_counts=True)
            summary.sides.update(dict(zip(sides.tolist(), counts.tolist(), strict=True)))
        return summary

    def _path(self, number: int) -> str:
        start, end = int(self._ends[number - 1]) if number else 0, int(self._ends[number])
        if not start < end <= len(self._paths):
            raise _damaged(self.folder, f"path {number:,} points outside of it")
        path = _decode(self._paths[start:end])
        if "\0" in path:
            raise _damaged(self.folder, f"path {number:,} is not a path")
        return path

    def _array(self, name: str, dtype: np.dtype, length: int) -> np.ndarray:
        try:
            array = np.lib.format.open_memmap(self.folder / name, mode="r")
        # An invalid header can make numpy raise many errors, none of them documented.
        except Exception as error:
            raise _damaged(self.folder, f"{name}: {str(error) or repr(error)}") from None
        if array.dtype != dtype or array.shape != (length,):
            raise _damaged(self.folder, f"{name} has {array.shape} of {array.dtype}, not ({length},) of {dtype}")
        return np.asarray(array)


def is_index(folder: Path) -> bool:
    """Tell whether `folder` is an index, intact or not, by its manifest or its arrays."""
    if all((folder / name).is_file() for name in (RECORDS, TEXTS)):
        return True
    path = folder / MANIFEST
    try:
        return path.is_file() and read_json(path).get("format") == FORMAT
    except UsageError:
        return False


def read_source(
    source: Path, options: ReadOptions = DEFAULT_OPTIONS, *, other_files: Counter[str] | None = None
) -> Iterator[Record]:
    """Read every sample of an index, or of any layout that `layouts.read_records` reads.

    Args:
        source: An index, or a folder or file.
        options: Options for reading the source. They don't apply to an index.
        other_files: Counter of a folder's files that belong to no sample, by ending.

    Raises:
        UsageError: As for `layouts.read_records`, or if options are given for an index.
    """
    if not is_index(source):
        return read_records(source, options, other_files=other_files)
    if options != DEFAULT_OPTIONS:
        why = f"{source} is an index, which holds paths and captions as they were read when it was built"
        todo = "leave out --root, --caption and the like, or build the index again with them"
        raise UsageError("These options don't apply to an index.", why, todo)
    return SampleIndex.open(source).raw_samples()


def allows_duplicates(source: Path) -> bool:
    """Tell whether `source` is an index in which samples may share an image."""
    return is_index(source) and _read_manifest(source).allow_duplicates


def _read_manifest(folder: Path) -> IndexManifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} is not an index.", f"it has no {MANIFEST}", "build one: bitvar data index")
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise UsageError(f"{folder} is not an index.", f"its {MANIFEST} belongs to something else", "check the path")
    if values.get("version") != VERSION:
        why = f"it has version {values.get('version')!r}, this bitvar reads {VERSION}"
        raise UsageError(f"Can't read the index {folder}.", why, "upgrade bitvar, or build the index again")
    return IndexManifest.parse(values, source=str(path))


def _require_names(folder: Path, manifest: IndexManifest) -> None:
    """Raise an error for invalid splits, ratios and paths."""
    for group in manifest.groups:
        if group.ratio not in ratio_names():
            raise _damaged(folder, f"{MANIFEST} has the ratio {group.ratio[:40]!r}, not one of {ratio_names()}")
        try:
            read_split(group.split)
        except RefusedError as error:
            raise _damaged(folder, f"a split of {MANIFEST}: {error.detail}") from None
    if "\0" in manifest.source + manifest.source_from_index:
        raise _damaged(folder, f"the source in {MANIFEST} is not a path")


def _source_of(folder: Path, manifest: IndexManifest) -> Path:
    """Find the folder that relative paths start from: relative to the index, or else at its original path."""
    moved = Path(os.path.normpath(folder / manifest.source_from_index))
    return moved if moved.is_dir() else Path(manifest.source)


def _decode(data: np.ndarray) -> str:
    return data.tobytes().decode("utf-8", "surrogateescape")


def _damaged(folder: Path, why: str) -> UsageError:
    return UsageError(f"The index {folder} is damaged.", why, "build it again: bitvar data index")
