"""Strict configurations: frozen pydantic models, read from and written to JSON, that refuse unknown keys."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitvar.errors import UsageError, explain
from bitvar.files import LFS_POINTER, read_plain

C = TypeVar("C", bound="Config")

CodeNorms: TypeAlias = Annotated[tuple[Annotated[float, Field(gt=0, le=1024)], ...], Field(min_length=1, max_length=64)]
"""Norm of each scale's codes, coarse to fine, as `scales.code_norms_of` takes them; 1 in the published models."""


class Config(BaseModel):
    """The base of every configuration: frozen, with unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls: type[C], values: Mapping[str, Any], *, source: str) -> C:
        """Validate values.

        Args:
            values: Values by key.
            source: Where the values come from, for the error.

        Raises:
            UsageError: A key is unknown (the error names the nearest known one), or a value is wrong.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            count = error.error_count()
            if count > _MAX_ERRORS:  # describing all of them would take seconds
                why = f"{count:,} values are wrong"
                raise UsageError(f"Can't use {source}.", why, "give the original file") from None
            first = min(error.errors(include_url=False), key=lambda entry: entry["type"] not in _UNKNOWN)
            where = ".".join(str(part) for part in _locate(first["loc"], values, missing=first["type"] in _ABSENT))
            if first["type"] in _UNKNOWN:
                raise UsageError(unknown(f"key {where!r} in {source}", where.split(".")[-1], _keys(cls))) from None
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, UsageError):  # one of ours, which explains itself
                raise UsageError(f"Bad value for {where!r} in {source}: {cause}" if where else str(cause)) from None
            what = f"Bad value for {where!r} in {source}." if where else f"The values in {source} don't go together."
            raise UsageError(what, _reason(first["msg"]), "give another value") from None

    @classmethod
    def load(cls: type[C], path: Path) -> C:
        """Read a configuration from a JSON file."""
        return cls.parse(read_json(path), source=str(path))

    def dump(self) -> str:
        """Write the configuration as the JSON text that `load` reads."""
        return self.model_dump_json(indent=2) + "\n"

    def override(self: C, settings: Sequence[str]) -> C:
        """Copy the configuration with `a.b=value` settings applied. A value that isn't JSON is a plain string."""
        values = self.model_dump(mode="json")
        for setting in settings:
            key, separator, text = setting.partition("=")
            if not separator:
                raise UsageError(f"The setting {setting!r} has no '='.", fix="write key=value")
            *parents, last = key.split(".")
            target: Any = values
            for name in parents:
                target = _member(target, name, key)[name]
            _member(target, last, key)
            target[last] = _json_or_text(text)
        return self.parse(values, source="the settings given")


_MAX_ERRORS = 1000
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_ABSENT = ("missing", *_UNKNOWN)


def _locate(location: Sequence[str | int], values: Any, *, missing: bool) -> list[str | int]:
    """The path of an error in `values`, without the names of union members that pydantic inserts."""
    path: list[str | int] = []
    for i, part in enumerate(location):
        if isinstance(values, Mapping) and (part in values or (missing and i == len(location) - 1)):
            values = values.get(part)
        elif isinstance(values, Sequence) and isinstance(part, int) and 0 <= part < len(values):
            values = values[part]
        else:
            continue
        path.append(part)
    return path or list(location)


def _reason(message: str) -> str:
    plain = message.removeprefix("Value error, ")
    return plain[:1].lower() + plain[1:]


def check_room(parameters: int, folder: Path, *, source: str) -> None:
    """Refuse a configuration that is too large for the weights beside it, before a model is built from it.

    Args:
        parameters: Least number of parameters of a model with this configuration.
        folder: Folder of the model's safetensors files.
        source: Path of the configuration, for the error.

    Raises:
        UsageError: The files have fewer bytes than the model has parameters.
    """
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if parameters > held:
        raise UsageError(
            f"The weights in {folder} don't fit their {Path(source).name}.",
            f"such a model has {parameters:,} parameters, and the files have {held:,} bytes",
            "restore the folder",
        )


def unknown(what: str, given: str, known: Sequence[str]) -> str:
    """Explain that a name is unknown, with the nearest known one.

    Args:
        what: Kind of name, such as "adapter"; or also the whole name, such as "key 'engin.power'".
        given: Unknown name, or the part of it that is unknown.
        known: Names that exist.
    """
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    if "'" not in what:
        return explain(f"Unknown {what} {given!r}.", fix=hint)
    is_last_part = repr(given) in what or f".{given}'" in what
    why = None if is_last_part else f"nothing is called {given!r}"
    return explain(f"Unknown {what}.", why, hint)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        UsageError: The file doesn't exist, can't be read, or doesn't hold a JSON object.
    """
    try:
        text = read_plain(path).decode("utf-8")
        if text.startswith(LFS_POINTER.decode()):
            why = "it is a Git LFS pointer, not the file itself"
            raise UsageError(f"Can't read {path}.", why, "run `git lfs pull` in the clone, or download it again")
        values = json.loads(text)
    except FileNotFoundError:
        raise UsageError(f"There is no {path}.", fix="check the path") from None
    except UsageError:
        raise
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"Can't read {path}.", why, "give a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"Can't read {path}.", f"it is not JSON: {error}", "restore the file") from None
    if not isinstance(values, dict):
        raise UsageError(f"Can't read {path}.", "it doesn't hold a JSON object", "restore the file")
    return values


def _member(values: Any, name: str, key: str) -> dict[str, Any]:
    if not isinstance(values, dict) or name not in values:
        raise UsageError(unknown(f"key {key!r}", name, list(values) if isinstance(values, dict) else []))
    return values


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also raised for numbers that are too long and lists nested too deeply
        return text


def _keys(cls: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in cls.model_fields.items():
        names.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names.extend(_keys(field.annotation))
        elif isinstance(field.annotation, type) and is_dataclass(field.annotation):
            names.extend(own.name for own in fields(field.annotation))
    return names
