"""Where `bitvar generate` writes: files of a format by suffix, standard output, sheets, previews, and the report."""

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from PIL import Image, ImageOps

from bitvar.cli.drawing import Drawing
from bitvar.cli.echo import say
from bitvar.errors import UsageError
from bitvar.pipeline.file_names import Target, targets_of, write_new
from bitvar.pipeline.record import ImageRecord, check_size, encode_image, format_of, montage, write_image

STDOUT: Final = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        path: its name; "-" for standard output.
        record: what it says of itself.
    """

    path: str
    record: ImageRecord


def destinations(output: str | None, drawings: Sequence[Drawing], *, many: bool) -> list[list[Target]] | None:
    """Where the files of each drawing go; None for standard output.

    Args:
        output: as given with -o.
        drawings: what will be drawn.
        many: whether prompts come from a file, so that an output without a suffix is a folder.

    Raises:
        UsageError: if something can't be written there, or not so many images.
    """
    files = [file for drawing in drawings for file in drawing.files]
    if output in STDOUT:
        _check_stdout(output, len(files))
        return None
    if output == "":
        raise UsageError("-o is empty.", "it names no file", "name a file, a folder or a pattern")
    if output is not None and many and not Path(output).suffix and "{" not in output:
        output = f"{output}/"
    targets = targets_of(output, files)
    for target in targets:
        format_of(target.path)
        check_writable(target.path.parent, target.path)
    rest = iter(targets)
    return [[next(rest) for _ in drawing.files] for drawing in drawings]


def check_sizes(drawings: Sequence[Drawing], targets: list[list[Target]] | None) -> None:
    """Refuse sizes that the formats of the files can't have.

    Raises:
        UsageError: for the first of them.
    """
    for drawing, files in zip(drawings, targets or [], strict=False):
        for target in files:
            check_size(drawing.file_size, format_of(target.path))


def check_writable(folder: Path, path: Path) -> None:
    """Fail before the work, not after it.

    Raises:
        UsageError: if the folder can't be written to, or made.
    """
    parent = folder.absolute()
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        why = f"{parent} is not a writable folder"
        raise UsageError(f"Can't write {path}.", why, "choose another path")


def finished(image: Image.Image, drawing: Drawing) -> Image.Image:
    """An image in its final size: cut to the size asked for, if that was to be exact, and enlarged."""
    size = drawing.image_size
    assert size is not None
    if image.size == size:
        return image
    if drawing.exact:
        return ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)
    return image.resize(size, Image.Resampling.LANCZOS)


def write_drawing(images: list[Image.Image], records: list[ImageRecord], targets: list[Target] | None) -> list[Written]:
    """Write the files of one drawing: one for each record, in order."""
    if targets is not None:
        paths = [write_image(*each) for each in zip(images, records, targets, strict=True)]
        return [Written(str(path), record) for path, record in zip(paths, records, strict=True)]
    data = b"".join(encode_image(*each) for each in zip(images, records, strict=True))
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None
    return [Written("-", record) for record in records]


def sheet_of(images: list[Image.Image], records: list[ImageRecord]) -> tuple[Image.Image, ImageRecord]:
    """All images of a drawing on one sheet, and its record, which names all seeds."""
    seeds = tuple(record.seed for record in records)
    return montage(images), ImageRecord.of(records[0].model_dump(), grid=True, seeds=seeds)


def write_previews(images: Sequence[Image.Image], folder: Path, scale: int) -> None:
    """Write the images as they are after a scale; files of an earlier call stay."""
    for i, image in enumerate(images):
        file = io.BytesIO()
        image.save(file, format="PNG")
        write_new(folder / f"scale-{scale:02d}-{i + 1}.png", file.getvalue())


def report(files: Sequence[Written], model: str, seconds: float, *, as_json: bool) -> None:
    """Say what was written: on stdout, or on stderr if stdout is the image."""
    aside = any(file.path == "-" for file in files)
    if as_json:
        rows = [_row(file) for file in files]
        text = json.dumps({"files": rows, "model": model, "seconds": round(seconds, 3)})
        typer.echo(text, err=aside)
        return
    for file in files:
        width, height = file.record.file_size
        seeds = file.record.all_seeds
        named = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
        line = f"{file.path}  {width}x{height}  {named}  {file.record.model}  {seconds:.1f} s"
        say(line, err=aside)


def _row(file: Written) -> dict[str, Any]:
    """What --json says of a file: `width` and `height` are the file's own."""
    record, (width, height) = file.record, file.record.file_size
    drawn = {"width": width, "height": height, "drawn_width": record.width, "drawn_height": record.height}
    values = record.model_dump(mode="json") | drawn | {"seeds": list(record.all_seeds)}
    return {"path": file.path, **values}


def _check_stdout(output: str, count: int) -> None:
    if count > 1:
        why = f"{count} images would run into one another"
        raise UsageError(f"Can't write to {output}.", why, "add --grid for one sheet, or name a file")
    if sys.stdout.isatty():
        why = "standard output is a terminal, and an image is no text"
        raise UsageError(f"Can't write to {output}.", why, "lead it into a file or another command")
