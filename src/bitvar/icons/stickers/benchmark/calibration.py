"""Calibration of the sticker judge: its error rates on real images of known content. Knows no generator.

A pair is a real image of a prompt's composition, by another artist than the benchmark's own image, with that
composition and one that it doesn't show. The false one differs in one part: another concept of the same category, a
number off by one, another colour, two colours, sizes or places swapped.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from bitvar.icons.benchmark.judge_calibration import accuracy_of
from bitvar.icons.dataset.concepts import COLOURS
from bitvar.icons.stickers.artists import ARTISTS
from bitvar.icons.stickers.benchmark.equivalents import equivalents_of
from bitvar.icons.stickers.benchmark.prompts import StickerPrompt
from bitvar.icons.stickers.benchmark.references import draw_reference
from bitvar.icons.stickers.benchmark.rules import Detections, Thresholds, judge_image
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.held_out import able_artists
from bitvar.icons.stickers.spec import Composition, Item, Scene
from bitvar.icons.stickers.sprites import SpriteStore


@dataclass(frozen=True)
class Pair:
    """A real RGBA image, the scene that it shows, and a similar composition that it doesn't show."""

    skill: str
    image: Image.Image
    true: Scene
    false: Composition


def draw_pairs(prompts: Sequence[StickerPrompt], store: SpriteStore, *, num_each: int, seed: int) -> Iterator[Pair]:
    """Draw `num_each` pairs of every skill, spread over artists."""
    rng = np.random.default_rng(seed)
    concepts = {concept.name: concept for concept in read_concepts()}
    used = Counter({artist.key: 0 for artist in ARTISTS})
    for skill in dict.fromkeys(prompt.skill for prompt in prompts):
        chosen = [prompt for prompt in prompts if prompt.skill == skill]
        for place in rng.permutation(len(chosen))[:num_each]:
            prompt = chosen[int(place)]
            able = able_artists(prompt.composition, concepts, frozenset())
            able = [artist for artist in able if _is_visible(prompt.composition, artist, store)]
            artist = min(able, key=lambda key: (key == prompt.artist, used[key]))
            used[artist] += 1
            true = prompt.composition.by(artist)
            false = falsified(prompt.composition, skill, rng)
            yield Pair(skill, draw_reference(true, store, seed, int(place)), true, false)


def _is_visible(composition: Composition, artist: str, store: SpriteStore) -> bool:
    return composition.background is None or all(
        composition.background in store.visible_backgrounds(artist, item.concept, item.colour)
        for item in composition.items
    )


def falsified(composition: Composition, skill: str, rng: np.random.Generator) -> Composition:
    """Change one part of a composition so that its images don't show it."""
    items = composition.items
    first, *others = items
    if skill == "count":
        more = composition.count == 2 or (composition.count < 6 and rng.random() < 0.5)
        return replace(composition, count=composition.count + (1 if more else -1))
    if skill == "colour":
        rest = [colour for colour in COLOURS if colour != first.colour]
        return replace(composition, items=(replace(first, colour=str(rng.choice(rest))),))
    if skill == "colour_pair":
        swapped = zip(items, reversed(items), strict=True)
        return replace(composition, items=tuple(replace(item, colour=other.colour) for item, other in swapped))
    if skill == "size":
        swapped = zip(items, reversed(items), strict=True)
        return replace(composition, items=tuple(replace(item, size=other.size) for item, other in swapped))
    if skill == "position" or (composition.layout in ("row", "column") and rng.random() < 0.5):
        return replace(composition, items=(items[1], items[0], *items[2:]))
    return replace(composition, items=(_similar(first, items, rng), *others))


def _similar(item: Item, shown: Sequence[Item], rng: np.random.Generator) -> Item:
    """Replace an object by another concept of its category that isn't shown, nor like one that is."""
    categories = {concept.name: concept.category for concept in read_concepts() if len(concept.drawings) > 1}
    taken = set().union(*(equivalents_of(other.concept) for other in shown))
    like = [name for name, own in categories.items() if own == categories[item.concept] and name not in taken]
    return replace(item, concept=like[int(rng.integers(len(like)))])


def measure_accuracy(
    pairs: Sequence[Pair], seen: Sequence[Detections], thresholds: Thresholds | None = None
) -> dict[str, dict[str, float]]:
    """Measure the judge's accuracy by skill, on `num_images` images.

    The true positive rate is the share of true compositions judged correct, the true negative rate the share of false
    ones judged incorrect; the balanced accuracy is the mean of the two.

    Args:
        pairs: Pairs.
        seen: What was seen on the image of each pair.
        thresholds: Replace those of `seen`, if given.
    """
    outcomes: dict[str, list[tuple[bool, bool]]] = {}
    for pair, own in zip(pairs, seen, strict=True):
        detections = own if thresholds is None else replace(own, thresholds=thresholds)
        says_true, says_false = (
            judge_image(detections, scene, pair.skill).correct for scene in (pair.true, pair.false)
        )
        outcomes.setdefault(pair.skill, []).append((says_true, not says_false))
    return {skill: accuracy_of(found) for skill, found in outcomes.items()}
