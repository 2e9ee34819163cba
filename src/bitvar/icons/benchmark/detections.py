"""What a judge sees on one image. Knows no network and no prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitvar.config import Config

OWN_COLOUR = "own"
"""The name in `Sighting.colours` for an object in its artist's colours."""


class Thresholds(Config):
    """From what values on a sighting counts; chosen by the judge's recipe on artists of a validation split."""

    concept: float = 0.15
    """Probability of the concept asked for."""
    colour: float = 0.5
    """Probability of the colour asked for, among the named colours alone."""
    background: float = 0.5
    """Share of the background that has the colour asked for."""


@dataclass(frozen=True)
class Sighting:
    """One object: `box` is x0, y0, x1, y1 in 0..1 of the image's sides, y downwards; the rest are probabilities.

    `concepts` names the set's concepts and adds up to 1 at most: what is missing is the probability of none of them.
    `colours` names its eight colours and `own`, and adds up to 1. `styles` is by artist, and adds up to 1.
    """

    box: tuple[float, float, float, float]
    confidence: float
    concepts: Mapping[str, float]
    colours: Mapping[str, float]
    styles: Mapping[str, float] = field(default_factory=dict)

    @property
    def centre(self) -> tuple[float, float]:
        """x, y in 0..1."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2

    @property
    def concept(self) -> str:
        """The likeliest concept."""
        return max(self.concepts, key=lambda name: self.concepts[name])

    @property
    def colour(self) -> str | None:
        """The likeliest colour, None where it is the artist's own."""
        best = max(self.colours, key=lambda name: self.colours[name])
        return None if best == OWN_COLOUR else best

    def painted(self, colour: str) -> float:
        """The probability of a named colour among the named ones: an own red counts as red."""
        named = sum(value for name, value in self.colours.items() if name != OWN_COLOUR)
        return self.colours.get(colour, 0.0) / named if named > 0 else 0.0


@dataclass(frozen=True)
class Sight:
    """All that a judge sees: objects by falling confidence, and for each background colour its share of the background.

    `style` is by artist, of all objects together; empty where no object is.
    """

    objects: tuple[Sighting, ...]
    background: Mapping[str, float]
    style: Mapping[str, float] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)
