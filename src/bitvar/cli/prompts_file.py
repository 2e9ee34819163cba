"""`--prompts FILE`: many prompts, one a line, or one JSON object a line with settings of its own."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, StrictBool

from bitvar.cli.drawing import Changes, Drawing, new_drawing
from bitvar.cli.sizes import read_size
from bitvar.config import Config
from bitvar.errors import UsageError

MAX_BYTES: Final = 64 << 20
SHOWN: Final = 10
"""Bad lines that a message names."""

Number: TypeAlias = Annotated[float, Field(strict=True)]


class PromptLine(Config):
    """One line of a JSON lines file; what is left out comes from the command line.

    Attributes:
        prompt: what to draw.
        negative: what to steer away from; empty for nothing.
        seed: of the first image.
        num_images: Number of images.
        size, aspect: as `--size` and `--aspect`.
        exact_size: whether the result is resized to exactly that.
        enlarge: how many times as large to write it.
        guidance, temperature: one value, or one a scale.
        top_k, top_p: as the options.
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


def read_drawings(source: str, common: Changes) -> list[Drawing]:
    """A drawing for each line.

    Args:
        source: a file, JSON lines if it is called `.jsonl` or `.ndjson`; `-` for standard input, JSON lines if its
            first line begins with a brace.
        common: what the command line says for all of them.

    Raises:
        UsageError: if it can't be read, has no prompts, or has bad lines, which are named by number.
    """
    lines = list(enumerate(_read(source).split("\n"), 1))
    lines = [(number, line.strip()) for number, line in lines if line.strip()]
    structured = Path(source).suffix.lower() in (".jsonl", ".ndjson")
    if source == "-" and lines:
        structured = lines[0][1].startswith("{")
    if not structured:
        lines = [(number, line) for number, line in lines if not line.startswith("#")]
    if not lines:
        raise UsageError(f"{source} has no prompts.", "every line is blank or a comment", "write one a line")
    drawings, problems = [], []
    for number, line in lines:
        try:
            changes = _of_json(line, common) if structured else replace(common, prompt=line)
            drawings.append(new_drawing(changes, line=number))
        except UsageError as error:
            problems.append((number, error))
    refuse_bad_lines(problems, source)
    return drawings


def refuse_bad_lines(problems: list[tuple[int, UsageError]], source: str) -> None:
    """Raise one error that names every bad line, if there are any."""
    if not problems:
        return
    shown = "; ".join(f"line {number}: {_in_one_line(error)}" for number, error in problems[:SHOWN])
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    count = "1 line" if len(problems) == 1 else f"{len(problems)} lines"
    raise UsageError(f"{count} of {source} can't be drawn.", shown + more, "mend them; nothing has been drawn yet")


def _in_one_line(error: UsageError) -> str:
    what, *rest = str(error).splitlines()
    why = next((line.strip().removeprefix("why: ") for line in rest if line.strip().startswith("why:")), "")
    return f"{what.rstrip('.')} ({why})" if why else what


def _read(source: str) -> str:
    data = b"".join(_pieces(source))
    if len(data) > MAX_BYTES:
        why = f"it is larger than {MAX_BYTES} bytes"
        raise UsageError(f"Can't read the prompts in {source}.", why, "split it into several files")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        why = f"line {line} is not UTF-8"
        raise UsageError(f"Can't read the prompts in {source}.", why, "save it as UTF-8") from None


def _pieces(source: str) -> Iterator[bytes]:
    try:
        if source == "-":
            yield sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                yield file.read(MAX_BYTES + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"Can't read the prompts in {source}.", why, "check the path") from None


def _of_json(text: str, common: Changes) -> Changes:
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError("It is not JSON.", why, 'write {"prompt": "a cat"}') from None
    if not isinstance(values, dict):
        raise UsageError("It is no JSON object.", "it has no keys", 'write {"prompt": "a cat"}')
    line = PromptLine.parse(values, source="it")
    given = {"guidance_scale": line.guidance, "temperature": line.temperature, "top_k": line.top_k, "top_p": line.top_p}
    own = {name: value for name, value in given.items() if value is not None}
    return replace(
        common,
        prompt=line.prompt,
        negative=common.negative if line.negative is None else line.negative,
        seed=common.seed if line.seed is None else line.seed,
        num_images=common.num_images if line.num_images is None else line.num_images,
        size=read_size(line.size, line.aspect) or common.size,
        exact=common.exact if line.exact_size is None else line.exact_size,
        enlarge=common.enlarge if line.enlarge is None else line.enlarge,
        sampling={**common.sampling, **own},
    )
