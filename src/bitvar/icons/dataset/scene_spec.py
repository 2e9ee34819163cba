"""Specifications of scenes, and the captions that are exactly true of them.

This module knows nothing about pixels: `render` draws a specification, `scene_sampler` chooses those of a split.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bitvar.icons.dataset.concepts import NUMBER_WORDS, Concept, named, with_article

# The reverse of each relation, and how a caption says it.
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
RELATION_PHRASES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}

KINDS = ("single", "background", "two", "count", "colour", "position", "colour_pair")


@dataclass(frozen=True)
class ObjectSpec:
    """One object, by its concept's name; `colour` is a name in `concepts.COLOURS`, or None for the artist's own."""

    concept: str
    colour: str | None = None


@dataclass(frozen=True)
class SceneSpec:
    """One scene, all of its objects by one artist.

    `objects` holds one object, or two for "two", "position" and "colour_pair"; a `count` above 1 repeats the only
    object. `relation` says where the first object is, seen from the second. `centred` turns the jitter off.
    """

    kind: str
    artist: str
    objects: tuple[ObjectSpec, ...]
    count: int = 1
    relation: str | None = None
    background: str = "white"
    centred: bool = False


def write_captions(spec: SceneSpec, concepts: Mapping[str, Concept], *, style: str) -> tuple[str, ...]:
    """Write two to four captions, each exactly true of the scene; the first names the style, the second doesn't."""
    if spec.kind == "position":
        return _position_captions(spec, concepts, style)
    phrases = [named(concepts[item.concept], item.colour) for item in spec.objects]
    if len(phrases) > 1:
        plain = " and ".join(phrases)
        return (f"{plain}, {style}", plain, " next to ".join(phrases), f"{plain} in {style} style")
    if spec.count > 1:
        plural = concepts[spec.objects[0].concept].plural
        plain = f"{NUMBER_WORDS[spec.count]} {plural}"
        return (f"{plain}, {style}", plain, f"{spec.count} {plural}", f"{plain} in {style} style")
    plain = phrases[0]
    if spec.kind == "background" or spec.background != "white":
        place = f"{spec.background} background"
        return (
            f"{plain} on {with_article(place)}, {style}",
            f"{plain} on {with_article(place)}",
            f"{plain}, {place}",
            f"{with_article(style)} of {plain} on {with_article(place)}",
        )
    return (f"{plain}, {style}", plain, f"a picture of {plain}", f"{with_article(style)} of {plain}")


def _position_captions(spec: SceneSpec, concepts: Mapping[str, Concept], style: str) -> tuple[str, ...]:
    first, second = (named(concepts[item.concept], item.colour) for item in spec.objects)
    assert spec.relation is not None, "a position scene needs a relation"
    plain = f"{first} {RELATION_PHRASES[spec.relation]} {second}"
    reverse = f"{second} {RELATION_PHRASES[OPPOSITE[spec.relation]]} {first}"
    return (f"{plain}, {style}", plain, reverse, f"{reverse}, {style}")
