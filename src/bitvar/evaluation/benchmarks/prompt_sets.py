"""The prompts of published benchmarks: files in the package where their licence allows it, else files of the user.

Each folder of `prompts/` has a SOURCE.md that says where its files come from, and under which licence.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt, prompts_digest
from bitvar.files import read_plain

PACKAGED: Final = Path(__file__).parent / "prompts"
"""Folder of the prompt files in the package."""

SPLIT: Final = "all"
"""Name of the only split of a published benchmark."""


@dataclass(frozen=True)
class PromptSet:
    """All prompts of a benchmark.

    Attributes:
        prompts: Prompts in their published order.
        source: Where they come from, for reports.
    """

    prompts: tuple[EvalPrompt, ...]
    source: str

    @property
    def sha256(self) -> str:
        """Digest of all fields of all prompts."""
        return prompts_digest(self.prompts)

    def choose(self, limit: int | None) -> tuple[EvalPrompt, ...]:
        """Choose the first prompts of each skill; all of them without a limit."""
        if limit is None:
            return self.prompts
        taken: dict[str, int] = {}
        chosen = []
        for prompt in self.prompts:
            taken[prompt.skill] = taken.get(prompt.skill, 0) + 1
            if taken[prompt.skill] <= limit:
                chosen.append(prompt)
        return tuple(chosen)


@dataclass(frozen=True)
class FetchHint:
    """What a user has to get, and how, where the package can't hold the prompts.

    Attributes:
        what: The files.
        why: Why the package doesn't hold them.
        command: Command that gets them.
    """

    what: str
    why: str
    command: str

    def error(self) -> UsageError:
        """Make the error for a missing `--prompts`."""
        return UsageError(f"Name {self.what} with --prompts.", self.why, f"get it: {self.command}")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON objects, one a line.

    Raises:
        UsageError: for a file that isn't there, or a line that is no object.
    """
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            rows.append(_object(line, f"line {number} of {path}"))
    if not rows:
        raise UsageError(f"{path} holds no prompts.", "it has no lines", "give the file of the benchmark")
    return rows


def read_json_list(path: Path) -> list[Any]:
    """Read a file that is one JSON list, which isn't empty.

    Raises:
        UsageError: for a file that isn't there, or holds something else.
    """
    try:
        values = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"Can't read {path}.", f"it is no JSON: {error}", "give the file of the benchmark") from None
    if not isinstance(values, list) or not values:
        raise UsageError(f"{path} holds no prompts.", "it is no JSON list, or empty", "give the file of the benchmark")
    return values


def read_field(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], source: str) -> Any:
    """Read a field of a row.

    Raises:
        UsageError: if it is missing, or of another kind.
    """
    value = row.get(name)
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        why = "it is missing" if name not in row else f"it is {value!r:.60}"
        raise UsageError(f"Bad {name!r} in {source}.", why, "give the file of the benchmark, unchanged")
    return value


def numbered(
    rows: Sequence[Any], source: str, *, read: Callable[[Mapping[str, Any], str], tuple[str, str]], digits: int = 5
) -> tuple[EvalPrompt, ...]:
    """Make prompts whose id is the number of their row.

    Args:
        rows: JSON objects; each is kept as its prompt's payload.
        source: Name of the file for errors.
        read: Function from a row and its place to the prompt's text and skill.
        digits: Digits of an id.
    """
    prompts = []
    for number, row in enumerate(rows):
        place = f"entry {number + 1} of {source}"
        if not isinstance(row, dict):
            raise UsageError(f"Can't read {place}.", "it is no JSON object", "give the file of the benchmark")
        text, skill = read(row, place)
        prompts.append(EvalPrompt(f"{number:0{digits}d}", text, SPLIT, skill, row))
    return tuple(prompts)


def _text(path: Path) -> str:
    try:
        return read_plain(path).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        why = "it is a folder" if path.is_dir() else "there is no such file"
        raise UsageError(f"Can't read the prompts {path}.", why, "check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"Can't read the prompts {path}.", "it is no UTF-8 text", "give the original file") from None


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"Can't read {place}.", str(error), "give the file of the benchmark") from None
    if not isinstance(value, dict):
        raise UsageError(f"Can't read {place}.", "it is no JSON object", "give the file of the benchmark")
    return value
