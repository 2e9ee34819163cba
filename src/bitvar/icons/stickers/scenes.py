"""Scenes of the sticker set: which objects, how many, in which colours and sizes, where, and on what background.

Every scene is a function of the set's seed, its split and its index, so that any of them can be drawn by itself.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from bitvar.icons.dataset.concepts import COLOURS
from bitvar.icons.stickers.artists import ARTISTS, ONE_COLOUR
from bitvar.icons.stickers.concepts import StickerConcept
from bitvar.icons.stickers.held_out import held_out_drawings, is_held_out
from bitvar.icons.stickers.spec import SIZES, Item, Scene
from bitvar.icons.stickers.sprites import SpriteStore

SPLITS: Final = ("train", "val")
_KINDS: Final = {"single": 0.5, "count": 0.16, "pair": 0.24, "several": 0.10}
_BACKGROUND_SHARES: Final = {"single": 0.35, "count": 0.2, "pair": 0.2, "several": 0.15}
_COLOUR_SHARE: Final = 0.3
_SIZE_SHARE: Final = 0.2


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
            if scene is not None and not is_held_out(scene):
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
