"""Captions of scenes, each exactly true: many phrasings of the layout, with background and style before or behind.

None uses the phrasings of the benchmark's paraphrased prompts, which test whether a model understands other phrases.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from bitvar.icons.dataset.caption_templates import ABOVE, COUNT, LEFT, PAIR, SINGLE, STYLED
from bitvar.icons.dataset.concepts import with_article
from bitvar.icons.stickers.concepts import StickerConcept
from bitvar.icons.stickers.spec import Item, Scene

NUMBERS: Final = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

_SINGLE = (*(text for text in SINGLE if "background" not in text), "{a}", "{a}", "{a}", "{a}")
_COUNT = (
    *COUNT,
    "{number} {plural}",
    "{number} {plural}",
    "{number} {plural}",
    "{digit} {plural}",
    "{number} {plural} in a group",
)
_BESIDE = (*PAIR, "{a} and {b}", "{a} and {b}", "{b} and {a}", "{a} next to {b}", "{b} beside {a}", "{b} alongside {a}")
_LEFT = (*LEFT, *("{a} to the left of {b}",) * 4, *("{b} to the right of {a}",) * 4, "{a} and {b}", "{a} next to {b}")
_ABOVE = (*ABOVE, *("{a} above {b}",) * 4, *("{b} below {a}",) * 4, "{a} and {b}", "{a} on top of {b}")
_ROW = (
    "{list}",
    "{list} in a row",
    "from left to right: {list}",
    "{list}, from left to right",
    "a row of {list}",
    "{list} side by side",
)
_COLUMN = (
    "{list}",
    "{list} in a column",
    "from top to bottom: {list}",
    "{list}, from top to bottom",
    "a column of {list}",
    "{list}, one below the other",
)
_GROUP = (
    "{list}", "{list} together", "an image of {list}", "{number} things: {list}", "a collection of {list}",
)  # fmt: skip
_TEMPLATES: Final = {
    "single": _SINGLE, "count": _COUNT, "beside": _BESIDE, "left": _LEFT, "above": _ABOVE,
    "row": _ROW, "column": _COLUMN, "group": _GROUP,
}  # fmt: skip

_ON: Final = (
    "{text} on {a_colour} background", "{text} on {a_colour} background", "{text}, {colour} background",
    "{text} against {colour}", "{text}, background: {colour}", "{text} before {a_colour} backdrop",
)  # fmt: skip
_TRANSPARENT: Final = (
    "{text} on a transparent background",
    "{text}, transparent background",
    "a sticker of {text}",
    "{text}, no background",
)

_BACKGROUND_WORDS: Final = 0.12
"""Share of the captions of a scene without background that say so."""

_SYNONYMS: Final = 0.25
_STYLES: Final = 0.55


def draw_captions(
    scene: Scene, concepts: Mapping[str, StickerConcept], *, style: str, rng: np.random.Generator, number: int = 5
) -> tuple[str, ...]:
    """Draw captions of a scene; the first names the style, the second doesn't.

    Args:
        scene: Scene to describe.
        concepts: Concepts by name.
        style: Name of the artist's style.
        rng: Source of the choices.
        number: Number of captions; doubles are left out.
    """
    drawn = []
    for i in range(number):
        text = _with_background(_layout(scene, concepts, rng), scene.background, rng)
        if i == 0 or (i > 1 and rng.random() < _STYLES):
            text = str(rng.choice(STYLED)).format(text=text, style=style, a_style=with_article(style))
        drawn.append(text)
    return tuple(dict.fromkeys(drawn))


def _layout(scene: Scene, concepts: Mapping[str, StickerConcept], rng: np.random.Generator) -> str:
    names = [_name(item, concepts[item.concept], rng) for item in scene.items]
    phrases = [
        name if _is_bare(name, concepts[item.concept]) else with_article(name)
        for name, item in zip(names, scene.items, strict=True)
    ]
    words = {"name": names[0], "Name": names[0].capitalize(), "a": phrases[0]}
    if len(names) > 1:
        words |= {"b": phrases[1], "other": names[1]}
    if len(names) > 2:
        listed = list(phrases)
        if scene.layout == "group":
            rng.shuffle(listed)
        words |= {"list": ", ".join(listed[:-1]) + f" and {listed[-1]}", "number": NUMBERS[len(names)]}
    if scene.count > 1:
        concept, colour = concepts[scene.items[0].concept], scene.items[0].colour
        plural = concept.plural if colour is None else f"{colour} {concept.plural}"
        words |= {"number": NUMBERS[scene.count], "digit": str(scene.count), "plural": plural}
    return str(rng.choice(_TEMPLATES[scene.layout])).format(**words)


def _name(item: Item, concept: StickerConcept, rng: np.random.Generator) -> str:
    name = item.concept
    if concept.synonyms and rng.random() < _SYNONYMS:
        name = str(rng.choice(concept.synonyms))
    return " ".join(filter(None, (item.size, item.colour, name)))


def _is_bare(name: str, concept: StickerConcept) -> bool:
    """Whether people say a synonym without an article: "coffee" for a cup of coffee, "peanuts" for a peanut."""
    if name.endswith(concept.name):
        return False
    is_mass = " of " in concept.name and " of " not in name
    return is_mass or (name.endswith("s") and not name.endswith(("ss", "us")) and not concept.name.endswith("s"))


def _with_background(text: str, colour: str | None, rng: np.random.Generator) -> str:
    if colour is not None:
        return str(rng.choice(_ON)).format(text=text, colour=colour, a_colour=with_article(colour))
    if rng.random() < _BACKGROUND_WORDS:
        return str(rng.choice(_TRANSPARENT)).format(text=text)
    return text
