"""How bits are drawn: guidance, temperature, top-k, top-p, each constant or one value a scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from bitvar import arguments
from bitvar.errors import UsageError

PerScale = float | Sequence[float]


@dataclass(frozen=True)
class SamplingParams:
    """Settings of the sampler.

    Attributes:
        guidance_scale: `g` of `g cond + (1 - g) uncond`; 1 is off. Settings in use: 1 to 4.
        temperature: divides the logits; 0 draws the likelier value always. Settings in use: 0.25 to 1.
        top_k: values kept of the two: 1 is greedy, 0 or more than 1 keeps both.
        top_p: a bit is certain once its likelier value reaches this probability; 0 is off.
    """

    guidance_scale: PerScale = 3.0
    temperature: PerScale = 1.0
    top_k: int = 0
    top_p: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("guidance_scale", 0.0, 100.0), ("temperature", 0.0, 100.0)):
            for value in _as_tuple(arguments.checked(name, getattr(self, name), arguments.per_scale)):
                _check_range(name, value, low, high)
        _check_range("top_k", arguments.checked("top_k", self.top_k, arguments.whole_number), 0, 1_000_000)
        _check_range("top_p", arguments.checked("top_p", self.top_p, arguments.real_number), 0, 1)

    @property
    def guided(self) -> bool:
        """Whether any scale looks at what guidance steers away from."""
        return any(value != 1 for value in _as_tuple(self.guidance_scale))

    def per_scale(self, num_scales: int) -> list["SamplingParams"]:
        """One entry a scale. A list must name every scale."""
        columns = [_spread(name, getattr(self, name), num_scales) for name in ("guidance_scale", "temperature")]
        return [SamplingParams(g, t, self.top_k, self.top_p) for g, t in zip(*columns, strict=True)]


def _as_tuple(value: PerScale) -> tuple[float, ...]:
    plain = arguments.per_scale(value)
    return plain if isinstance(plain, tuple) else (plain,)


def _spread(name: str, value: PerScale, num_scales: int) -> tuple[float, ...]:
    values = _as_tuple(value)
    if len(values) == 1:
        return values * num_scales
    if len(values) != num_scales:
        raise UsageError(
            f"{name} has {len(values)} values.",
            f"this size is generated in {num_scales} scales",
            f"give one value, or {num_scales}",
        )
    return values


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(
            f"{name} is {arguments.shown(value)}.",
            f"it must lie between {low:g} and {high:g}",
            "choose a value in that range",
        )
