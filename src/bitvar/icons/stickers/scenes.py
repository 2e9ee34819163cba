"""Scenes of the sticker set: which objects, how many, in which colours and sizes, where, and on what background.

Every scene is a function of the set's seed, its split and its index, so that any of them can be drawn by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitvar.icons.dataset.concepts import COLOURS, CONCEPTS
from bitvar.icons.dataset.held_out import held_out_combinations, held_out_keys, is_held_out
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec
from bitvar.icons.dataset.sources import ARTISTS as FIRST_ARTISTS
from bitvar.icons.stickers.artists import ARTISTS, ONE_COLOUR
from bitvar.icons.stickers.concepts import StickerConcept
from bitvar.icons.stickers.sprites import SpriteStore

SPLITS: Final = ("train", "val")
LAYOUTS: Final = ("single", "count", "left", "above", "beside", "row", "column", "group")
SIZES: Final = ("small", "big")

_HELD_OUT_SEED: Final = 20261129
_HELD_OUT_SHARE: Final = 0.04
_LEAST_ARTISTS: Final = 4
"""Least number of artists who drew a concept of which a drawing is held out."""

_KINDS: Final = {"single": 0.5, "count": 0.16, "pair": 0.24, "several": 0.10}
_BACKGROUND_SHARES: Final = {"single": 0.35, "count": 0.2, "pair": 0.2, "several": 0.15}
_COLOUR_SHARE: Final = 0.3
_SIZE_SHARE: Final = 0.2


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


def held_out_drawings(concepts: Sequence[StickerConcept]) -> frozenset[tuple[str, str]]:
    """List the pairs of artist and concept that training never shows: those of the 64-pixel set, and more."""
    old = held_out_combinations([concept.name for concept in CONCEPTS], [artist.key for artist in FIRST_ARTISTS])
    first = {concept.name for concept in CONCEPTS}
    candidates = [
        (artist, concept.name)
        for concept in concepts
        if concept.name not in first and len(concept.drawings) >= _LEAST_ARTISTS
        for artist in sorted(concept.drawings)
    ]
    order = np.random.default_rng(_HELD_OUT_SEED).permutation(len(candidates))
    chosen: dict[str, str] = {}
    for i in order:
        artist, concept = candidates[int(i)]
        chosen.setdefault(concept, artist)
        if len(chosen) >= _HELD_OUT_SHARE * len(candidates):
            break
    return old | {(artist, concept) for concept, artist in chosen.items()}


class SceneSampler:
    """Draws the scenes of the set.

    Args:
        concepts: Concepts to show.
        store: Their drawings.
        seed: Seed of the set.
    """

    def __init__(self, concepts: Sequence[StickerConcept], store: SpriteStore, *, seed: int) -> None:
        self._store, self._seed = store, seed
        held_out = held_out_drawings(concepts)
        self._by_name = {concept.name: concept for concept in concepts}
        keys = [artist.key for artist in ARTISTS]
        self.shown = [
            (key, c.name) for c in concepts for key in keys if key in c.drawings and (key, c.name) not in held_out
        ]
        self._of_artist = {key: [name for artist, name in self.shown if artist == key] for key in keys}
        self._keys = held_out_keys()

    def scene(self, split: str, index: int) -> Scene:
        """Draw the scene of a place in a split.

        The first object of consecutive training scenes goes through all drawings, in an order that changes each time.
        """
        rng = np.random.default_rng([self._seed, SPLITS.index(split), index])
        lap, place = divmod(index, len(self.shown))
        order = np.random.default_rng([self._seed, len(SPLITS) + SPLITS.index(split), lap]).permutation(len(self.shown))
        artist, concept = self.shown[int(order[place])]
        while True:
            scene = self._try(artist, concept, rng)
            if scene is not None and not self._is_held_out(scene):
                return scene

    def _try(self, artist: str, concept: str, rng: np.random.Generator) -> Scene | None:
        kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
        number = {"single": 1, "count": 1, "pair": 2, "several": 3 + int(rng.integers(2))}[kind]
        names = [concept]
        while len(names) < number:
            other = self._of_artist[artist][int(rng.integers(len(self._of_artist[artist])))]
            if other not in names:
                names.append(other)
        rng.shuffle(names)
        count, layout = 1, kind
        if kind == "count":
            count = 2 + int(rng.integers(5))
        elif kind == "pair":
            layout = str(rng.choice(["left", "above", "beside"], p=[0.4, 0.4, 0.2]))
        elif kind == "several":
            layout = str(rng.choice(["row", "column", "group"], p=[0.4, 0.3, 0.3]))
        coloured = rng.random() < (_COLOUR_SHARE if artist not in ONE_COLOUR else 0.7)
        sized = kind == "pair" and rng.random() < _SIZE_SHARE
        items = []
        for name in names:
            can = artist in ONE_COLOUR or self._by_name[name].recolourable
            colour = str(rng.choice(list(COLOURS))) if coloured and can else None
            items.append(Item(name, colour, str(rng.choice(SIZES)) if sized else None))
        background = None
        if rng.random() < _BACKGROUND_SHARES[kind]:
            visible = set.intersection(
                *(set(self._store.visible_backgrounds(artist, item.concept, item.colour)) for item in items)
            )
            if not visible:
                return None
            background = str(rng.choice(sorted(visible)))
        return Scene(artist, layout, tuple(items), count, background)

    def _is_held_out(self, scene: Scene) -> bool:
        """Whether any pair of its objects shows what the 64-pixel set's benchmark keeps for evaluation."""
        background = "white" if scene.background is None else scene.background
        items = [ObjectSpec(item.concept, item.colour) for item in scene.items]
        pairs = [(a, b) for i, a in enumerate(items) for b in items[i + 1 :]] or [(items[0],)]
        return any(
            is_held_out(SceneSpec("any", scene.artist, pair, scene.count, None, background), self._keys)
            for pair in pairs
        )
