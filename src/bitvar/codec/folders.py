"""Many images through a tokenizer: which file goes where, and which ones are done already. For commands and scripts.

A file is done if it is what would be written again: told by what it was made of, never by dates. So a run that was
stopped goes on where it stopped, and one broken file keeps no other from being done.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bitvar.codec.bitfile import MAGIC, BitFile
from bitvar.codec.image_codec import ImageCodec, read_bitfile, require_worth
from bitvar.data.walking import Skipped, list_files
from bitvar.errors import UsageError, WeightsError
from bitvar.files import atomic_path, open_plain
from bitvar.imaging.open import Location, RefusedError

Pair: TypeAlias = tuple[Path, Path]
"""A file to read, and the one to write."""

_STAMP: Final = "bitvar"
"""Key of the text in a PNG that says which bits and which tokenizer it was made of."""

_STAMPED: Final = re.compile(rb"\A\x89PNG\r\n\x1a\n.{0,200}?tEXtbitvar\0", re.DOTALL)
"""How a PNG begins that was decoded from bits, even one that is damaged. Generated images have another kind of text."""


@dataclass(frozen=True)
class Done:
    """One file of a run.

    Attributes:
        source, target: the file that was read, and the one that is written now.
        file: the bits that were written, or that an image was made of; as they were read.
        kept: whether the target was there already.
        replaced: whether the target held the bits of another image, or of an earlier state of this one.
    """

    source: Path
    target: Path
    file: BitFile
    kept: bool
    replaced: bool = False


@dataclass(frozen=True)
class Failed:
    """One file of a run that could not be done, and why."""

    source: Path
    target: Path
    error: UsageError | WeightsError


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
        raise UsageError("There is nothing to do.", f"no file is in {sources[0]}", "check the folder")
    if len(found) == 1 and not sources[0].is_dir() and not output.is_dir():
        if output.suffix.lower() != suffix:
            why, todo = f"the name does not end in {suffix}", "name a file that does, or a folder that is there"
            raise UsageError(f"Can't write {output}.", why, todo)
        if output.exists() and found[0][0].exists() and output.samefile(found[0][0]):
            raise UsageError(f"Can't write {output}.", "it is the file to read", "name another file with -o")
        return [(found[0][0], output)]
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is no folder.", f"{len(found)} files need one", "name a folder")
    targets: dict[Path, Path] = {}
    for path, name in found:
        target = output / name.with_suffix(suffix)
        if target in targets:
            why = f"{targets[target]} would be written there too"
            raise UsageError(f"Can't write {path} to {target}.", why, "write them to two folders")
        targets[target] = path
    return [(path, target) for target, path in targets.items()]


def bit_files(folder: Path) -> tuple[list[Path], Skipped]:
    """The bit files of a folder, at any depth, in the order of their names, and what else it has."""
    return list_files(folder, (".bits",))


def pair_folder(
    folder: Path, output: Path, suffix: str, list_folder: Callable[[Path], tuple[list[Path], Skipped]]
) -> tuple[list[Pair], Skipped]:
    """`pair_files` of one folder, and what else is in it; UsageError too if it is no folder."""
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "its files were to be read", "check the path")
    found, skipped = list_folder(folder)
    return pair_files([folder], output, suffix, lambda _: found), skipped


def count(
    run: Iterable[Done | Failed], skipped: Skipped, progress: Callable[[Done | Failed], None] | None
) -> FolderCounts:
    """Go through a run to its end.

    Raises:
        UsageError: then, if some files could not be done.
    """
    written = kept = 0
    failed: list[Failed] = []
    for each in run:
        if isinstance(each, Failed):
            failed.append(each)
        else:
            written, kept = written + (not each.kept), kept + each.kept
        if progress is not None:
            progress(each)
    if failed:
        why = f"{failed[0].source}: {summary(failed[0].error)}"
        total = written + kept + len(failed)
        raise UsageError(
            f"{len(failed)} of {total} files failed; the others are written.",
            why + (f" And {len(failed) - 1} more." if failed[1:] else ""),
            "mend or remove them; what is done is not done again",
        )
    return FolderCounts(written, kept, skipped.count + len(skipped.problems))


def summary(error: Exception) -> str:
    """What happened and why, in one line."""
    what, *rest = str(error).splitlines()
    reasons = [line.strip().removeprefix("why:").strip() for line in rest if line.strip().startswith("why:")]
    return " ".join([what, *reasons])


def encode_files(
    codec: ImageCodec,
    pairs: Sequence[Pair],
    *,
    scales: int | None = None,
    passes: int = 0,
    batch_size: int = 1,
    overwrite: bool = False,
) -> Iterator[Done | Failed]:
    """Write the bits of images, in order. What was made of these very bytes, with these settings, stays.

    Args:
        codec: its tokenizer's bits.
        pairs: images, and bit files.
        scales, passes, batch_size: as `ImageCodec.encode_many` takes them.
        overwrite: replace a target that is no bit file too.
    """
    remaining = iter(pairs)
    while group := list(islice(remaining, max(1, batch_size))):
        there = [_bits_there(codec, source, target, scales, passes) for source, target in group]
        foreign = [not overwrite and _is_foreign(target, MAGIC) for _, target in group]
        wanted = [
            source
            for (source, _), file, is_foreign in zip(group, there, foreign, strict=True)
            if file is None and not is_foreign
        ]
        made = codec.attempt_many(wanted, scales=scales, passes=passes, batch_size=batch_size)
        for (source, target), kept, is_foreign in zip(group, there, foreign, strict=True):
            if kept is not None:
                yield Done(source, target, kept, kept=True)
                continue
            file = _foreign(target, "no bit file") if is_foreign else next(made)
            if isinstance(file, UsageError):
                yield Failed(source, target, file)
                continue
            replaced = _is_of_another(target, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                temporary.write_bytes(file.to_bytes())
            yield Done(source, target, file, kept=False, replaced=replaced)


def decode_files(
    codec: ImageCodec, pairs: Sequence[Pair], *, scales: int | None = None, overwrite: bool = False
) -> Iterator[Done | Failed]:
    """Write the images of bit files as PNG, in order. What this tokenizer made of these very bits stays.

    Args:
        codec: of the tokenizer that made the bits.
        pairs: bit files, and images.
        scales: decode the first ones only.
        overwrite: replace a target that was not decoded from bits too.
    """
    for source, target in pairs:
        try:
            if not overwrite and _is_foreign(target, _STAMPED):
                raise _foreign(target, "not decoded from bits")
            file = read_bitfile(source)
            if scales is None:
                require_worth(file, str(source))
            stamp = _stamp(codec, file.first(scales))
            kept = _stamp_there(target) == stamp
            if not kept:
                image, texts = codec.decode(file, scales=scales or len(file.payloads)), PngInfo()
                texts.add_text(_STAMP, stamp)
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as temporary:
                    image.save(temporary, format="PNG", pnginfo=texts)
        except (UsageError, WeightsError) as error:
            yield Failed(source, target, error)
        else:
            yield Done(source, target, file, kept)


def _stamp(codec: ImageCodec, file: BitFile) -> str:
    """A digest of the bits, of the tokenizer and of its precision."""
    made_by = f"{codec.identity.sha256} {codec.tokenizer.dtype} "
    return hashlib.sha256(made_by.encode() + replace(file, origin=None).to_bytes()).hexdigest()


def _bits_there(codec: ImageCodec, image: Path, target: Path, scales: int | None, passes: int) -> BitFile | None:
    """The bits that a target has, if they are what encoding would give."""
    try:
        file = read_bitfile(target)
        header = file.header
        if file.origin is None or len(file.payloads) != (scales or len(header.grids)):
            return None
        sha256 = hashlib.sha256(Location(image).read(max_bytes=codec.limits.max_bytes)).hexdigest()
    except (UsageError, RefusedError):
        return None
    own = header == codec.header_for(header.width, header.height)
    return file if own and file.origin == codec.origin_of(sha256, scales=scales, passes=passes) else None


def _is_of_another(target: Path, file: BitFile) -> bool:
    try:
        there = read_bitfile(target)
    except UsageError:
        return False
    return there.origin is not None and file.origin is not None and there.origin.sha256 != file.origin.sha256


def _is_foreign(target: Path, start: bytes | re.Pattern[bytes]) -> bool:
    """Whether there is a file that doesn't begin as one of ours."""
    try:
        with open_plain(target) as file:
            head = file.read(512)
    except OSError:  # none, or none to be read: writing will tell
        return False
    return not (head.startswith(start) if isinstance(start, bytes) else start.match(head))


def _foreign(target: Path, what: str) -> UsageError:
    return UsageError(
        f"{target} is not replaced.", f"it is {what}", "write to another folder, or allow it: --overwrite"
    )


def _stamp_there(target: Path) -> str | None:
    """What a whole PNG says it was made of."""
    try:
        with Image.open(target, formats=["PNG"]) as image:
            stamp = image.info.get(_STAMP)
            image.verify()
    except Exception:  # a decoder may raise anything
        return None
    return stamp
