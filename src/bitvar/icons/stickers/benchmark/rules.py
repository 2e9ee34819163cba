"""Rules that decide from detections which parts of a prompt an image shows. Knows no network.

A prompt is a list of atoms: each object, its colour, the number of copies, each relation, the sizes, the background.
The rules are GenEval's (arXiv 2310.11513): objects that nobody asked for are allowed, except beside a single one.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bitvar.config import Config
from bitvar.icons.stickers.benchmark.equivalents import equivalents_of
from bitvar.icons.stickers.spec import Composition, Item, Scene

ATOMS: Final = ("object", "alone", "count", "colour", "relation", "size", "background", "name")
"""Kinds of atoms. "alone": the object is the only one; "name": the most probable concept is the one asked for."""

NOUN: Final = "noun"
"""The skill that asks for the most probable concept."""

_ALONE: Final = ("single", "synonym", "one_style")
_MOST: Final = 8  # objects, the most confident ones, that rules look at

Box = tuple[float, float, float, float]


class Thresholds(Config):
    """Smallest values that count; `scripts/icons/sticker_judge.py` chooses them."""

    concept: float = 0.1
    """Probability of the concept asked for, with its equivalents."""
    colour: float = 0.5
    """Probability of the colour asked for, among the named colours alone."""
    background: float = 0.5
    """Share of the background that has the colour asked for."""
    size: float = 0.8
    """Largest length of a small object, the square root of its box's area, by that of a big one."""


@dataclass(frozen=True)
class Detection:
    """One object: its box as x0, y0, x1, y1 in 0..1, y downwards, and probabilities of its concepts and colours.

    `concepts` falls short of 1 by the probability that the object is none of them; `colours` are the named ones alone.
    """

    box: Box
    confidence: float
    concepts: Mapping[str, float]
    colours: Mapping[str, float]

    @property
    def concept(self) -> str:
        """The most probable concept."""
        return max(self.concepts, key=lambda name: self.concepts[name])

    @property
    def length(self) -> float:
        """The square root of the box's area."""
        return ((self.box[2] - self.box[0]) * (self.box[3] - self.box[1])) ** 0.5

    def shows(self, concept: str) -> float:
        """Compute the probability of a concept, its equivalents included."""
        return sum(self.concepts.get(name, 0.0) for name in equivalents_of(concept))


@dataclass(frozen=True)
class Detections:
    """What is seen on an image: objects by falling confidence, and the share of each background colour."""

    objects: tuple[Detection, ...]
    background: Mapping[str, float] = field(default_factory=dict)
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(frozen=True)
class Atom:
    """One part of a prompt: its kind, what it says, and whether the image shows it."""

    kind: str
    says: str
    holds: bool


@dataclass(frozen=True)
class Judgement:
    """All atoms of a prompt."""

    atoms: tuple[Atom, ...]

    @property
    def correct(self) -> bool:
        """Whether the image shows every atom."""
        return all(atom.holds for atom in self.atoms)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the image lacks, in words."""
        return tuple(f"{'no' if atom.kind == 'object' else 'not'} {atom.says}" for atom in self.atoms if not atom.holds)


def judge_image(seen: Detections, composition: Composition | Scene, skill: str) -> Judgement:
    """Judge an image by what its prompt asks for.

    Objects are matched with what is seen so that most atoms hold.
    """
    if skill == NOUN:
        return Judgement((_name(seen, composition.items[0].concept),))
    judgements = [Judgement(tuple(_atoms(seen, setting, composition))) for setting in _settings(seen, composition)]
    best = max(judgements, key=lambda judgement: sum(atom.holds for atom in judgement.atoms))
    more = []
    if skill in _ALONE:
        more.append(Atom("alone", "only one object", len(seen.objects) == 1))
    if composition.background is not None:
        share = seen.background.get(composition.background, 0.0)
        says = f"a {composition.background} background"
        more.append(Atom("background", says, share >= seen.thresholds.background))
    return Judgement((*best.atoms, *more))


def _name(seen: Detections, concept: str) -> Atom:
    largest = max(seen.objects, key=lambda detection: detection.length, default=None)
    if largest is None:
        return Atom("name", f"{concept} (saw nothing)", False)
    return Atom("name", f"{concept} (saw {largest.concept})", largest.concept in equivalents_of(concept))


def _settings(seen: Detections, composition: Composition | Scene) -> Iterator[tuple[Detection | None, ...]]:
    """Yield every way to match the objects asked for with different objects seen, or with none."""
    candidates = [
        [None, *(s for s in seen.objects[:_MOST] if s.shows(item.concept) >= seen.thresholds.concept)]
        for item in composition.items
    ]
    for setting in itertools.product(*candidates):
        found = [id(detection) for detection in setting if detection is not None]
        if len(set(found)) == len(found):
            yield setting


def _atoms(seen: Detections, setting: Sequence[Detection | None], composition: Composition | Scene) -> Iterator[Atom]:
    limits = seen.thresholds
    for detection, item in zip(setting, composition.items, strict=True):
        yield Atom("object", item.concept, detection is not None)
        if item.colour is not None:
            painted = detection is not None and detection.colours.get(item.colour, 0.0) >= limits.colour
            yield Atom("colour", f"{item.colour} {item.concept}", painted)
    if composition.count > 1:
        concept = composition.items[0].concept
        number = sum(detection.shows(concept) >= limits.concept for detection in seen.objects)
        yield Atom("count", f"{composition.count} x {concept} (saw {number})", number == composition.count)
    if composition.layout in ("left", "row", "above", "column"):
        across = composition.layout in ("left", "row")
        word = "left of" if across else "above"
        for i, (one, other) in enumerate(itertools.pairwise(setting)):
            says = f"{composition.items[i].concept} {word} {composition.items[i + 1].concept}"
            yield Atom("relation", says, one is not None and other is not None and _stand(one, other, across=across))
    if composition.items[0].size is not None:
        yield _size(setting, composition.items, limits.size)


def _stand(one: Detection, other: Detection, *, across: bool) -> bool:
    """Tell whether the first object lies mostly left of the second, or above it."""
    right, down = ((one.box[i] + one.box[i + 2] - other.box[i] - other.box[i + 2]) / 2 for i in (0, 1))
    return right < 0 and abs(right) >= abs(down) if across else down < 0 and abs(down) >= abs(right)


def _size(setting: Sequence[Detection | None], items: Sequence[Item], limit: float) -> Atom:
    small, big = sorted(zip(items, setting, strict=True), key=lambda pair: pair[0].size == "big")
    says = f"{small[0].concept} smaller than {big[0].concept}"
    if small[1] is None or big[1] is None:
        return Atom("size", says, False)
    return Atom("size", says, small[1].length <= limit * big[1].length)
