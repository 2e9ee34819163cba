"""Building an index in one pass over its source, in memory that doesn't grow with the source.

Records are spooled in the order they arrive. At the end, one pass over the spool sorts them into groups.
"""

import contextlib
import hashlib
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import numpy as np

from bitvar.data.index import (
    DIGEST,
    DIGESTS,
    FORMAT,
    MANIFEST,
    PATH_END,
    PATH_ENDS,
    PATHS,
    RECORD,
    RECORDS,
    TEXTS,
    VERSION,
    FileEntry,
    Group,
    IndexManifest,
    is_index,
)
from bitvar.data.layouts import read_records
from bitvar.data.records import DEFAULT_OPTIONS, RawSample, ReadOptions, Rejected
from bitvar.data.roots import root_cure
from bitvar.data.validation import Accepted, Size, Summary, validate
from bitvar.data.writing import json_lines
from bitvar.errors import UsageError
from bitvar.files import flush, new_folder, write_text
from bitvar.imaging.open import ImageLimits, Location, RefusedError
from bitvar.official_schedules import nearest_ratio

MAX_SPLITS: Final = 64
"""Largest number of splits. A source with more probably uses that field for something else."""

NO_VALIDATION: Final = (
    "WARNING: no sample has the split 'val', which training needs: give it to some samples, or name no splits at all"
)

_REJECTED = "rejected.jsonl"
_BUFFER = 1 << 16
_SPOOLED: Final = {RECORDS: "records.spool", DIGESTS: "digests.spool", PATH_ENDS: "path_ends.spool"}
_GROUPS = "groups.spool"
_GROUP: Final = np.dtype("<u2")

T = TypeVar("T")


