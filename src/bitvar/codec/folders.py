"""Many pictures through a tokenizer: which file goes where, and which ones are done already. For commands and scripts.

A file is done if it is what would be written again. So a run that was stopped goes on where it stopped.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bitvar.codec.bitfile import BitFile
from bitvar.codec.pictures import PictureCodec, files_below, read_bitfile
from bitvar.errors import UsageError, explain
from bitvar.files import atomic_path

Pair = tuple[Path, Path]
"""A file to read, and the one to write."""

_STAMP: Final = "bitvar"
"""Key of the text in a PNG that says which bits and which tokenizer it was made of."""


@dataclass(frozen=True)
class Done:
    """One file of a run.

    Attributes:
        source, target: the file that was read, and the one that is written now.
        file: the bits that were written, or that a picture was made of; as they were read.
        kept: whether the target was there already.
    """

    source: Path
    target: Path
    file: BitFile
    kept: bool


@dataclass(frozen=True)
class FolderCounts:
    """Files of a run: written now, there already, and of other kinds."""

    written: int
    kept: int
    left_out: int


def pair_files(
    sources: Sequence[Path], output: Path, suffix: str, list_folder: Callable[[Path], list[Path]]
) -> list[Pair]:
    """Every file to read with the file to write. Nothing is read yet.

    Args:
        sources: files, and folders; what lies deeper in a folder lies as deep in `output`.
        output: a file for a single file, else a folder.
        suffix: of what is written.
        list_folder: the files to read of a folder.

    Raises:
        UsageError: if there is no file, or the output is of the wrong kind, or two files would be written to one place.
    """
    found = [
        (path, path.relative_to(source) if source.is_dir() else Path(path.name))
        for source in sources
        for path in (list_folder(source) if source.is_dir() else [source])
    ]
    if not found:
        raise UsageError(explain("There is nothing to do.", f"no file is in {sources[0]}", "check the folder"))
    if len(found) == 1 and not sources[0].is_dir() and not output.is_dir():
        if output.suffix.lower() != suffix:
            raise UsageError(explain(f"Can't write {output}.", f"the name does not end in {suffix}", f"use {suffix}"))
        return [(found[0][0], output)]
    if output.exists() and not output.is_dir():
        raise UsageError(explain(f"{output} is no folder.", f"{len(found)} files need one", "name a folder"))
    targets: dict[Path, Path] = {}
    for path, name in found:
        target = output / name.with_suffix(suffix)
        if target in targets:
            why = f"{targets[target]} would be written there too"
            raise UsageError(explain(f"Can't write {path} to {target}.", why, "write them to two folders"))
        targets[target] = path
    return [(path, target) for target, path in targets.items()]


def bit_files(folder: Path) -> tuple[list[Path], int]:
    """The bit files of a folder, at any depth, in the order of their names, and how many other files it has."""
    return files_below(folder, [".bits"])


def pair_folder(
    folder: Path, output: Path, suffix: str, list_folder: Callable[[Path], tuple[list[Path], int]]
) -> tuple[list[Pair], int]:
    """`pair_files` of one folder, and how many files of it are left out; UsageError too if it is no folder."""
    if not folder.is_dir():
        raise UsageError(explain(f"There is no folder {folder}.", "its files were to be read", "check the path"))
    found, left_out = list_folder(folder)
    return pair_files([folder], output, suffix, lambda _: found), left_out


def count(run: Iterable[Done], left_out: int, progress: Callable[[Done], None] | None) -> FolderCounts:
    """Go through a run to its end."""
    written = kept = 0
    for done in run:
        written, kept = written + (not done.kept), kept + done.kept
        if progress is not None:
            progress(done)
    return FolderCounts(written, kept, left_out)


def encode_files(
    codec: PictureCodec, pairs: Sequence[Pair], *, scales: int | None = None, passes: int = 0, batch_size: int = 1
) -> Iterator[Done]:
    """Write the bits of pictures, in order. What is whole, of this tokenizer and newer than its picture stays.

    Args:
        codec: its tokenizer's bits.
        pairs: pictures, and bit files.
        scales, passes, batch_size: as `PictureCodec.encode_many` takes them.

    Raises:
        UsageError: as `PictureCodec.encode`, once it comes to such a picture.
    """
    there = {target: _bits_there(codec, source, target, scales) for source, target in pairs}
    missing = (source for source, target in pairs if there[target] is None)
    made = codec.encode_many(missing, scales=scales, passes=passes, batch_size=batch_size)
    for source, target in pairs:
        kept = there[target]
        file = kept or next(made)
        if kept is None:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                temporary.write_bytes(file.to_bytes())
        yield Done(source, target, file, kept is not None)


def decode_files(codec: PictureCodec, pairs: Sequence[Pair], *, scales: int | None = None) -> Iterator[Done]:
    """Write the pictures of bit files as PNG, in order. What this tokenizer made of these very bits stays.

    Args:
        codec: of the tokenizer that made the bits.
        pairs: bit files, and pictures.
        scales: decode the first ones only.

    Raises:
        UsageError, WeightsError: as `PictureCodec.decode`, once it comes to such a file.
    """
    for source, target in pairs:
        file = read_bitfile(source)
        content = codec.identity.sha256.encode() + file.first(scales).to_bytes()
        stamp = hashlib.sha256(content).hexdigest()
        kept = _stamp_there(target) == stamp
        if not kept:
            image, texts = codec.decode(file, scales=scales), PngInfo()
            texts.add_text(_STAMP, stamp)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                image.save(temporary, format="PNG", pnginfo=texts)
        yield Done(source, target, file, kept)


def _bits_there(codec: PictureCodec, picture: Path, target: Path, scales: int | None) -> BitFile | None:
    """The bits that a target has, if they are what encoding would give."""
    try:
        if target.stat().st_mtime_ns < picture.stat().st_mtime_ns:
            return None
        file = read_bitfile(target)
    except (OSError, UsageError):
        return None
    header = file.header
    own = header == codec.header_for(header.width, header.height)
    return file if own and len(file.payloads) == (scales or len(header.grids)) else None


def _stamp_there(target: Path) -> str | None:
    """What a whole PNG says it was made of."""
    try:
        with Image.open(target, formats=["PNG"]) as image:
            stamp = image.info.get(_STAMP)
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return stamp
