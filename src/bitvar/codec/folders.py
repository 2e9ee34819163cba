"""Encoding and decoding many files: which file goes where, and which ones are up to date.

A target is up to date if writing it again would give the same content. That depends on what it was made from, never on
dates. An interrupted run therefore continues where it stopped, and one broken file does not keep the others from
being written.
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

from bitvar.codec.arguments import require_path
from bitvar.codec.bitfile import MAGIC, BitFile
from bitvar.codec.image_codec import ImageCodec
from bitvar.codec.reading import read_bitfile, require_enough_bits
from bitvar.data.walking import Skipped, list_files
from bitvar.errors import UsageError, WeightsError
from bitvar.files import atomic_path, open_plain
from bitvar.imaging.formats import IMAGE_SUFFIXES
from bitvar.imaging.open import Location, RefusedError

Pair: TypeAlias = tuple[Path, Path]
"""A file to read, and the file to write."""

_DIGEST_KEY: Final = "bitvar"
"""Key of the text in a decoded PNG that says which bits and which tokenizer it was made from."""

_DECODED_PNG: Final = re.compile(rb"\A\x89PNG\r\n\x1a\n.{0,200}?tEXtbitvar\0", re.DOTALL)
"""The first bytes of a PNG decoded from bits, even a damaged one. Generated images carry another kind of text chunk."""


@dataclass(frozen=True)
class Done:
    """A file that was written, or was up to date.

    Attributes:
        source: File that was read.
        target: File that exists now.
        file: Bits that were written, or that the image was decoded from, as they were read.
        kept: Whether the target was up to date and left as it was.
        replaced: Whether the target held the bits of another image, or of an earlier version of this one.
    """

    source: Path
    target: Path
    file: BitFile
    kept: bool
    replaced: bool = False


@dataclass(frozen=True)
class Failed:
    """A file that could not be written.

    Attributes:
        source: File that was read.
        target: File that would have been written.
        error: The reason.
    """

    source: Path
    target: Path
    error: UsageError | WeightsError


Log: TypeAlias = Callable[[Done | Failed], None]
"""A function called with the result of every file."""


@dataclass(frozen=True)
class FolderCounts:
    """Numbers of files in a folder.

    Attributes:
        written: Files that were written.
        kept: Files that were up to date.
        left_out: Files of other kinds.
    """

    written: int
    kept: int
    left_out: int


def encode_folder(
    codec: ImageCodec,
    folder: str | Path,
    output: str | Path,
    *,
    scales: int | None = None,
    refine_steps: int = 0,
    batch_size: int = 1,
    overwrite: bool = False,
    log: Log | None = None,
) -> FolderCounts:
    """Encode the images of a folder, at any depth, into another folder. An interrupted run continues when repeated.

    Args:
        codec: Codec to encode with.
        folder: Folder of images. Files of other kinds are left out and counted.
        output: Folder to write to; it is created if missing. Bits that this tokenizer made from the same images with
            the same settings are kept.
        scales, refine_steps, batch_size: Settings of `ImageCodec.encode_many`.
        overwrite: Whether to replace even files that are not bit files.
        log: Function called with the result of every file.

    Raises:
        UsageError: if there is no image, or two images would get the same name; also for images that can't be used,
            once all others are written.
    """
    source, target = require_path(folder, "folder"), require_path(output, "output")
    pairs, skipped = pair_folder(source, target, ".bits", image_files)
    settings = {"scales": scales, "refine_steps": refine_steps, "batch_size": batch_size}
    return _count_results(encode_files(codec, pairs, overwrite=overwrite, **settings), skipped, log)


def decode_folder(
    codec: ImageCodec,
    folder: str | Path,
    output: str | Path,
    *,
    scales: int | None = None,
    overwrite: bool = False,
    log: Log | None = None,
) -> FolderCounts:
    """Decode the bit files (`.bits`) of a folder, at any depth, to PNG images in another folder.

    Args:
        codec: Codec to decode with.
        folder: Folder of bit files. Other files are left out and counted.
        output: Folder to write to; it is created if missing. Images that this tokenizer made from the same bits are
            kept.
        scales: Number of scales to use, as for `ImageCodec.decode`.
        overwrite: Whether to replace even images that were not decoded from bits.
        log: Function called with the result of every file.

    Raises:
        UsageError: if there is no bit file; also for files that can't be decoded, once all others are written.
    """
    source, target = require_path(folder, "folder"), require_path(output, "output")
    pairs, skipped = pair_folder(source, target, ".png", bit_files)
    return _count_results(decode_files(codec, pairs, scales=scales, overwrite=overwrite), skipped, log)


def image_files(folder: Path) -> tuple[list[Path], Skipped]:
    """List the images of a folder, at any depth, in order of name, and say what else it contains."""
    return list_files(folder, IMAGE_SUFFIXES)


def bit_files(folder: Path) -> tuple[list[Path], Skipped]:
    """List the bit files of a folder, at any depth, in order of name, and say what else it contains."""
    return list_files(folder, (".bits",))


def pair_files(
    sources: Sequence[Path], output: Path, suffix: str, list_folder: Callable[[Path], list[Path]]
) -> list[Pair]:
    """Pair every file to read with the file to write, without reading any.

    Args:
        sources: Files, and folders whose structure is repeated in `output`.
        output: File, for a single source file; else a folder.
        suffix: Suffix of the files to write.
        list_folder: Function that lists the files to read in a folder.

    Raises:
        UsageError: if there is no file, if the output is of the wrong kind, or if two files have the same target.
    """
    found = [
        (path, path.relative_to(source) if source.is_dir() else Path(path.name))
        for source in sources
        for path in (list_folder(source) if source.is_dir() else [source])
    ]
    if not found:
        raise UsageError("There is nothing to do.", f"{sources[0]} has no files to read", "check the folder")
    if len(found) == 1 and not sources[0].is_dir() and not output.is_dir():
        if output.suffix.lower() != suffix:
            why, fix = f"the name does not end in {suffix}", "name a file that does, or an existing folder"
            raise UsageError(f"Can't write {output}.", why, fix)
        if output.exists() and found[0][0].exists() and output.samefile(found[0][0]):
            raise UsageError(f"Can't write {output}.", "it is the input file", "name another file with -o")
        return [(found[0][0], output)]
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is not a folder.", f"{len(found)} files need one", "name a folder")
    targets: dict[Path, Path] = {}
    for path, name in found:
        target = output / name.with_suffix(suffix)
        if target in targets:
            why = f"{targets[target]} would be written there too"
            raise UsageError(f"Can't write {path} to {target}.", why, "write them to separate folders")
        targets[target] = path
    return [(path, target) for target, path in targets.items()]


def pair_folder(
    folder: Path, output: Path, suffix: str, list_folder: Callable[[Path], tuple[list[Path], Skipped]]
) -> tuple[list[Pair], Skipped]:
    """Pair the files of one folder as `pair_files` does, and say what else it contains.

    Raises:
        UsageError: as for `pair_files`, or if there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", fix="check the path")
    found, skipped = list_folder(folder)
    return pair_files([folder], output, suffix, lambda _: found), skipped


