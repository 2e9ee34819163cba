"""Measuring the judge itself: real scenes with one true and one false claim each. Knows no generator.

A false claim differs from the truth in one part: another concept of the same category, a number off by one, another
colour, the relation reversed, two colours swapped, another background or another artist.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.icons.benchmark.detections import Sight, Thresholds
from bitvar.icons.benchmark.rules import give_verdict
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, Concept
from bitvar.icons.dataset.render import SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_spec import OPPOSITE, SceneRequest, Thing
from bitvar.imaging.convert import from_pil

CLAIMS = ("single", "background", "two", "count", "colour", "position", "colour_pair", "style")
"""Kinds of claims: the skills, and "single" with a background named apart."""


@dataclass(frozen=True)
class Claim:
    """A real image, what it shows, and something like it that it doesn't show."""

    kind: str
    image: Image.Image
    true: SceneRequest
    false: SceneRequest

    @property
    def skill(self) -> str:
        """The skill that it is judged by."""
        return "single" if self.kind == "background" else self.kind


def draw_claims(
    atlas: SpriteAtlas,
    drawable: Mapping[str, Sequence[Concept]],
    *,
    num_each: int,
    size: int,
    rng: np.random.Generator,
    styles: Sequence[str] = (),
) -> Iterator[Claim]:
    """`num_each` claims of each kind about scenes by the artists of `drawable`, in turn, drawn as the set's are.

    Style is left out unless two or more artists are in `styles`.
    """
    artists = list(drawable)
    for kind in CLAIMS:
        if kind == "style" and len(styles) < 2:
            continue
        for index in range(num_each):
            artist = artists[index % len(artists)]
            true = _request(kind, artist, drawable[artist], atlas, rng)
            image, _ = draw_scene(true, atlas, size=size, rng=rng)
            yield Claim(kind, image, true, _falsified(kind, true, drawable[artist], styles, rng))


def _request(
    kind: str, artist: str, concepts: Sequence[Concept], atlas: SpriteAtlas, rng: np.random.Generator
) -> SceneRequest:
    coloured = kind in ("colour", "colour_pair")
    while True:
        chosen = [concept for concept in concepts if concept.recolourable] if coloured else list(concepts)
        number = 2 if kind in ("two", "position", "colour_pair") else 1
        names = [chosen[index].name for index in rng.permutation(len(chosen))[:number]]
        colours = [list(COLOURS)[index] for index in rng.permutation(len(COLOURS))[:number]]
        things = tuple(Thing(name, colour if coloured else None) for name, colour in zip(names, colours, strict=True))
        background = list(BACKGROUNDS)[1 + rng.integers(len(BACKGROUNDS) - 1)] if kind == "background" else "white"
        if all(background in atlas.visible_backgrounds(artist, thing) for thing in things):
            count = int(rng.integers(2, 5)) if kind == "count" else 1
            relation = list(OPPOSITE)[rng.integers(len(OPPOSITE))] if kind == "position" else None
            drawn_kind = "single" if kind == "style" else kind
            return SceneRequest(drawn_kind, artist, things, count, relation, background)


def _falsified(
    kind: str, true: SceneRequest, concepts: Sequence[Concept], styles: Sequence[str], rng: np.random.Generator
) -> SceneRequest:
    first, *others = true.things
    if kind == "background":
        return replace(true, background=_other(tuple(BACKGROUNDS)[1:], true.background, rng))
    if kind == "count":
        return replace(true, count=true.count + (1 if true.count == 2 or rng.random() < 0.5 else -1))
    if kind == "style":
        return replace(true, artist=_other(styles, true.artist, rng))
    if kind == "position":
        assert true.relation is not None, "a relation is claimed"
        return replace(true, relation=OPPOSITE[true.relation])
    if kind == "colour_pair":
        swapped = zip(true.things, reversed(true.things), strict=True)
        things = tuple(Thing(thing.concept, other.colour) for thing, other in swapped)
    elif kind == "colour":
        assert first.colour is not None, "a colour is claimed"
        things = (Thing(first.concept, _other(tuple(COLOURS), first.colour, rng)),)
    else:
        things = (Thing(_alike(true, concepts, rng), first.colour), *others)
    return replace(true, things=things)


def _alike(true: SceneRequest, concepts: Sequence[Concept], rng: np.random.Generator) -> str:
    """Another concept of the first one's category, if there is one, that the scene doesn't show."""
    categories = {concept.name: concept.category for concept in concepts}
    shown = {thing.concept for thing in true.things}
    wanted = categories[true.things[0].concept]
    like = [name for name, category in categories.items() if category == wanted and name not in shown]
    like = like or [name for name in categories if name not in shown]
    return like[rng.integers(len(like))]


def _other(names: Sequence[str], known: str, rng: np.random.Generator) -> str:
    rest = [name for name in names if name != known]
    return rest[rng.integers(len(rest))]


def measure_claims(
    claims: Iterable[Claim], sights: Sequence[Sight], thresholds: Thresholds | None = None
) -> dict[str, dict[str, float]]:
    """By kind: the shares of true and of false claims judged rightly, their mean (`balanced`), and how many images.

    Args:
        sights: one for each claim.
        thresholds: instead of the sights' own.
    """
    outcomes: dict[str, list[tuple[bool, bool]]] = {}
    for claim, sight in zip(claims, sights, strict=True):
        seen = sight if thresholds is None else replace(sight, thresholds=thresholds)
        says_true, says_false = (
            give_verdict(seen, request, claim.skill).right for request in (claim.true, claim.false)
        )
        outcomes.setdefault(claim.kind, []).append((says_true, not says_false))
    measured = {}
    for kind, pairs in outcomes.items():
        right_true, right_false = (float(np.mean(column)) for column in zip(*pairs, strict=True))
        measured[kind] = {
            "true_claims": right_true,
            "false_claims": right_false,
            "balanced": (right_true + right_false) / 2,
            "num_images": len(pairs),
        }
    return measured


def as_images(images: Sequence[Image.Image]) -> Float[Tensor, "b 3 H W"]:
    """RGB images of one size, in [-1, 1]."""
    return from_pil(images)


def look_at_claims(
    claims: Sequence[Claim],
    look: Callable[[Float[Tensor, "b 3 H W"]], list[Sight]],
    *,
    change: Callable[[Image.Image], Image.Image] | None = None,
) -> list[Sight]:
    """What `look` sees on each claim's image, or on what `change` makes of it."""
    images = [claim.image if change is None else change(claim.image) for claim in claims]
    return [sight for start in range(0, len(images), 32) for sight in look(as_images(images[start : start + 32]))]
