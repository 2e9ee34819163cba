"""Calibration of the judge: its error rates on real scenes with known content. Knows no generator.

A calibration pair is a real image with the scene that it shows and one that it doesn't. The false scene differs in one
part: another concept of the same category, a number off by one, another colour, the relation reversed, two colours
swapped, another background or another artist.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.icons.benchmark.detections import Detections, Thresholds
from bitvar.icons.benchmark.rules import judge_scene
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, Concept
from bitvar.icons.dataset.render import SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_spec import OPPOSITE, ObjectSpec, SceneSpec
from bitvar.imaging.convert import from_pil

PAIR_KINDS = ("single", "background", "two", "count", "colour", "position", "colour_pair", "style")
"""Kinds of pairs: the skills, with "single" on a coloured background as a kind of its own."""


_AT_ONCE = 32


@dataclass(frozen=True)
class CalibrationPair:
    """A real image, the scene that it shows, and a similar scene that it doesn't show."""

    kind: str
    image: Image.Image
    true: SceneSpec
    false: SceneSpec

    @property
    def skill(self) -> str:
        """The skill whose rules judge the image."""
        return "single" if self.kind == "background" else self.kind


def draw_calibration_pairs(
    atlas: SpriteAtlas,
    drawable: Mapping[str, Sequence[Concept]],
    *,
    num_each: int,
    size: int,
    rng: np.random.Generator,
    styles: Sequence[str] = (),
) -> Iterator[CalibrationPair]:
    """Draw `num_each` pairs of each kind, by the artists of `drawable` in turn, in the same way as the icon set.

    The kind "style" is left out unless `styles` has two or more artists.
    """
    artists = list(drawable)
    for kind in PAIR_KINDS:
        if kind == "style" and len(styles) < 2:
            continue
        for index in range(num_each):
            artist = artists[index % len(artists)]
            true = _draw_spec(kind, artist, drawable[artist], atlas, rng)
            image, _ = draw_scene(true, atlas, size=size, rng=rng)
            yield CalibrationPair(kind, image, true, _falsified(kind, true, drawable[artist], styles, rng))


def _draw_spec(
    kind: str, artist: str, concepts: Sequence[Concept], atlas: SpriteAtlas, rng: np.random.Generator
) -> SceneSpec:
    coloured = kind in ("colour", "colour_pair")
    while True:
        chosen = [concept for concept in concepts if concept.recolourable] if coloured else list(concepts)
        number = 2 if kind in ("two", "position", "colour_pair") else 1
        names = [chosen[index].name for index in rng.permutation(len(chosen))[:number]]
        colours = [list(COLOURS)[index] for index in rng.permutation(len(COLOURS))[:number]]
        objects = tuple(
            ObjectSpec(name, colour if coloured else None) for name, colour in zip(names, colours, strict=True)
        )
        background = list(BACKGROUNDS)[1 + rng.integers(len(BACKGROUNDS) - 1)] if kind == "background" else "white"
        if all(background in atlas.visible_backgrounds(artist, item) for item in objects):
            count = int(rng.integers(2, 5)) if kind == "count" else 1
            relation = list(OPPOSITE)[rng.integers(len(OPPOSITE))] if kind == "position" else None
            drawn_kind = "single" if kind == "style" else kind
            return SceneSpec(drawn_kind, artist, objects, count, relation, background)


def _falsified(
    kind: str, true: SceneSpec, concepts: Sequence[Concept], styles: Sequence[str], rng: np.random.Generator
) -> SceneSpec:
    first, *others = true.objects
    if kind == "background":
        return replace(true, background=_other(tuple(BACKGROUNDS)[1:], true.background, rng))
    if kind == "count":
        return replace(true, count=true.count + (1 if true.count == 2 or rng.random() < 0.5 else -1))
    if kind == "style":
        return replace(true, artist=_other(styles, true.artist, rng))
    if kind == "position":
        assert true.relation is not None, "a position scene has a relation"
        return replace(true, relation=OPPOSITE[true.relation])
    if kind == "colour_pair":
        swapped = zip(true.objects, reversed(true.objects), strict=True)
        objects = tuple(ObjectSpec(item.concept, other.colour) for item, other in swapped)
    elif kind == "colour":
        assert first.colour is not None, "a colour scene has a colour"
        objects = (ObjectSpec(first.concept, _other(tuple(COLOURS), first.colour, rng)),)
    else:
        objects = (ObjectSpec(_similar_concept(true, concepts, rng), first.colour), *others)
    return replace(true, objects=objects)


def _similar_concept(true: SceneSpec, concepts: Sequence[Concept], rng: np.random.Generator) -> str:
    """Draw a concept that the scene doesn't show, of the first object's category if possible."""
    categories = {concept.name: concept.category for concept in concepts}
    shown = {item.concept for item in true.objects}
    wanted = categories[true.objects[0].concept]
    like = [name for name, category in categories.items() if category == wanted and name not in shown]
    like = like or [name for name in categories if name not in shown]
    return like[rng.integers(len(like))]


def _other(names: Sequence[str], known: str, rng: np.random.Generator) -> str:
    rest = [name for name in names if name != known]
    return rest[rng.integers(len(rest))]


def measure_accuracy(
    pairs: Iterable[CalibrationPair], all_detections: Sequence[Detections], thresholds: Thresholds | None = None
) -> dict[str, dict[str, float]]:
    """Measure the judge's accuracy by kind, in `num_images` pairs.

    The true positive rate is the share of true scenes judged correct, the true negative rate the share of false scenes
    judged incorrect; the balanced accuracy is the mean of the two.

    Args:
        pairs: Calibration pairs.
        all_detections: Detections on the image of each pair.
        thresholds: Replace the detections' own thresholds, if given.
    """
    outcomes: dict[str, list[tuple[bool, bool]]] = {}
    for pair, detections in zip(pairs, all_detections, strict=True):
        seen = detections if thresholds is None else replace(detections, thresholds=thresholds)
        says_true, says_false = (judge_scene(seen, spec, pair.skill).correct for spec in (pair.true, pair.false))
        outcomes.setdefault(pair.kind, []).append((says_true, not says_false))
    return {kind: accuracy_of(found) for kind, found in outcomes.items()}


def accuracy_of(outcomes: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Compute rates and their mean.

    Args:
        outcomes: For each image, whether a true claim was judged correct, and a false one incorrect.
    """
    true_positive, true_negative = (float(np.mean(column)) for column in zip(*outcomes, strict=True))
    return {
        "true_positive_rate": true_positive,
        "true_negative_rate": true_negative,
        "balanced_accuracy": (true_positive + true_negative) / 2,
        "num_images": len(outcomes),
    }


def as_images(images: Sequence[Image.Image]) -> Float[Tensor, "b 3 H W"]:
    """Convert RGB images of one size to a tensor in [-1, 1]."""
    return from_pil(images)


def detect_in_pairs(
    pairs: Sequence[CalibrationPair],
    detect: Callable[[Float[Tensor, "b 3 H W"]], list[Detections]],
    *,
    change: Callable[[Image.Image], Image.Image] | None = None,
) -> list[Detections]:
    """Run `detect` on the image of each pair, or on a changed version of it."""
    images = [pair.image if change is None else change(pair.image) for pair in pairs]
    batches = (images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE))
    return [detections for batch in batches for detections in detect(as_images(batch))]
