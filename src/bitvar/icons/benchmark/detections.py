"""The judge's detections on an image: objects and background. Knows no network and no prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitvar.config import Config

OWN_COLOUR = "own"
"""Name in `Detection.colours` of an object that has its artist's own colours."""


class Thresholds(Config):
    """Smallest values that count; `scripts/icons/judge.py` chooses them on an artist kept for validation."""

    concept: float = 0.15
    """Probability of the concept asked for."""
    colour: float = 0.5
    """Probability of the colour asked for, among the named colours alone."""
    background: float = 0.5
    """Share of the background that has the colour asked for."""


@dataclass(frozen=True)
class Detection:
    """One object: `box` is x0, y0, x1, y1 in 0..1 of the image's sides, y downwards; the rest are probabilities.

    `concepts` covers the concepts of the set; its sum falls short of 1 by the probability that the object is none of
    them. `colours` covers the eight colours and `own` and sums to 1; `styles` covers the artists and sums to 1.
    """

    box: tuple[float, float, float, float]
    confidence: float
    concepts: Mapping[str, float]
    colours: Mapping[str, float]
    styles: Mapping[str, float] = field(default_factory=dict)

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the box: x, y in 0..1."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def concept(self) -> str:
        """The most probable concept."""
        return max(self.concepts, key=lambda name: self.concepts[name])

    @property
    def colour(self) -> str | None:
        """The most probable colour; None if it is the artist's own."""
        best = max(self.colours, key=lambda name: self.colours[name])
        return None if best == OWN_COLOUR else best

    def painted(self, colour: str) -> float:
        """Compute the probability of a colour among the named ones: an object whose own colour is red counts as red."""
        named = sum(value for name, value in self.colours.items() if name != OWN_COLOUR)
        return self.colours.get(colour, 0.0) / named if named > 0 else 0.0


@dataclass(frozen=True)
class Detections:
    """All detections on one image: objects by falling confidence, and the share of each background colour.

    `style` holds the probability of each artist for all objects together; it is empty if there are no objects.
    """

    objects: tuple[Detection, ...]
    background: Mapping[str, float]
    style: Mapping[str, float] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
