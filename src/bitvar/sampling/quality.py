"""Sampling quality as a frozen value without tensors: options, and named presets of them. Needs no torch.

`quality_transforms` turns the options into functions of log-odds.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, field_validator

from bitvar import arguments
from bitvar.config import Config, unknown
from bitvar.errors import UsageError
from bitvar.sampling.params import SamplingParams

Strength: TypeAlias = Annotated[float, Field(ge=0, le=100)]
Confidence: TypeAlias = Annotated[float, Field(gt=0.5, le=1)]
Curve: TypeAlias = Strength | Annotated[tuple[Strength, ...], Field(min_length=1, max_length=64)]
"""One value, or values evenly spaced from the first scale to the last, for any number of scales (`spread`)."""

DIVERSE_CONFIDENCE: Final = (0.60, 0.60, 0.65, 0.70, 0.75, 0.80, *(1.0,) * 7)
"""Most mean confidence of each of 13 scales, as published for DiverseAR; 1 leaves a scale as it is."""


class QualityOptions(Config):
    """How images are drawn beyond one temperature. None leaves a setting to the model, or turns it off.

    Attributes:
        guidance_scale, temperature: As in `SamplingParams`, but as curves. What a call sets itself takes precedence.
        confidence: Most mean confidence of the bits of each scale, above 0.5. A scale whose bits are more certain on
            average, at its own temperature, is drawn hotter (`quality_transforms.AdaptiveTemperature`).
        spatial_guidance: How far each scale's log-odds are pushed away from those of the scale before it, enlarged
            (`quality_transforms.SpatialGuidance`); the first scale has none before it.
    """

    guidance_scale: Curve | None = None
    temperature: Curve | None = None
    confidence: Confidence | Annotated[tuple[Confidence, ...], Field(min_length=1, max_length=64)] | None = None
    spatial_guidance: Curve | None = None

    @field_validator("guidance_scale", "temperature", "confidence", "spatial_guidance", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    @staticmethod
    def of(quality: "str | QualityOptions | Mapping[str, Any]") -> "QualityOptions":
        """Find a preset by its name, or read options.

        Raises:
            UsageError: for an unknown name, or a value out of range.
        """
        if isinstance(quality, QualityOptions):
            return quality
        if isinstance(quality, Mapping):
            return QualityOptions.parse(quality, source="quality")
        name = arguments.text(quality)
        if name not in PRESETS:
            raise UsageError(unknown(f"quality {arguments.shown(name)}", name, list(PRESETS)))
        return PRESETS[name]

    def sampling(self, num_scales: int) -> SamplingParams:
        """The sampler's settings for a number of scales."""
        return SamplingParams(
            guidance_scale=_per_scale(self.guidance_scale, num_scales),
            temperature=_per_scale(self.temperature, num_scales),
        )


def _per_scale(curve: float | Sequence[float] | None, num_scales: int) -> float | Sequence[float] | None:
    return curve if curve is None or isinstance(curve, float) else spread(curve, num_scales)


def spread(curve: float | Sequence[float], num_scales: int) -> tuple[float, ...]:
    """Read a curve at each scale, linearly between its values, which are evenly spaced from the first to the last.

    With as many values as scales, they are the values themselves.
    """
    values = (curve,) if isinstance(curve, int | float) else tuple(curve)
    last, points = len(values) - 1, range(num_scales)
    places = [last * k / max(num_scales - 1, 1) for k in points]
    lower = [min(int(place), max(last - 1, 0)) for place in places]
    return tuple(
        values[i] + (place - i) * (values[min(i + 1, last)] - values[i]) for i, place in zip(lower, places, strict=True)
    )


PRESETS: Final[Mapping[str, QualityOptions]] = {
    "sharp": QualityOptions(spatial_guidance=(0.3, 0.0)),
    "varied": QualityOptions(confidence=DIVERSE_CONFIDENCE),
    "faithful": QualityOptions(temperature=0.1),
}
"""Options by name. They were chosen on the embedded model (docs/sampling-quality.md)."""
