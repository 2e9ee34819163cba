"""What training never shows: compositions, single drawings, and all drawings but one of a few concepts.

All of it is fixed and doesn't depend on the seed of a set, so that results on different sets compare. The compositions
are in `held_out.jsonl`, which `scripts/icons/held_out_stickers.py` wrote; those of the 64-pixel set come on top.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from bitvar.icons.dataset import held_out as first_set
from bitvar.icons.dataset.concepts import CONCEPTS
from bitvar.icons.dataset.held_out import held_out_combinations
from bitvar.icons.dataset.sources import ARTISTS as FIRST_ARTISTS
from bitvar.icons.stickers.artists import ARTISTS, ONE_COLOUR
from bitvar.icons.stickers.concepts import StickerConcept
from bitvar.icons.stickers.spec import Composition, Item, Scene

FILE: Final = Path(__file__).parent / "held_out.jsonl"
SKILLS: Final = ("single", "count", "colour", "position", "colour_pair", "size", "three", "four")
"""Skills that have held-out compositions; those of "single" are objects on a background."""

ONE_STYLE: Final[Mapping[str, str]] = {
    "hedgehog": "silhouette", "crocodile": "streamline", "gorilla": "noto-v1", "lobster": "fluent-3d",
    "jellyfish": "silhouette", "scorpion": "emojione", "croissant": "noto", "taco": "twemoji",
    "onion": "fluent", "peanut": "silhouette", "fire truck": "fxemoji", "wheelchair": "high-contrast",
    "hourglass": "twemoji", "ladder": "fluent-flat", "axe": "fluent-3d", "bathtub": "noto-v1",
    "lipstick": "fluent", "saxophone": "noto", "briefcase": "high-contrast", "toothbrush": "fluent-flat",
}  # fmt: skip
"""Concepts that training shows by one artist only, with that artist. Five artists or more drew each."""

_DRAWINGS_SEED: Final = 20261129
_DRAWINGS_SHARE: Final = 0.04
_LEAST_ARTISTS: Final = 4
"""Least number of artists who drew a concept of which a drawing is held out."""

Key = tuple[object, ...]
"""A combination: ("pair", concept, concept), or "count", "colour" or "background" with a concept and what it has."""


@cache
def held_out_compositions() -> tuple[tuple[str, Composition], ...]:
    """Read the compositions in the package, each with the skill that it tests, in the order of `SKILLS`."""
    rows = (json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines())
    return tuple((row.pop("skill"), Composition(**{**row, "items": _items(row["items"])})) for row in rows)


def _items(rows: Sequence[Mapping[str, str | None]]) -> tuple[Item, ...]:
    return tuple(Item(str(row["concept"]), row["colour"], row["size"]) for row in rows)


def keys_of(scene: Scene | Composition) -> frozenset[Key]:
    """List the combinations that a scene shows, whatever its layout.

    They are each two of its concepts, its coloured objects, its counted object, and its objects on a background.
    """
    names = sorted(item.concept for item in scene.items)
    keys: set[Key] = {("pair", one, other) for i, one in enumerate(names) for other in names[i + 1 :]}
    if scene.count > 1:
        keys |= {("count", name, scene.count) for name in names}
    if scene.background is not None:
        keys |= {("background", name, scene.background) for name in names}
    return frozenset(keys | {("colour", item.concept, item.colour) for item in scene.items if item.colour is not None})


@cache
def held_out_keys() -> frozenset[Key]:
    """List the combinations that exclude a scene from the set, those of the 64-pixel set among them.

    A composition of several objects excludes each two of them, in any colours, sizes and places: training shows no two
    of them together. Each of its coloured objects may appear with others.
    """
    keys: set[Key] = set(first_set.held_out_keys())
    for _, composition in held_out_compositions():
        own = keys_of(composition)
        keys |= {key for key in own if "pair" in key} if len(composition.items) > 1 else own
    return frozenset(keys)


def is_held_out(scene: Scene | Composition) -> bool:
    """Tell whether a scene shows any held-out combination."""
    return not held_out_keys().isdisjoint(keys_of(scene))


def held_out_drawings(concepts: Sequence[StickerConcept]) -> frozenset[tuple[str, str]]:
    """List the pairs of artist and concept that training never shows.

    They are those of the 64-pixel set, one each of some other concepts, and all but one of those of `ONE_STYLE`.
    """
    old = held_out_combinations([concept.name for concept in CONCEPTS], [artist.key for artist in FIRST_ARTISTS])
    first = {concept.name for concept in CONCEPTS}
    candidates = [
        (artist, concept.name)
        for concept in concepts
        if concept.name not in first and len(concept.drawings) >= _LEAST_ARTISTS
        for artist in sorted(concept.drawings)
    ]
    order = np.random.default_rng(_DRAWINGS_SEED).permutation(len(candidates))
    chosen: dict[str, str] = {}
    for i in order:
        artist, concept = candidates[int(i)]
        chosen.setdefault(concept, artist)
        if len(chosen) >= _DRAWINGS_SHARE * len(candidates):
            break
    single = {(artist, concept) for concept, artist in chosen.items() if concept not in ONE_STYLE}
    return (
        old
        | single
        | {
            (artist, concept.name)
            for concept in concepts
            if concept.name in ONE_STYLE
            for artist in concept.drawings
            if artist != ONE_STYLE[concept.name]
        }
    )


def able_artists(
    composition: Composition, concepts: Mapping[str, StickerConcept], excluded: frozenset[tuple[str, str]]
) -> list[str]:
    """List the artists who can draw a composition, in the order of `ARTISTS`.

    Args:
        composition: Composition to draw.
        concepts: Concepts by name.
        excluded: Pairs of artist and concept that may not be shown.
    """
    return [
        artist.key
        for artist in ARTISTS
        if all(
            artist.key in concepts[item.concept].drawings
            and (artist.key, item.concept) not in excluded
            and (item.colour is None or artist.key in ONE_COLOUR or concepts[item.concept].recolourable)
            for item in composition.items
        )
    ]
