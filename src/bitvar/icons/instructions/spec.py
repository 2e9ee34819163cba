"""Scenes before and after an instruction, and the words of the instruction.

An object keeps its cell, so that whatever an instruction doesn't name stays on the same pixels. This module knows
nothing about pixels: `instructions/draw.py` draws.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from bitvar.icons.dataset.concepts import Concept, named, with_article
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec

EditKind = Literal["colour", "remove", "replace", "background", "add"]
KINDS: Final[tuple[EditKind, ...]] = ("colour", "remove", "replace", "background", "add")

Cell = Literal["whole", "left", "right", "above", "below"]
OTHER_CELL: Final[Mapping[Cell, Cell]] = {"left": "right", "right": "left", "above": "below", "below": "above"}

_SIDE: Final[Mapping[Cell, str]] = {
    "left": "on the left",
    "right": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}
_BESIDE: Final[Mapping[Cell, str]] = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
_WHICH: Final[Mapping[Cell, tuple[str, ...]]] = {
    "left": ("left one", "object on the left"),
    "right": ("right one", "object on the right"),
    "above": ("top one", "object at the top"),
    "below": ("bottom one", "object at the bottom"),
}


@dataclass(frozen=True)
class Placed:
    """An object in a cell: the whole image, or one of its halves."""

    item: ObjectSpec
    cell: Cell


@dataclass(frozen=True)
class Layout:
    """Up to two placed objects by one artist."""

    artist: str
    objects: tuple[Placed, ...]
    background: str = "white"

    def spec(self) -> SceneSpec:
        """Describe the layout as a scene of the icon set, for the rules about what is held out."""
        items = tuple(placed.item for placed in self.objects)
        relation = self.objects[0].cell if len(items) == 2 else None
        kind = "position" if relation else "background" if self.background != "white" else "single"
        return SceneSpec(kind, self.artist, items, relation=relation, background=self.background)

    def without(self, index: int) -> "Layout":
        """Take an object away."""
        return replace(self, objects=tuple(placed for i, placed in enumerate(self.objects) if i != index))

    def with_object(self, placed: Placed, index: int) -> "Layout":
        """Put an object in the place of another one."""
        return replace(self, objects=tuple(placed if i == index else old for i, old in enumerate(self.objects)))


@dataclass(frozen=True)
class SceneEdit:
    """An instruction and the scenes before and after it.

    Attributes:
        kind: Kind of the instruction.
        source, target: Scene before and after.
        index: Index of the object that changes, in the target for "add", else in the source; None for "background".
        instructions: The instruction in several phrasings.
    """

    kind: EditKind
    source: Layout
    target: Layout
    index: int | None
    instructions: tuple[str, ...]

    @property
    def kept(self) -> tuple[Placed, ...]:
        """Objects that the instruction doesn't change."""
        return tuple(placed for placed in self.source.objects if placed in self.target.objects)


def recolour_edit(source: Layout, index: int, colour: str, concepts: Mapping[str, Concept]) -> SceneEdit:
    """Give an object another colour."""
    old = source.objects[index]
    name = concepts[old.item.concept].name
    target = source.with_object(Placed(ObjectSpec(old.item.concept, colour), old.cell), index)
    words = (f"make the {name} {colour}", f"change the colour of the {name} to {colour}", f"paint the {name} {colour}")
    return SceneEdit("colour", source, target, index, (*words, f"turn the {name} {colour}"))


def remove_edit(source: Layout, index: int, concepts: Mapping[str, Concept]) -> SceneEdit:
    """Take one of two objects away."""
    gone = source.objects[index]
    names = [concepts[gone.item.concept].name, *_WHICH[gone.cell]]
    words = (f"remove the {names[0]}", *(f"remove the {name}" for name in names[1:]), f"delete the {names[0]}")
    return SceneEdit("remove", source, source.without(index), index, (*words, f"take the {names[0]} away"))


def replace_edit(source: Layout, index: int, new: ObjectSpec, concepts: Mapping[str, Concept]) -> SceneEdit:
    """Put another object in an object's place."""
    old = source.objects[index]
    name, other = concepts[old.item.concept].name, named(concepts[new.concept], new.colour)
    target = source.with_object(Placed(new, old.cell), index)
    words = (f"replace the {name} with {other}", f"turn the {name} into {other}", f"change the {name} to {other}")
    return SceneEdit("replace", source, target, index, (*words, f"swap the {name} for {other}"))


def background_edit(source: Layout, background: str) -> SceneEdit:
    """Give a scene another background."""
    place = with_article(f"{background} background")
    words = (f"make the background {background}", f"change the background to {background}", f"put it on {place}")
    return SceneEdit("background", source, replace(source, background=background), None, (*words, f"use {place}"))


def add_edit(target: Layout, index: int, concepts: Mapping[str, Concept]) -> SceneEdit:
    """Put an object beside a lone one."""
    new, (other,) = target.objects[index], target.without(index).objects
    phrase, beside = named(concepts[new.item.concept], new.item.colour), concepts[other.item.concept].name
    words = (
        f"add {phrase} {_SIDE[new.cell]}",
        f"add {phrase}",
        f"put {phrase} {_BESIDE[new.cell]} the {beside}",
        f"draw {phrase} {_SIDE[new.cell]}",
    )
    return SceneEdit("add", target.without(index), target, index, words)


def to_row(edit: SceneEdit) -> dict[str, Any]:
    """Convert an edit to a JSON object."""
    return asdict(edit)


def from_row(row: Mapping[str, Any]) -> SceneEdit:
    """Convert the JSON object of an edit back: the inverse of `to_row`."""
    source, target = (_layout_of(row[name]) for name in ("source", "target"))
    return SceneEdit(row["kind"], source, target, row["index"], tuple(row["instructions"]))


def _layout_of(row: Mapping[str, Any]) -> Layout:
    objects = tuple(Placed(ObjectSpec(**placed["item"]), placed["cell"]) for placed in row["objects"])
    return Layout(row["artist"], objects, row["background"])
