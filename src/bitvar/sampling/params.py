"""How bits are drawn: guidance, temperature, top-k and top-p, each constant or one value a scale. Needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from pydantic import Field

from bitvar import arguments
from bitvar.errors import UsageError

Strength: TypeAlias = Annotated[float, Field(ge=0, le=100)]
PerScale: TypeAlias = Strength | Annotated[Sequence[Strength], Field(min_length=1, max_length=64)]
"""One value, or one a scale; kept as a tuple."""

MAX_TOP_K: Final = 1_000_000
MAX_SEED: Final = 2**63 - 1


class ScaleParams(NamedTuple):
    """Settings of one scale, as `SamplingParams` explains them."""

    guidance_scale: float = 3.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0


DEFAULTS: Final = ScaleParams()
"""What applies where neither a call nor its model says anything."""


@dataclass(frozen=True)
class SamplingParams:
    """Settings of the sampler. None leaves a setting to the model, and then to `DEFAULTS`.

    Attributes:
        guidance_scale: `g` of `g cond + (1 - g) uncond`; 1 turns guidance off. Useful from 1 to 4.
        temperature: Divisor of the logits; 0 always takes the likelier value. Useful from 0.25 to 1.
        top_k: Number of values kept of a bit's two: 1 is greedy; 0, and more than 1, keep both.
        top_p: Probability from which the likelier value of a bit is certain; 0 turns it off.
    """

    guidance_scale: PerScale | None = None
    temperature: PerScale | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None

    def __post_init__(self) -> None:
        for name in _RULES:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checked(name, getattr(self, name)))

    @staticmethod
    def parse(values: Mapping[str, Any], *, source: str = "") -> "SamplingParams":
        """Make settings of values of any kind, such as NumPy's numbers, lists and arrays.

        Args:
            values: Values by the name of the setting; None leaves one open.
            source: Where they come from, for errors, such as "the options of this call".

        Raises:
            UsageError: for a value that is no number, or out of range.
        """
        return SamplingParams(
            **{name: None if value is None else _checked(name, value, source) for name, value in values.items()}
        )

    @property
    def guided(self) -> bool:
        """Whether any scale is guided."""
        return any(value != 1 for value in _values(self._or_default("guidance_scale")))

    def over(self, defaults: "SamplingParams") -> "SamplingParams":
        """These settings, and those of `defaults` for what they leave open."""
        missing = [field.name for field in fields(self) if getattr(self, field.name) is None]
        return replace(self, **{name: getattr(defaults, name) for name in missing})

    def complete(self) -> "SamplingParams":
        """These settings, and `DEFAULTS` for what they leave open."""
        return self.over(SamplingParams(**DEFAULTS._asdict()))

    def scales(self, num_scales: int) -> list[ScaleParams]:
        """The settings of each scale.

        Raises:
            UsageError: for a list that doesn't name every scale.
        """
        columns = [spread_over_scales(name, self._or_default(name), num_scales) for name in ScaleParams._fields]
        return [ScaleParams(g, t, int(k), p) for g, t, k, p in zip(*columns, strict=True)]

    def _or_default(self, name: str) -> float | Sequence[float]:
        value = getattr(self, name)
        return getattr(DEFAULTS, name) if value is None else value


def _values(value: float | Sequence[float]) -> tuple[float, ...]:
    return (value,) if isinstance(value, int | float) else tuple(value)


def spread_over_scales(name: str, value: float | Sequence[float], num_scales: int) -> tuple[float, ...]:
    """Spread one value over all scales.

    Args:
        name: Name of the value in errors.
        value: One value, or one a scale.
        num_scales: Number of scales.

    Raises:
        UsageError: for a list that doesn't name every scale.
    """
    values = _values(value)
    if len(values) == 1:
        return values * num_scales
    if len(values) != num_scales:
        why = f"this size is generated in {num_scales} scales"
        raise UsageError(f"{name} has {len(values)} values.", why, f"give one value, or {num_scales}")
    return values


_RULES: Final[Mapping[str, tuple[Callable[[Any], Any], float]]] = {
    "guidance_scale": (arguments.per_scale, 100.0),
    "temperature": (arguments.per_scale, 100.0),
    "top_k": (arguments.whole_number, float(MAX_TOP_K)),
    "top_p": (arguments.real_number, 1.0),
}
"""What each setting takes, and its largest value."""


def _checked(name: str, given: Any, source: str = "") -> Any:
    rule, high = _RULES[name]
    what = f"Bad value for {name!r}{f' in {source}' if source else ''}."
    try:
        plain = rule(given)
    except ValueError as error:
        raise UsageError(what, str(error), "give another value") from None
    for value in _values(plain):
        if not 0 <= value <= high:
            why = f"it must lie between 0 and {high:,g}, got {arguments.shown(value)}"
            raise UsageError(what, why, "choose a value in that range")
    return plain
