"""The runs of a study: every combination of the values that its arguments take. Knows no tensors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from bitvar.errors import UsageError

_FORM: Final = "write NAME=VALUE,VALUE or NAME+NAME=VALUE+VALUE,VALUE+VALUE"

_FIELD: Final = re.compile(r"\{([^{}]*)\}")

MAX_RUNS: Final = 500


@dataclass(frozen=True)
class Variation:
    """Arguments of a recipe that vary together, and the values that they take.

    Attributes:
        names: Names of the arguments.
        values: Values of all of them, one tuple a variant.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @staticmethod
    def parse(text: str) -> "Variation":
        """Read `width=64,96`, or `depth+width=2+32,4+96` for arguments that vary together.

        Raises:
            UsageError: If the text has another form, or a name or variant comes twice.
        """
        left, equals, right = text.partition("=")
        names = tuple(name.strip() for name in left.split("+"))
        values = tuple(tuple(value.strip() for value in variant.split("+")) for variant in right.split(","))
        if not equals or not all(name.isidentifier() for name in names):
            raise UsageError(f"Can't read --vary {text}.", "it names no argument", _FORM)
        for variant in values:
            if len(variant) != len(names) or not all(variant):
                why = f"{'+'.join(variant) or 'an empty variant'} doesn't have a value for each of {', '.join(names)}"
                raise UsageError(f"Can't read --vary {text}.", why, _FORM)
        if len(set(names)) < len(names) or len(set(values)) < len(values):
            raise UsageError(f"Can't read --vary {text}.", "something comes twice", "give each once")
        return Variation(names, values)


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        name: Name of its folder, such as "depth2-width32-bits12".
        arguments: Arguments of the recipe that vary, with their values.
    """

    name: str
    arguments: Mapping[str, str]

    def fill(self, pattern: str) -> str:
        """Put this run's values into a pattern such as `runs/d{bits}/model`.

        Raises:
            UsageError: If the pattern names an argument that doesn't vary.
        """

        def value(field: re.Match[str]) -> str:
            if field[1] not in self.arguments:
                why = f"{field[1] or 'an empty name'} is not one of {', '.join(self.arguments) or 'none'}"
                raise UsageError(f"Can't fill in {pattern!r}.", why, "name an argument of --vary")
            return self.arguments[field[1]]

        return _FIELD.sub(value, pattern)


def plan_runs(variations: Sequence[Variation]) -> list[StudyRun]:
    """List every combination, the last variation varying fastest.

    Raises:
        UsageError: If an argument varies twice, or there are more than `MAX_RUNS` combinations.
    """
    names = [name for variation in variations for name in variation.names]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name} varies twice.", fix="name it in one --vary")
    runs = list(_combine(variations))
    if len(runs) > MAX_RUNS:
        raise UsageError(f"The study has {len(runs)} runs.", f"at most {MAX_RUNS} are allowed", "leave out some values")
    return runs


def _combine(variations: Sequence[Variation]) -> Iterator[StudyRun]:
    for chosen in product(*(variation.values for variation in variations)):
        pairs = zip(variations, chosen, strict=True)
        arguments = {
            name: value for variation, values in pairs for name, value in zip(variation.names, values, strict=True)
        }
        yield StudyRun("-".join(f"{name}{_plain(value)}" for name, value in arguments.items()) or "only", arguments)


def _plain(value: str) -> str:
    """Write a value so that it can be part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._]", "_", value)