def build_index(
    source: Path,
    destination: Path,
    *,
    content_hash: bool = False,
    options: ReadOptions = DEFAULT_OPTIONS,
    allow_duplicates: bool = False,
    validation: float = 0.05,
    max_bad_fraction: float = 0.01,
    limits: ImageLimits | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Summary:
    """Write an index of a source of any layout that `layouts.read_records` reads. The images stay where they are.

    Every image is decoded once to check it. Samples keep the split their source gives. The share `validation` of the
    others, chosen by `RawSample.key` alone, goes to "val"; if "val" would be empty, one sample goes there.
    `rejected.jsonl` names every sample left out, with its reason. The folder is written completely or not at all; if
    too many samples are rejected, the list of them is left beside it as `<destination>.rejected.jsonl`.

    Args:
        source: A folder or file.
        destination: A new folder, not inside `source`.
        content_hash: Whether to keep the sha256 of every image's bytes, 32 bytes per sample.
        options: Options for reading the source.
        allow_duplicates: Whether to keep samples whose image an earlier accepted sample has.
        validation: Share of the samples without a split that goes to "val", 0 to 1.
        max_bad_fraction: Largest share of rejected samples, 0 to 1.
        limits: Bounds on an image's size and shape.
        log: Function called with each line of progress.

    Raises:
        UsageError: If too many samples are rejected, none is accepted, or `destination` is in use.
    """
    source, destination = source.absolute(), destination.absolute()
    _require_free(source, destination)
    if options.root is not None:
        options = replace(options, root=options.root.absolute())
    summary, report = Summary(), destination.with_name(f"{destination.name}.{_REJECTED}")
    records = read_records(
        source, options, other_files=summary.other_files
    )  # raises its errors before anything is written
    validated = validate(
        records,
        lambda image: image.size,
        limits=limits or ImageLimits(),
        content_hash=content_hash,
        allow_duplicates=allow_duplicates,
    )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(destination) as folder, contextlib.ExitStack() as stack:
        base = options.root or (source if source.is_dir() else source.parent)
        writer = stack.enter_context(IndexWriter(folder, base, content_hash=content_hash))
        with (folder / _REJECTED).open("w", encoding="ascii", newline="\n") as rejected:
            for sample in _append_all(writer, assign_splits(validated, validation)):
                summary.add(sample)
                if isinstance(sample, Rejected):
                    rejected.write(json_lines([vars(sample)]))
                if (done := summary.accepted + summary.num_rejected) % 10_000 == 0:
                    log(f"checked {done:,} samples, rejected {summary.num_rejected:,}")
        try:
            summary.require(max_bad_fraction, cure=root_cure(source, summary, options))
        except UsageError:
            if summary.num_rejected:
                (folder / _REJECTED).replace(report)
                log(f"{report} lists every rejected sample")
            raise
        if not summary.splits["val"]:
            log(NO_VALIDATION)
        log(f"sorting {summary.accepted:,} samples")
        writer.finish(summary, final=destination, allow_duplicates=allow_duplicates)
        flush(folder / _REJECTED)
    report.unlink(missing_ok=True)
    return summary


def _require_free(source: Path, destination: Path) -> None:
    what, elsewhere = f"Can't write an index to {destination}.", "choose another folder"
    if is_index(source):
        raise UsageError(what, f"{source} is an index already", "name the folder or table of the images")
    if source.is_dir() and destination.resolve().is_relative_to(source.resolve()):
        raise UsageError(what, f"it is inside {source}, where the samples are", elsewhere)
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise UsageError(what, "it exists already", f"{elsewhere}, or delete this one")


def split_rank(key: str) -> float:
    """Return a pseudo-random number in [0, 1) that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:6]) / (1 << 48)


def assign_splits(samples: Iterable[Accepted[T] | Rejected], validation: float) -> Iterator[Accepted[T] | Rejected]:
    """Give every sample a split.

    A sample without one goes to "val" if its rank is below `validation`. To make sure that "val" isn't empty, the
    sample with the lowest rank is held back until the end. It goes to "val" if no other did, unless it is the only one.
    """
    held: Accepted[T] | None = None
    settled, num_settled = validation == 0, 0
    for sample in samples:
        if isinstance(sample, Rejected):
            yield sample
            continue
        given = sample.raw_sample.split
        split = given or ("val" if split_rank(sample.raw_sample.key) < validation else "train")
        settled = settled or split == "val"
        if given is None and not settled:
            if held is None:
                held = sample
                continue
            held, sample = sorted((held, sample), key=lambda one: split_rank(one.raw_sample.key))  # noqa: PLW2901
        num_settled += 1
        yield _with_split(sample, split)
    if held is not None:
        yield _with_split(held, "train" if settled or not num_settled else "val")


def _with_split(sample: Accepted[T], split: str) -> Accepted[T]:
    return replace(sample, raw_sample=replace(sample.raw_sample, split=split))


def _append_all(
    writer: "IndexWriter", samples: Iterable[Accepted[Size] | Rejected]
) -> Iterator[Accepted[Size] | Rejected]:
    for sample in samples:
        if isinstance(sample, Accepted):
            try:
                writer.append(sample.raw_sample, size=sample.result, digest=sample.digest)
            except RefusedError as error:
                yield Rejected(sample.raw_sample.name, error.reason, error.detail)
                continue
        yield sample


class IndexWriter(contextlib.AbstractContextManager["IndexWriter"]):
    """Writer of an index: `append` every sample, then `finish`."""

    def __init__(self, folder: Path, base: Path, *, content_hash: bool = False) -> None:
        """Start an empty index.

        Args:
            folder: An existing folder without files of an index.
            base: Absolute path of the folder that the images' paths are relative to.
            content_hash: Whether every sample comes with a digest.
        """
        self._folder, self._base, self._content_hash = folder, base, content_hash
        self._stack = contextlib.ExitStack()
        names = [TEXTS, PATHS, _GROUPS, _SPOOLED[RECORDS], _SPOOLED[PATH_ENDS]]
        names += [_SPOOLED[DIGESTS]] if content_hash else []
        self._files = {name: self._stack.enter_context((folder / name).open("wb")) for name in names}
        self._rows, self._filled = np.zeros(_BUFFER, RECORD), 0
        self._row_groups = array("H")
        self._groups: dict[tuple[str, str], int] = {}
        self._counts: list[int] = []
        self._last: Path | None = None
        self._num_paths = 0

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def append(self, raw_sample: RawSample, *, size: tuple[int, int], digest: bytes | None = None) -> None:
        """Add a sample.

        Args:
            raw_sample: The sample, which has a split, and a `Location` as its image.
            size: Width and height of the image in pixels.
            digest: The sha256 of the image's bytes, if the index keeps it.

        Raises:
            RefusedError: "bad-split", if there would be more than `MAX_SPLITS` splits. Nothing is added.
        """
        image, split = raw_sample.image, raw_sample.split
        assert isinstance(image, Location), "an index points to files"
        assert split is not None
        assert (digest is not None) == self._content_hash
        group = self._group(split, nearest_ratio(size[1] / size[0]))
        member = raw_sample.name if image.size is not None else ""
        text = _encode("\n".join(raw_sample.captions) + "\0" + member)
        path = self._path(image.file)
        at = self._files[TEXTS].tell()
        self._files[TEXTS].write(text)
        self._rows[self._filled] = (path, *size, len(text), image.offset, image.size or 0, at)
        self._row_groups.append(group)
        self._counts[group] += 1
        if digest is not None:
            self._files[_SPOOLED[DIGESTS]].write(digest)
        self._filled += 1
        if self._filled == _BUFFER:
            self._spool()

    def finish(self, summary: Summary, *, final: Path | None = None, allow_duplicates: bool = False) -> IndexManifest:
        """Sort the records into their groups, and write `index.json` last.

        Args:
            summary: Counts of caption lengths and of rejections by reason.
            final: Folder that the index will be moved to, if it isn't written in place.
            allow_duplicates: Whether samples may share an image.
        """
        assert self._counts, "an index has at least one sample"
        self._spool()
        self._stack.close()
        groups, starts = self._sort_groups()
        num_samples = sum(self._counts)
        self._regroup(RECORDS, RECORD, starts)
        if self._content_hash:
            self._regroup(DIGESTS, DIGEST, starts)
        with (self._folder / PATH_ENDS).open("wb") as out, (self._folder / _SPOOLED[PATH_ENDS]).open("rb") as spool:
            _write_header(out, PATH_END, self._num_paths)
            shutil.copyfileobj(spool, out)
        for name in (_GROUPS, *_SPOOLED.values()):
            (self._folder / name).unlink(missing_ok=True)
        names = [RECORDS, TEXTS, PATHS, PATH_ENDS, *([DIGESTS] if self._content_hash else [])]
        manifest = IndexManifest(
            format=FORMAT,
            version=VERSION,
            samples=num_samples,
            paths=self._num_paths,
            content_hash=self._content_hash,
            source=str(self._base),
            source_from_index=os.path.relpath(self._base.resolve(), (final or self._folder).resolve()),
            groups=groups,
            rejected=dict(summary.rejected.most_common()),
            caption_words=dict(sorted(summary.captions.items())),
            files={name: _describe(self._folder / name) for name in names},
            allow_duplicates=allow_duplicates,
        )
        write_text(self._folder / MANIFEST, manifest.dump())
        return manifest

    def _group(self, split: str, ratio: str) -> int:
        if (split, ratio) not in self._groups:
            splits = {known for known, _ in self._groups}
            if split not in splits and len(splits) == MAX_SPLITS:
                raise RefusedError("bad-split", f"with {split!r} there would be more than {MAX_SPLITS} splits")
            self._groups[split, ratio] = len(self._groups)
            self._counts.append(0)
        return self._groups[split, ratio]

    def _path(self, file: Path) -> int:
        """Return the file's index. Images of one tar arrive together, so comparing with the last one suffices."""
        if file != self._last:
            self._last = file
            try:
                text = file.relative_to(self._base).as_posix()
            except ValueError:  # it is outside of the base folder
                text = str(file)
            self._files[PATHS].write(_encode(text))
            self._files[_SPOOLED[PATH_ENDS]].write(self._files[PATHS].tell().to_bytes(PATH_END.itemsize, "little"))
            self._num_paths += 1
        return self._num_paths - 1

    def _spool(self) -> None:
        self._files[_SPOOLED[RECORDS]].write(self._rows[: self._filled].tobytes())
        self._files[_GROUPS].write(np.asarray(self._row_groups, _GROUP).tobytes())
        self._filled, self._row_groups = 0, array("H")

    def _sort_groups(self) -> tuple[tuple[Group, ...], Sequence[int]]:
        """Return the groups in order, and the start of each by its number in the spool."""
        starts, groups, start = [0] * len(self._counts), list[Group](), 0
        for (split, ratio), number in sorted(self._groups.items(), key=lambda item: (item[0][0], float(item[0][1]))):
            starts[number] = start
            groups.append(Group(split=split, ratio=ratio, start=start, count=self._counts[number]))
            start += self._counts[number]
        return tuple(groups), starts

    def _regroup(self, name: str, dtype: np.dtype, starts: Sequence[int]) -> None:
        """Write the spooled items to the array `name`, group by group, in the order they arrived."""
        next_index = list(starts)
        with contextlib.ExitStack() as stack:
            items, groups = (
                stack.enter_context((self._folder / spool).open("rb")) for spool in (_SPOOLED[name], _GROUPS)
            )
            out = stack.enter_context((self._folder / name).open("wb"))
            _write_header(out, dtype, sum(self._counts))
            first_byte = out.tell()
            while (numbers := np.fromfile(groups, _GROUP, _BUFFER)).size:
                rows = np.fromfile(items, dtype, numbers.size)[np.argsort(numbers, kind="stable")]
                at = 0
                for number, count in zip(*np.unique(numbers, return_counts=True), strict=True):
                    out.seek(first_byte + next_index[number] * dtype.itemsize)
                    out.write(rows[at : at + count].tobytes())
                    at += count
                    next_index[number] += int(count)


def _write_header(out: BinaryIO, dtype: np.dtype, length: int) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(out, header)


def _describe(path: Path) -> FileEntry:
    flush(path)
    with path.open("rb") as file:
        return FileEntry(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
