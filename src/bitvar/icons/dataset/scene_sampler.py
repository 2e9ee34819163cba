"""Sampling of the scenes of a split: shares of the kinds, balanced over artists, concepts, colours and counts.

Scenes come from shuffled cycles rather than independent draws, so that every artist and concept appears about equally
often. This module knows nothing about files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, NUMBER_WORDS, Concept
from bitvar.icons.dataset.held_out import held_out_keys, held_out_prompts, is_held_out
from bitvar.icons.dataset.render import SpriteAtlas
from bitvar.icons.dataset.scene_spec import OPPOSITE, ObjectSpec, SceneSpec

Item = TypeVar("Item")

SHARES = {
    "single": 0.15,
    "background": 0.15,
    "two": 0.15,
    "count": 0.15,
    "colour": 0.15,
    "position": 0.15,
    "colour_pair": 0.1,
}
"""The share of each kind in a split; "single" in training is set by the number of variants instead."""

NUM_SINGLE_VARIANTS = 8
NUM_HELD_OUT_VARIANTS = 2
_COLOURED_BACKGROUND_SHARE = 0.25  # share of the scenes of kind "colour"


class ShuffledCycle(Generic[Item]):
    """An endless stream of items in random order: each comes once before any repeats, as far as `accept` allows."""

    def __init__(self, items: Iterable[Item], rng: np.random.Generator) -> None:
        self._items = list(items)
        self._rng = rng
        self._waiting: list[Item] = []

    def draw(self, accept: Callable[[Item], bool] = lambda _: True) -> Item:
        """Draw the next accepted item; rejected ones wait for a later draw. ValueError if no item is accepted."""
        for attempt in range(2):
            for place, item in enumerate(self._waiting):
                if accept(item):
                    return self._waiting.pop(place)
            if attempt == 0:
                self._waiting += [self._items[index] for index in self._rng.permutation(len(self._items))]
        raise ValueError(
            f"none of {len(self._items)} items is accepted; the scene can't be drawn; add concepts or artists"
        )


class SceneSampler:
    """Sampler of scenes of any kind from the artist x concept combinations in `drawable` (concepts by artist)."""

    def __init__(self, drawable: dict[str, tuple[Concept, ...]], atlas: SpriteAtlas, rng: np.random.Generator) -> None:
        self._drawable, self._atlas, self._rng = drawable, atlas, rng
        self._keys = held_out_keys()
        self._cycles: dict[tuple[str, str], ShuffledCycle] = {}

    def draw(self, kind: str, num_scenes: int) -> Iterator[SceneSpec]:
        """Draw `num_scenes` scenes of one kind, none of them held out."""
        artists = ShuffledCycle(self._drawable, self._rng)
        relations = ShuffledCycle(OPPOSITE, self._rng)
        for _ in range(num_scenes):
            artist = artists.draw()
            if kind in ("two", "position", "colour_pair"):
                spec = self._pair(kind, artist, relations)
            elif kind == "count":
                spec = self._counted(artist)
            else:
                spec = self._lone(kind, artist)
            assert not is_held_out(spec, self._keys)
            yield spec

    def _cycle(self, name: str, artist: str, items: Callable[[Sequence[Concept]], Iterable]) -> ShuffledCycle:
        key = (name, artist)
        if key not in self._cycles:
            self._cycles[key] = ShuffledCycle(items(self._drawable[artist]), self._rng)
        return self._cycles[key]

    def _lone(self, kind: str, artist: str) -> SceneSpec:
        cycle = self._cycle(kind, artist, _coloured_objects if kind == "colour" else _plain_objects)
        item = cycle.draw(lambda item: not is_held_out(SceneSpec(kind, artist, (item,)), self._keys))
        background = "white"
        if kind == "background" or (kind == "colour" and self._rng.random() < _COLOURED_BACKGROUND_SHARE):
            visible = self._atlas.visible_backgrounds(artist, item)
            names = self._cycle(f"{kind} on", artist, _background_names)
            background = names.draw(lambda name: name in visible and not self._is_held_out_on(name, artist, item))
        return SceneSpec(kind, artist, (item,), background=background)

    def _is_held_out_on(self, background: str, artist: str, item: ObjectSpec) -> bool:
        return is_held_out(SceneSpec("background", artist, (item,), background=background), self._keys)

    def _counted(self, artist: str) -> SceneSpec:
        cycle = self._cycle("count", artist, _counted_objects)

        def spec(item: tuple[ObjectSpec, int]) -> SceneSpec:
            return SceneSpec("count", artist, (item[0],), count=item[1])

        return spec(cycle.draw(lambda item: not is_held_out(spec(item), self._keys)))

    def _pair(self, kind: str, artist: str, relations: ShuffledCycle[str]) -> SceneSpec:
        cycle = self._cycle(kind, artist, _coloured_objects if kind == "colour_pair" else _plain_objects)
        relation = relations.draw() if kind == "position" else None
        first = cycle.draw(lambda item: not is_held_out(SceneSpec(kind, artist, (item,)), self._keys))

        def suits(second: ObjectSpec) -> bool:
            if second.concept == first.concept or (first.colour is not None and second.colour == first.colour):
                return False
            return not is_held_out(SceneSpec(kind, artist, (first, second)), self._keys)

        return SceneSpec(kind, artist, (first, cycle.draw(suits)), relation=relation)


def training_specs(
    sampler: SceneSampler, combinations: Sequence[tuple[str, str]], num_scenes: int
) -> Iterator[SceneSpec]:
    """Yield every (artist, concept) pair `NUM_SINGLE_VARIANTS` times, the first centred, then the composed scenes."""
    for artist, concept in combinations:
        for variant in range(NUM_SINGLE_VARIANTS):
            yield SceneSpec("single", artist, (ObjectSpec(concept),), centred=variant == 0)
    for kind, share in SHARES.items():
        if kind != "single":
            yield from sampler.draw(kind, round(share * num_scenes))


def validation_specs(sampler: SceneSampler, *, num_scenes: int) -> Iterator[SceneSpec]:
    """Yield `num_scenes` scenes in the shares of the training split."""
    for kind, share in SHARES.items():
        yield from sampler.draw(kind, round(share * num_scenes))


def held_out_combination_specs(combinations: Sequence[tuple[str, str]]) -> Iterator[SceneSpec]:
    """Yield each held-out (artist, concept) pair alone, centred and then jittered."""
    for artist, concept in combinations:
        for variant in range(NUM_HELD_OUT_VARIANTS):
            yield SceneSpec("single", artist, (ObjectSpec(concept),), centred=variant == 0)


def held_out_prompt_specs(drawable: dict[str, tuple[Concept, ...]]) -> Iterator[SceneSpec]:
    """Yield each held-out prompt for every artist whose drawings of all its concepts appear in training."""
    for prompt in held_out_prompts():
        for artist, concepts in drawable.items():
            if {item.concept for item in prompt.objects} <= {concept.name for concept in concepts}:
                for _ in range(NUM_HELD_OUT_VARIANTS):
                    yield prompt.by(artist)


def _plain_objects(concepts: Sequence[Concept]) -> list[ObjectSpec]:
    return [ObjectSpec(concept.name) for concept in concepts]


def _coloured_objects(concepts: Sequence[Concept]) -> list[ObjectSpec]:
    return [ObjectSpec(concept.name, colour) for concept in concepts if concept.recolourable for colour in COLOURS]


def _counted_objects(concepts: Sequence[Concept]) -> list[tuple[ObjectSpec, int]]:
    return [(ObjectSpec(concept.name), count) for concept in concepts for count in NUMBER_WORDS]


def _background_names(_: Sequence[Concept]) -> list[str]:
    return list(BACKGROUNDS)
