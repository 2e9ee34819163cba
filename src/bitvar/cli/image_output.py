"""The output of `bitvar generate`: image files, standard output, sheets, previews, and the final report."""

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from PIL import Image

from bitvar.cli.echo import say
from bitvar.cli.prompt_job import PromptJob
from bitvar.errors import UsageError
from bitvar.pipeline.file_names import Target, targets_of, write_new
from bitvar.pipeline.image_files import check_background, check_size, encode_image, format_of, write_image
from bitvar.pipeline.record import ImageRecord, montage

STDOUT: Final = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        path: Its path; "-" for standard output.
        record: Record inside the file.
    """

    path: str
    record: ImageRecord


def destinations(output: str | None, jobs: Sequence[PromptJob], *, many: bool) -> list[list[Target]] | None:
    """Decide where the files of each job go; None for standard output.

    Args:
        output: Value of -o.
        jobs: Jobs to be drawn.
        many: Whether prompts come from a file, so that an output without a suffix is a folder.

    Raises:
        UsageError: The output can't be written, can't hold that many images, or can't hold transparency.
    """
    files = [file for job in jobs for file in job.files]
    if output in STDOUT:
        _check_stdout(output, len(files))
        return None
    if output == "":
        raise UsageError("-o is empty, so it names no file.", fix="give a file, a folder or a pattern")
    if output is not None and many and not Path(output).suffix and "{" not in output:
        output = f"{output}/"
    targets = targets_of(output, files)
    rest = iter(targets)
    placed = [[next(rest) for _ in job.files] for job in jobs]
    for job, own in zip(jobs, placed, strict=True):
        for target in own:
            check_background(job.background, format_of(target.path))
            check_writable(target.path.parent, target.path)
    return placed


def check_sizes(jobs: Sequence[PromptJob], targets: list[list[Target]] | None) -> None:
    """Refuse sizes that the files' formats can't hold.

    Raises:
        UsageError: A file would be too large for its format.
    """
    for job, files in zip(jobs, targets or [], strict=False):
        for target in files:
            check_size(job.file_size, format_of(target.path))


def check_writable(folder: Path, path: Path) -> None:
    """Refuse a folder that can't be written to or created, before any work.

    Raises:
        UsageError: The folder can't be used; the error names `path`.
    """
    parent = folder.absolute()
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        why = f"{parent} is not a writable folder"
        raise UsageError(f"Can't write {path}.", why, "choose another path")


def write_job(images: list[Image.Image], records: list[ImageRecord], targets: list[Target] | None) -> list[Written]:
    """Write the files of one job, one for each record, in order; to standard output without targets."""
    if targets is not None:
        paths = [write_image(*file) for file in zip(images, records, targets, strict=True)]
        return [Written(str(path), record) for path, record in zip(paths, records, strict=True)]
    data = b"".join(encode_image(*file) for file in zip(images, records, strict=True))
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None
    return [Written("-", record) for record in records]


def sheet_of(images: list[Image.Image], records: list[ImageRecord]) -> tuple[Image.Image, ImageRecord]:
    """Put all images of a job on one sheet, whose record lists all seeds."""
    seeds = tuple(record.seed for record in records)
    return montage(images), ImageRecord.of(records[0].model_dump(), grid=True, seeds=seeds)


def write_previews(images: Sequence[Image.Image], folder: Path, scale: int) -> None:
    """Write the images as they are after a scale. Files of an earlier call are kept."""
    for i, image in enumerate(images):
        file = io.BytesIO()
        image.save(file, format="PNG")
        write_new(folder / f"scale-{scale:02d}-{i + 1}.png", file.getvalue())


@dataclass(frozen=True)
class Timings:
    """Seconds that a command took.

    Attributes:
        load: Seconds to load the model and its adapters.
        draw: Seconds to generate and write the images.
    """

    load: float
    draw: float


def report(files: Sequence[Written], model: str, timings: Timings, *, as_json: bool) -> None:
    """Say what was written: on stdout, or on stderr if stdout is the image."""
    to_stderr = any(file.path == "-" for file in files)
    if as_json:
        seconds = {"load_seconds": round(timings.load, 3), "draw_seconds": round(timings.draw, 3)}
        typer.echo(json.dumps({"files": [_row(file) for file in files], "model": model, **seconds}), err=to_stderr)
        return
    for file in files:
        width, height = file.record.file_size
        seeds = file.record.all_seeds
        seed_text = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
        say(f"{file.path}  {width}x{height}  {seed_text}  {file.record.model}", err=to_stderr)
    say(f"loaded in {timings.load:.1f} s, drawn in {timings.draw:.1f} s", err=True)


def _row(file: Written) -> dict[str, Any]:
    """The entry of a file in --json, in which `width` and `height` are those of the file."""
    record, (width, height) = file.record, file.record.file_size
    drawn = {"width": width, "height": height, "drawn_width": record.width, "drawn_height": record.height}
    values = record.model_dump(mode="json") | drawn | {"seeds": list(record.all_seeds)}
    return {"path": file.path, **values}


def _check_stdout(output: str, count: int) -> None:
    if count > 1:
        why = f"{count} images would run into one another"
        raise UsageError(f"Can't write to {output}.", why, "add --grid to write one sheet, or name a file")
    if sys.stdout.isatty():
        why = "standard output is a terminal, which can't show an image file"
        raise UsageError(f"Can't write to {output}.", why, "redirect it to a file or pipe it into another command")
