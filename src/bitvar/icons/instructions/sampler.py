"""Sampling of instructions: balanced over kinds, artists and concepts, and none with a held-out combination.

The held-out instructions lead to the compositions that the icon set holds out: coloured objects, pairs, and objects on
a background that no training scene shows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, Concept
from bitvar.icons.dataset.held_out import Composition, held_out_keys, held_out_prompts, is_held_out
from bitvar.icons.dataset.render import SpriteAtlas
from bitvar.icons.dataset.scene_sampler import ShuffledCycle
from bitvar.icons.dataset.scene_spec import ObjectSpec
from bitvar.icons.instructions.spec import (
    KINDS,
    OTHER_CELL,
    Cell,
    EditKind,
    Layout,
    Placed,
    SceneEdit,
    add_edit,
    background_edit,
    recolour_edit,
    remove_edit,
    replace_edit,
)

_PAIRED: Final = 0.6
"""Share of the sources with two objects, where the kind leaves a choice."""
_COLOURED: Final = 0.35
"""Share of the recolourable objects that have a colour in the source."""
_ON_COLOUR: Final = 0.15
"""Share of the sources on a background other than white."""
_TRIES: Final = 200
_CELL: Final[Mapping[str, Cell]] = {str(cell): cell for cell in OTHER_CELL}
"""Cell of the first object of a relation."""


class EditSampler:
    """Draws instructions.

    Args:
        drawable: Concepts that may be drawn of each artist.
        atlas: Drawings, to know which backgrounds an object stands out from.
        rng: Source of randomness.
    """

    def __init__(self, drawable: Mapping[str, Sequence[Concept]], atlas: SpriteAtlas, rng: np.random.Generator) -> None:
        self._atlas, self._rng, self._keys = atlas, rng, held_out_keys()
        self._drawable = drawable
        self._by_name = {concept.name: concept for own in drawable.values() for concept in own}
        self._artists = ShuffledCycle(drawable, rng)
        self._cells: ShuffledCycle[Cell] = ShuffledCycle(OTHER_CELL, rng)
        self._concepts = {artist: ShuffledCycle(own, rng) for artist, own in drawable.items()}
        self._colours, self._backgrounds = ShuffledCycle(COLOURS, rng), ShuffledCycle(BACKGROUNDS, rng)
        self._draws: dict[EditKind, Callable[[str], SceneEdit]] = {
            "colour": self._recolour,
            "remove": self._remove,
            "replace": self._replace,
            "background": self._background,
            "add": self._add,
        }

    def draw(self, number: int) -> Iterator[SceneEdit]:
        """Draw `number` instructions of all kinds in turn, none of them held out, in source or target."""
        kinds = ShuffledCycle(KINDS, self._rng)
        for _ in range(number):
            kind = kinds.draw()
            yield self._draw_allowed(lambda kind=kind: self._draws[kind](self._artists.draw()))

    def held_out(self, kind: EditKind, number: int) -> Iterator[SceneEdit]:
        """Draw `number` instructions of a kind that each lead to, or start from, a held-out composition."""
        wanted = {"colour": "colour", "background": "background", "add": "position"}.get(kind, "two")
        found = [composition for composition in held_out_prompts() if composition.kind == wanted]
        order = ShuffledCycle([c for c in found if self._artists_of(c)], self._rng)
        for _ in range(number):
            composition = order.draw()
            artists = self._artists_of(composition)
            yield self._of_composition(kind, composition, artists[int(self._rng.integers(len(artists)))])

    def _artists_of(self, composition: Composition) -> list[str]:
        names = {item.concept for item in composition.objects}
        return [artist for artist, own in self._drawable.items() if names <= {concept.name for concept in own}]

    def _of_composition(self, kind: EditKind, composition: Composition, artist: str) -> SceneEdit:
        first, cell = composition.objects[0], self._cells.draw()
        if kind == "colour":
            plain = ObjectSpec(first.concept)
            others = [] if self._rng.random() >= _PAIRED else [self._other(artist, plain)]
            cells: tuple[Cell, ...] = (cell, OTHER_CELL[cell]) if others else ("whole",)
            objects = tuple(Placed(item, where) for item, where in zip((plain, *others), cells, strict=True))
            assert first.colour is not None
            return recolour_edit(Layout(artist, objects), 0, first.colour, self._by_name)
        if kind == "background":
            return background_edit(Layout(artist, (Placed(first, "whole"),)), composition.background)
        cell = _CELL[composition.relation] if composition.relation else cell
        pair = Layout(artist, (Placed(first, cell), Placed(composition.objects[1], OTHER_CELL[cell])))
        index = int(self._rng.integers(2))
        if kind == "remove":
            return remove_edit(pair, index, self._by_name)
        if kind == "add":
            return add_edit(pair, index, self._by_name)
        old = self._other(artist, pair.objects[1 - index].item)
        source = pair.with_object(Placed(old, pair.objects[index].cell), index)
        return replace_edit(source, index, pair.objects[index].item, self._by_name)

    def _other(self, artist: str, beside: ObjectSpec) -> ObjectSpec:
        """Draw a concept that may stand beside an object."""

        def suits(concept: Concept) -> bool:
            both = Composition("two", (beside, ObjectSpec(concept.name)))
            return concept.name != beside.concept and not is_held_out(both, self._keys)

        return ObjectSpec(self._concepts[artist].draw(suits).name)

    def _draw_allowed(self, draw: Callable[[], SceneEdit]) -> SceneEdit:
        """Draw until neither scene is held out."""
        for _ in range(_TRIES):
            edit = draw()
            if edit.source != edit.target and not any(
                is_held_out(layout.spec(), self._keys) for layout in (edit.source, edit.target)
            ):
                return edit
        raise ValueError(f"no instruction in {_TRIES} draws is outside the held-out ones; add concepts or artists")

    def _item(self, artist: str, accept: Callable[[Concept], bool] = lambda _: True) -> ObjectSpec:
        concept = self._concepts[artist].draw(accept)
        coloured = concept.recolourable and self._rng.random() < _COLOURED
        return ObjectSpec(concept.name, self._colours.draw() if coloured else None)

    def _layout(self, artist: str, first: ObjectSpec, *, paired: bool) -> Layout:
        cell = self._cells.draw()
        objects = [Placed(first, cell if paired else "whole")]
        if paired:
            other = self._item(artist, lambda concept: concept.name != first.concept)
            objects.append(Placed(other, OTHER_CELL[cell]))
        background = "white"
        if self._rng.random() < _ON_COLOUR:
            background = self._backgrounds.draw()
        layout = Layout(artist, tuple(objects), background)
        return layout if self._stands_out(layout) else Layout(artist, tuple(objects))

    def _stands_out(self, layout: Layout) -> bool:
        return layout.background == "white" or all(
            layout.background in self._atlas.visible_backgrounds(layout.artist, placed.item)
            for placed in layout.objects
        )

    def _is_paired(self) -> bool:
        return bool(self._rng.random() < _PAIRED)

    def _recolour(self, artist: str) -> SceneEdit:
        item = self._item(artist, lambda concept: concept.recolourable)
        source = self._layout(artist, item, paired=self._is_paired())
        suits = [colour for colour in COLOURS if colour not in (item.colour, source.background)]
        return recolour_edit(source, 0, suits[int(self._rng.integers(len(suits)))], self._by_name)

    def _remove(self, artist: str) -> SceneEdit:
        return remove_edit(self._layout(artist, self._item(artist), paired=True), 0, self._by_name)

    def _replace(self, artist: str) -> SceneEdit:
        source = self._layout(artist, self._item(artist), paired=self._is_paired())
        present = {placed.item.concept for placed in source.objects}
        new = self._item(artist, lambda concept: concept.name not in present)
        edit = replace_edit(source, 0, new, self._by_name)
        return edit if self._stands_out(edit.target) else replace_edit(_on_white(source), 0, new, self._by_name)

    def _background(self, artist: str) -> SceneEdit:
        source = self._layout(artist, self._item(artist), paired=self._is_paired())
        edit = background_edit(source, self._backgrounds.draw())
        return edit if self._stands_out(edit.target) else background_edit(_on_white(source), source.background)

    def _add(self, artist: str) -> SceneEdit:
        return add_edit(self._layout(artist, self._item(artist), paired=True), 0, self._by_name)


def _on_white(layout: Layout) -> Layout:
    return Layout(layout.artist, layout.objects)
