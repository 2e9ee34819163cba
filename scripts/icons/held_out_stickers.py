r"""Write the compositions that the sticker set keeps for evaluation.

python scripts/icons/held_out_stickers.py src/bitvar/icons/stickers/held_out.jsonl --sprites data/sprites

It writes the same bytes every time. Every set and every result depends on them, so write them anew only together with
the version of the set.

Objects are those of `everyday_nouns` and of the 64-pixel set, from shuffled cycles, so that each is used about
equally often. Three artists or more can draw each composition with drawings that training shows, if its colours are for
artists of many colours, and one otherwise; half of the colours are of objects that training shows in colours only as
line icons and silhouettes.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np

from bitvar.data.writing import json_lines
from bitvar.files import write_text
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS
from bitvar.icons.dataset.held_out import held_out_keys
from bitvar.icons.dataset.scene_sampler import ShuffledCycle
from bitvar.icons.stickers.artists import ONE_COLOUR
from bitvar.icons.stickers.benchmark.prompts import everyday_nouns
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.held_out import ONE_STYLE, SKILLS, able_artists, held_out_drawings, keys_of
from bitvar.icons.stickers.spec import Composition, Item
from bitvar.icons.stickers.sprites import SpriteStore

SEED: Final = 20261129
NUM_EACH: Final = 30
LEAST_ARTISTS: Final = 3

# Layouts of each skill in turn; of three and four objects, half say in which order they stand.
LAYOUTS: Final = {
    "position": ("left", "above"),
    "colour_pair": ("beside",),
    "size": ("beside", "left", "beside", "above"),
    "three": ("group", "row", "group", "column"),
    "four": ("group", "row", "group", "column"),
}
NUMBERS: Final = {"three": 3, "four": 4}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the held-out compositions.")
    parser.add_argument("out", type=Path, help="the .jsonl file")
    parser.add_argument("--sprites", type=Path, required=True, help="folder of the rendered drawings")
    given = parser.parse_args()
    draw = Draws(SpriteStore(given.sprites))
    rows = ({"skill": skill, **asdict(made)} for skill in SKILLS for made in draw.compositions(skill))
    write_text(given.out, json_lines(rows))


class Draws:
    """Sampler of compositions, varied over concepts, colours, counts and backgrounds."""

    def __init__(self, store: SpriteStore) -> None:
        self._store, self._rng = store, np.random.default_rng(SEED)
        self._concepts = {concept.name: concept for concept in read_concepts()}
        names = dict.fromkeys((*everyday_nouns(), *(concept.name for concept in CONCEPTS)))
        self._names = [name for name in names if name not in ONE_STYLE]
        self._excluded = held_out_drawings(read_concepts())
        self._taken = set(held_out_keys())

    def compositions(self, skill: str) -> Iterator[Composition]:
        """Draw the compositions of a skill."""
        names, colours = ShuffledCycle(self._names, self._rng), ShuffledCycle(list(COLOURS), self._rng)
        backgrounds = ShuffledCycle(list(BACKGROUNDS)[1:], self._rng)
        recolourable = [name for name in self._names if self._concepts[name].recolourable]
        paintable = ShuffledCycle(recolourable, self._rng)
        made = 0
        while made < NUM_EACH:
            coloured = skill in ("colour", "colour_pair")
            number = NUMBERS.get(skill, 1 if skill in ("single", "count", "colour") else 2)
            source = paintable if coloured and made % 2 == 0 else names
            chosen = [source.draw() for _ in range(number)]
            paints = [colours.draw() if coloured else None for _ in chosen]
            sizes = [None] * number
            if skill == "size":
                sizes = ["small", "big"] if made % 2 else ["big", "small"]
            layouts = LAYOUTS.get(skill, (skill if skill == "count" else "single",))
            composition = Composition(
                layouts[made % len(layouts)],
                tuple(Item(*words) for words in zip(chosen, paints, sizes, strict=True)),
                2 + made % 5 if skill == "count" else 1,
                backgrounds.draw() if skill == "single" else None,
            )
            if len(set(chosen)) == number and len(set(paints) - {None}) in (0, number) and self._is_new(composition):
                self._taken |= keys_of(composition)
                made += 1
                yield composition

    def _is_new(self, composition: Composition) -> bool:
        able = able_artists(composition, self._concepts, self._excluded)
        visible = [artist for artist in able if self._is_visible(artist, composition)]
        plain = [artist for artist in visible if artist not in ONE_COLOUR]
        coloured = any(item.colour is not None for item in composition.items)
        enough = len(plain) >= LEAST_ARTISTS or (coloured and bool(visible))
        return enough and self._taken.isdisjoint(keys_of(composition))

    def _is_visible(self, artist: str, composition: Composition) -> bool:
        return composition.background is None or all(
            composition.background in self._store.visible_backgrounds(artist, item.concept, item.colour)
            for item in composition.items
        )


if __name__ == "__main__":
    main()
