"""Strict configuration: frozen pydantic models to and from JSON. An unknown key is an error with a suggestion."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitvar.errors import UsageError, explain
from bitvar.files import LFS_POINTER, read_plain

C = TypeVar("C", bound="Config")

CodeNorms: TypeAlias = Annotated[tuple[Annotated[float, Field(gt=0, le=1024)], ...], Field(min_length=1, max_length=64)]
"""Norm of each scale's codes, coarse to fine, as `scales.code_norms_of` takes them; 1 in the published models."""


class Config(BaseModel):
    """Base of every configuration: frozen, and no key that it doesn't know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls: type[C], values: Mapping[str, Any], *, source: str) -> C:
        """Validate `values`, naming `source` in the error.

        Raises:
            UsageError: for the first unknown key (with the nearest known one) or wrong value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            count = error.error_count()
            if count > _MOST_ERRORS:  # to describe each would take seconds
                why = f"{count:,} values are wrong"
                raise UsageError(f"Can't use {source}.", why, "give the original") from None
            first = min(error.errors(include_url=False), key=lambda entry: entry["type"] != "extra_forbidden")
            where = ".".join(str(part) for part in _place(first["loc"], values, missing=first["type"] in _ABSENT))
            if first["type"] == "extra_forbidden":
                raise UsageError(unknown(f"key {where!r} in {source}", where.split(".")[-1], _keys(cls))) from None
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, UsageError):  # one of ours, which says all three lines itself
                raise UsageError(f"Bad value for {where!r} in {source}: {cause}" if where else str(cause)) from None
            what = f"Bad value for {where!r} in {source}." if where else f"The values in {source} don't go together."
            raise UsageError(what, _reason(first["msg"]), "give another value") from None

    @classmethod
    def load(cls: type[C], path: Path) -> C:
        """Read a JSON file."""
        return cls.parse(read_json(path), source=str(path))

    def dump(self) -> str:
        """The JSON text that `load` reads."""
        return self.model_dump_json(indent=2) + "\n"

    def override(self: C, settings: Sequence[str]) -> C:
        """A copy with `a.b=value` settings applied; a value is JSON, or else a plain string."""
        values = self.model_dump(mode="json")
        for setting in settings:
            key, separator, text = setting.partition("=")
            if not separator:
                raise UsageError(f"Can't read the setting {setting!r}.", "it has no '='", "write key=value")
            *parents, last = key.split(".")
            target: Any = values
            for name in parents:
                target = _member(target, name, key)[name]
            _member(target, last, key)
            target[last] = _json_or_text(text)
        return self.parse(values, source="the settings given")


_MOST_ERRORS = 1000
_ABSENT = ("missing", "extra_forbidden")


def _place(location: Sequence[str | int], values: Any, *, missing: bool) -> list[str | int]:
    """Where in `values` an error is, without the names of a union's members, which pydantic puts between."""
    found: list[str | int] = []
    for i, part in enumerate(location):
        if isinstance(values, Mapping) and (part in values or (missing and i == len(location) - 1)):
            values = values.get(part)
        elif isinstance(values, Sequence) and isinstance(part, int) and 0 <= part < len(values):
            values = values[part]
        else:
            continue
        found.append(part)
    return found or list(location)


def _reason(message: str) -> str:
    plain = message.removeprefix("Value error, ")
    return plain[:1].lower() + plain[1:]


def check_room(parameters: int, folder: Path, *, source: str) -> None:
    """Refuse sizes that the weights beside them can't have, before anything of these sizes is built.

    Args:
        parameters: how many numbers a model of these sizes has, at least.
        folder: the folder of its safetensors.
        source: the configuration to name in the error.

    Raises:
        UsageError: if the files have fewer bytes than numbers.
    """
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if parameters > held:
        raise UsageError(
            f"The weights in {folder} don't fit their {Path(source).name}.",
            f"a model of its sizes has {parameters:,} numbers, and the files have {held:,} bytes",
            "restore the folder",
        )


def unknown(what: str, given: str, known: Sequence[str]) -> str:
    """The message for an unknown name, with the nearest known one."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return explain(f"Unknown {what}.", f"nothing is called {given!r}", hint)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; what is wrong with it as a `UsageError`."""
    try:
        text = read_plain(path).decode("utf-8")
        if text.startswith(LFS_POINTER.decode()):
            why = "it is a Git LFS pointer, not the file itself"
            raise UsageError(f"Can't read {path}.", why, "run `git lfs pull` in the clone, or download it again")
        values = json.loads(text)
    except FileNotFoundError:
        raise UsageError(f"There is no {path}.", "the file is missing", "check the path") from None
    except UsageError:
        raise
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"Can't read {path}.", why, "give a file of JSON") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"Can't read {path}.", f"it is not JSON: {error}", "restore the file") from None
    if not isinstance(values, dict):
        raise UsageError(f"Can't read {path}.", "it holds no JSON object", "restore the file")
    return values


def _member(values: Any, name: str, key: str) -> dict[str, Any]:
    if not isinstance(values, dict) or name not in values:
        raise UsageError(unknown(f"key {key!r}", name, list(values) if isinstance(values, dict) else []))
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # too long a number and too deep a list are no JSON either
        return text


def _keys(cls: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in cls.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names.extend(_keys(field.annotation))
    return names