def summary(error: Exception) -> str:
    """Join an error's first line and its reason in one line."""
    what, *rest = str(error).splitlines()
    reasons = [line.strip().removeprefix("why:").strip() for line in rest if line.strip().startswith("why:")]
    return " ".join([what, *reasons])


def encode_files(
    codec: ImageCodec,
    pairs: Sequence[Pair],
    *,
    scales: int | None = None,
    refine_steps: int = 0,
    batch_size: int = 1,
    overwrite: bool = False,
) -> Iterator[Done | Failed]:
    """Encode image files to bit files, in order, and keep the targets that are up to date.

    Args:
        codec: Codec to encode with.
        pairs: Images, and the bit files to write.
        scales, refine_steps, batch_size: Settings of `ImageCodec.encode_many`.
        overwrite: Whether to replace even a target that is not a bit file.
    """
    remaining = iter(pairs)
    while group := list(islice(remaining, max(1, batch_size))):
        current = [_current_bits(codec, source, target, scales, refine_steps) for source, target in group]
        foreign = [not overwrite and _is_foreign(target, MAGIC) for _, target in group]
        wanted = [
            source
            for (source, _), file, is_foreign in zip(group, current, foreign, strict=True)
            if file is None and not is_foreign
        ]
        encoded = codec.attempt_many(wanted, scales=scales, refine_steps=refine_steps, batch_size=batch_size)
        for (source, target), kept, is_foreign in zip(group, current, foreign, strict=True):
            if kept is not None:
                yield Done(source, target, kept, kept=True)
                continue
            file = _not_replaced(target, "not a bit file") if is_foreign else next(encoded)
            if isinstance(file, UsageError):
                yield Failed(source, target, file)
                continue
            replaced = _has_bits_of_another(target, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                temporary.write_bytes(file.to_bytes())
            yield Done(source, target, file, kept=False, replaced=replaced)


def decode_files(
    codec: ImageCodec, pairs: Sequence[Pair], *, scales: int | None = None, overwrite: bool = False
) -> Iterator[Done | Failed]:
    """Decode bit files to PNG images, in order, and keep the targets that are up to date.

    Args:
        codec: Codec of the tokenizer that made the bits.
        pairs: Bit files, and the images to write.
        scales: Number of scales to use, from the coarsest.
        overwrite: Whether to replace even a target that was not decoded from bits.
    """
    for source, target in pairs:
        try:
            if not overwrite and _is_foreign(target, _DECODED_PNG):
                raise _not_replaced(target, "not decoded from bits")
            file = read_bitfile(source)
            if scales is None:
                require_enough_bits(file, str(source))
            digest = _decoding_digest(codec, file.first(scales))
            kept = _recorded_digest(target) == digest
            if not kept:
                image, texts = codec.decode(file, scales=scales or len(file.payloads)), PngInfo()
                texts.add_text(_DIGEST_KEY, digest)
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as temporary:
                    image.save(temporary, format="PNG", pnginfo=texts)
        except (UsageError, WeightsError) as error:
            yield Failed(source, target, error)
        else:
            yield Done(source, target, file, kept)


def _count_results(results: Iterable[Done | Failed], skipped: Skipped, log: Log | None) -> FolderCounts:
    """Count the results while logging each.

    Raises:
        UsageError: at the end, if any file failed.
    """
    written = kept = 0
    failed: list[Failed] = []
    for result in results:
        if isinstance(result, Failed):
            failed.append(result)
        else:
            written, kept = written + (not result.kept), kept + result.kept
        if log is not None:
            log(result)
    if failed:
        why = f"{failed[0].source}: {summary(failed[0].error)}"
        total = written + kept + len(failed)
        raise UsageError(
            f"{len(failed)} of {total} files failed; the others were written.",
            why + (f" And {len(failed) - 1} more." if failed[1:] else ""),
            "repair or remove them and repeat the call; finished files are kept",
        )
    return FolderCounts(written, kept, skipped.count + len(skipped.problems))


def _decoding_digest(codec: ImageCodec, file: BitFile) -> str:
    """Compute a digest of everything that determines an image's pixels: the bits, the tokenizer and its precision."""
    decoder = f"{codec.identity.sha256} {codec.tokenizer.dtype} "
    return hashlib.sha256(decoder.encode() + replace(file, origin=None).to_bytes()).hexdigest()


def _recorded_digest(target: Path) -> str | None:
    """Read the `_decoding_digest` that an intact PNG was written with."""
    try:
        with Image.open(target, formats=["PNG"]) as image:
            recorded = image.info.get(_DIGEST_KEY)
            image.verify()
    except Exception:  # a decoder may raise anything
        return None
    return recorded


def _current_bits(
    codec: ImageCodec, image: Path, target: Path, scales: int | None, refine_steps: int
) -> BitFile | None:
    """Read the bits of a target if encoding the image would give the same ones."""
    try:
        file = read_bitfile(target)
        header = file.header
        if file.origin is None or len(file.payloads) != (scales or len(header.grids)):
            return None
        sha256 = hashlib.sha256(Location(image).read(max_bytes=codec.limits.max_bytes)).hexdigest()
    except (UsageError, RefusedError):
        return None
    own = header == codec.header_for(header.width, header.height)
    return file if own and file.origin == codec.origin_of(sha256, scales=scales, refine_steps=refine_steps) else None


def _has_bits_of_another(target: Path, file: BitFile) -> bool:
    """Whether a target holds the bits of another image file."""
    try:
        existing = read_bitfile(target)
    except UsageError:
        return False
    return existing.origin is not None and file.origin is not None and existing.origin.sha256 != file.origin.sha256


def _is_foreign(target: Path, start: bytes | re.Pattern[bytes]) -> bool:
    """Whether a target exists and its first bytes are not those of a file written here."""
    try:
        with open_plain(target) as file:
            head = file.read(512)
    except OSError:  # missing or unreadable: writing will raise if it is a problem
        return False
    return not (head.startswith(start) if isinstance(start, bytes) else start.match(head))


def _not_replaced(target: Path, what: str) -> UsageError:
    return UsageError(
        f"{target} is not replaced.", f"it is {what}", "write to another folder, or allow it: --overwrite"
    )
