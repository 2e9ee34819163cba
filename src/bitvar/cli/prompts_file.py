"""`--prompts FILE`: one prompt per line, or one JSON object or CSV row per line with settings of its own."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, StrictBool, StrictInt, StrictStr

from bitvar.cli.prompt_job import JobSettings, PromptJob, new_job, read_quality
from bitvar.cli.prompts_table import table_rows
from bitvar.cli.sizes import read_size
from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.pipeline.request import Background

MAX_BYTES: Final = 64 << 20
MAX_LISTED: Final = 10
"""Most bad lines that a message names."""

TABLES: Final = {".csv": ",", ".tsv": "\t"}
"""Delimiter of each suffix of a table."""

Row: TypeAlias = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""The values of a line, or a function that reads them and may refuse them."""

Number: TypeAlias = Annotated[float, Field(strict=True)]


class PromptLine(Config):
    """One line of a JSON lines file or row of a CSV file; settings left out come from the command line.

    Attributes:
        prompt: Text to draw.
        negative: Text to steer away from; empty for nothing.
        seed: Seed of the first image.
        num_images: Number of images.
        size, aspect: As `--size` and `--aspect`.
        exact_size: Whether to resize the result to exactly that size.
        enlarge: Factor by which to enlarge the images.
        guidance, temperature: One value, or one per scale.
        top_k, top_p, background, quality: As `--top-k`, `--top-p`, `--background` and `--quality`.
        file: Name of the image in the folder of a run; several images are numbered. PNG without a suffix.
        id: Text or number that the ledger of a run repeats.
    """

    prompt: str
    negative: str | None = None
    seed: int | None = Field(default=None, strict=True, ge=0, lt=2**63)
    num_images: int | None = Field(default=None, strict=True, ge=1, le=64)
    size: str | None = None
    aspect: str | None = None
    exact_size: StrictBool | None = None
    enlarge: int | None = Field(default=None, strict=True, ge=1, le=16)
    guidance: Number | tuple[Number, ...] | None = None
    temperature: Number | tuple[Number, ...] | None = None
    top_k: int | None = Field(default=None, strict=True, ge=0)
    top_p: float | None = Field(default=None, strict=True, ge=0, le=1)
    background: Background | None = None
    quality: str | None = None
    file: str | None = Field(default=None, min_length=1)
    id: StrictStr | StrictInt | None = None


def read_jobs(source: str, common: JobSettings) -> list[PromptJob]:
    """Read a job from each line.

    Args:
        source: Path of a file, read as JSON lines if its suffix is `.jsonl` or `.ndjson`, and as a table with a header
            if it is `.csv` or `.tsv`; or `-` for standard input, read as JSON lines if its first line begins with a
            brace.
        common: Settings of the command line, for all lines.

    Raises:
        UsageError: The file can't be read, has no prompts, or has bad lines, which are named by number.
    """
    jobs, problems = [], []
    for number, row in _rows(source):
        try:
            jobs.append(_job(row() if callable(row) else row, common, number))
        except UsageError as error:
            problems.append((number, error))
    refuse_bad_lines(problems, source)
    if not jobs:
        raise UsageError(f"{source} has no prompts.", "every line is blank or a comment", "write one prompt per line")
    return jobs


def refuse_bad_lines(problems: list[tuple[int, UsageError]], source: str) -> None:
    """Raise one error that names every bad line, if there are any."""
    if not problems:
        return
    listed = "; ".join(f"line {number}: {_in_one_line(error)}" for number, error in problems[:MAX_LISTED])
    more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
    count = "1 line" if len(problems) == 1 else f"{len(problems)} lines"
    raise UsageError(f"{count} of {source} can't be drawn.", listed + more, "correct them; nothing has been drawn yet")


def _in_one_line(error: UsageError) -> str:
    """Put what happened and why on one line."""
    what, *rest = [line.strip() for line in str(error).splitlines()]
    reasons = [line.removeprefix(label).strip() for label in ("why:", "do:") for line in rest if line.startswith(label)]
    return f"{what.rstrip('.')} ({reasons[0]})" if reasons else what


def _read(source: str) -> str:
    data = b"".join(_read_pieces(source))
    if len(data) > MAX_BYTES:
        why = f"it is larger than {MAX_BYTES} bytes"
        raise UsageError(f"Can't read the prompts in {source}.", why, "split it into several files")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        why = f"line {line} is not UTF-8"
        raise UsageError(f"Can't read the prompts in {source}.", why, "save it as UTF-8") from None


def _read_pieces(source: str) -> Iterator[bytes]:
    try:
        if source == "-":
            yield sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                yield file.read(MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"Can't read the prompts in {source}.", why, "check the path") from None


def _rows(source: str) -> Iterator[tuple[int, Row]]:
    """Yield the line number and the values of every row."""
    text, suffix = _read(source), Path(source).suffix.lower()
    if suffix in TABLES:
        yield from table_rows(text, source, delimiter=TABLES[suffix])
        return
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if suffix == ".json" and lines and lines[0][1].startswith(("[", "{")):
        why = "it is one JSON text, and prompts are read line by line"
        raise UsageError(f"Can't read the prompts in {source}.", why, 'name it .jsonl, with {"prompt": "a cat"} a line')
    structured = suffix in (".jsonl", ".ndjson") or (source == "-" and lines and lines[0][1].startswith("{"))
    for number, line in lines:
        if structured:
            yield number, partial(_parse_json, line)
        elif not line.startswith("#"):
            yield number, {"prompt": line}


def _parse_json(text: str) -> dict[str, Any]:
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError("It is not JSON.", why, 'write {"prompt": "a cat"}') from None
    if not isinstance(values, dict):
        raise UsageError("It is not a JSON object.", fix='write {"prompt": "a cat"}')
    return values


def _require_text(values: Mapping[str, Any]) -> None:
    """Refuse strings that can't be written as UTF-8: JSON can spell half of a surrogate pair."""
    for name, value in values.items():
        for text in (name, value):
            if isinstance(text, str) and any("\ud800" <= sign <= "\udfff" for sign in text):
                why = f"{text!a} has half of a surrogate pair, which is no character"
                raise UsageError(f"Bad value for {name!a}.", why, "correct the text")


def _job(values: Mapping[str, Any], common: JobSettings, number: int) -> PromptJob:
    _require_text(values)
    line = PromptLine.parse(values, source="it")
    given = {"guidance_scale": line.guidance, "temperature": line.temperature, "top_k": line.top_k, "top_p": line.top_p}
    own = {name: value for name, value in given.items() if value is not None}
    settings = replace(
        common,
        prompt=line.prompt,
        negative=common.negative if line.negative is None else line.negative,
        seed=common.seed if line.seed is None else line.seed,
        num_images=common.num_images if line.num_images is None else line.num_images,
        size=read_size(line.size, line.aspect) or common.size,
        exact_size=common.exact_size if line.exact_size is None else line.exact_size,
        enlarge=common.enlarge if line.enlarge is None else line.enlarge,
        background=line.background or common.background,
        quality=common.quality if line.quality is None else read_quality(line.quality),
        sampling={**common.sampling, **own},
    )
    return new_job(settings, line=number, file=line.file, line_id=line.id)
