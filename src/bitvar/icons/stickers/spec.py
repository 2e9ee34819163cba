"""Specifications of scenes of the sticker set. Knows nothing about pixels, chance or captions."""

from dataclasses import dataclass
from typing import Final

LAYOUTS: Final = ("single", "count", "left", "above", "beside", "row", "column", "group")
SIZES: Final = ("small", "big")


@dataclass(frozen=True)
class Item:
    """One object of a scene.

    Attributes:
        concept: Name of its concept.
        colour: Name in `COLOURS`; None for the artist's own.
        size: Name in `SIZES`; None for the usual size.
    """

    concept: str
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """One scene, all of its objects by one artist.

    Attributes:
        artist: Key of the artist.
        layout: One of `LAYOUTS`. "left": the first of two objects is left of the second; "above": above it; "beside":
            either, and nobody says which; "row" and "column" have three or four objects in order; "group" has them in
            any places; "count" has `count` copies of the only object.
        items: The objects.
        count: Number of copies.
        background: Name in `BACKGROUNDS`; None for a transparent one.
    """

    artist: str
    layout: str
    items: tuple[Item, ...]
    count: int = 1
    background: str | None = None


@dataclass(frozen=True)
class Composition:
    """A scene without its artist; the fields are those of `Scene`."""

    layout: str
    items: tuple[Item, ...]
    count: int = 1
    background: str | None = None

    def by(self, artist: str) -> Scene:
        """Return the scene as drawn by an artist."""
        return Scene(artist, self.layout, self.items, self.count, self.background)
