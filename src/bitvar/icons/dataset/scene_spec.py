"""What a scene is to show, and the captions that are exactly true of it.

This file knows nothing of pixels: `scenes` draws a request, `mix` decides which requests a split holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bitvar.icons.dataset.concepts import NUMBER_WORDS, Concept, named, with_article

# The reverse of each relation, and how a caption says it.
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
RELATION_PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}

KINDS = ("single", "background", "two", "count", "colour", "position", "colour_pair")


@dataclass(frozen=True)
class Thing:
    """An object by concept name; `colour` is a name in `concepts.COLOURS`, or None for the artist's own colours."""

    concept: str
    colour: str | None = None


@dataclass(frozen=True)
class SceneRequest:
    """One scene, all its objects by one artist.

    `things` holds one object, or two for "two", "position" and "colour_pair"; `count` above 1 repeats the only object.
    `relation` says where the first object is as seen from the second. `centred` takes away the jitter.
    """

    kind: str
    artist: str
    things: tuple[Thing, ...]
    count: int = 1
    relation: str | None = None
    background: str = "white"
    centred: bool = False


def write_captions(request: SceneRequest, concepts: Mapping[str, Concept], *, style: str) -> tuple[str, ...]:
    """Two to four captions, each exactly true of the scene; the first names the style, the second doesn't."""
    if request.kind == "position":
        return _position_captions(request, concepts, style)
    phrases = [named(concepts[thing.concept], thing.colour) for thing in request.things]
    if len(phrases) > 1:
        plain = " and ".join(phrases)
        return (f"{plain}, {style}", plain, " next to ".join(phrases), f"{plain} in {style} style")
    if request.count > 1:
        plural = concepts[request.things[0].concept].plural
        plain = f"{NUMBER_WORDS[request.count]} {plural}"
        return (f"{plain}, {style}", plain, f"{request.count} {plural}", f"{plain} in {style} style")
    plain = phrases[0]
    if request.kind == "background" or request.background != "white":
        place = f"{request.background} background"
        return (
            f"{plain} on {with_article(place)}, {style}",
            f"{plain} on {with_article(place)}",
            f"{plain}, {place}",
            f"{with_article(style)} of {plain} on {with_article(place)}",
        )
    return (f"{plain}, {style}", plain, f"a picture of {plain}", f"{with_article(style)} of {plain}")


def _position_captions(request: SceneRequest, concepts: Mapping[str, Concept], style: str) -> tuple[str, ...]:
    first, second = (named(concepts[thing.concept], thing.colour) for thing in request.things)
    assert request.relation is not None, "a position scene needs a relation"
    plain = f"{first} {RELATION_PHRASES[request.relation]} {second}"
    reverse = f"{second} {RELATION_PHRASES[OPPOSITE[request.relation]]} {first}"
    return (f"{plain}, {style}", plain, reverse, f"{reverse}, {style}")
