r"""Write the fixed prompts of the scenes benchmark.

python scripts/icons/prompts.py src/bitvar/icons/dataset/prompts.jsonl

It writes the same bytes every time. Models are compared on these prompts, so change them only together with the
version of the set.

Seen and paraphrased compositions come from shuffled cycles of all concepts, without held-out combinations; unseen ones
are `held_out.held_out_prompts`. Artists take turns, and every other round of four names the style.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bitvar.data.writing import json_lines
from bitvar.files import write_text
from bitvar.icons.dataset.caption_templates import name_words, template_kind
from bitvar.icons.dataset.concepts import COLOURS, CONCEPTS, NUMBER_WORDS, named
from bitvar.icons.dataset.held_out import (
    Composition,
    held_out_combinations,
    held_out_keys,
    held_out_prompts,
    is_held_out,
)
from bitvar.icons.dataset.prompts import SKILLS, ScenePrompt, to_row
from bitvar.icons.dataset.scene_sampler import ShuffledCycle
from bitvar.icons.dataset.scene_spec import OPPOSITE, ObjectSpec, SceneSpec, write_captions
from bitvar.icons.dataset.sources import ARTISTS

SEED: Final = 20261126
NUM_SEEN: Final = 30
NUM_PARAPHRASES: Final = 20
NUM_STYLE: Final = {"seen": 40, "paraphrase": 20}

ON_WHITE: Final = {"seen": 10, "paraphrase": 10}
"""Number of prompts of skill "single" on white, by split; the others take `BACKGROUNDS` in order."""

# Every artist's drawing stands out against them; none is held out.
BACKGROUNDS: Final = (
    ("cow", "red"), ("chicken", "orange"), ("flame", "yellow"), ("tangerine", "green"), ("trophy", "blue"),
    ("laptop", "purple"), ("light bulb", "pink"), ("cap", "brown"), ("sailboat", "black"),
    ("face with sunglasses", "grey"), ("bomb", "red"), ("volcano", "orange"), ("octopus", "yellow"),
    ("backpack", "green"), ("frog", "blue"), ("crescent moon", "purple"), ("avocado", "pink"), ("steam train", "brown"),
    ("anchor", "black"), ("high-heeled shoe", "grey"), ("dinosaur", "red"), ("alarm clock", "orange"),
    ("jack-o'-lantern", "yellow"), ("angry face", "green"), ("fox", "blue"), ("bus", "purple"),
    ("slice of pizza", "pink"), ("bucket", "brown"), ("butterfly", "black"), ("balloon", "grey"),
)  # fmt: skip

SINGLE: Final = ("just {a}, nothing else", "one single {name}", "an icon of {a}", "{a}, alone", "a drawing of {a}")
BACKGROUND: Final = (
    "{a} on {background}", "{a} in front of {background}", "{a} with {background} behind it",
    "{a}, the background all {background}", "{background} all around {a}",
)  # fmt: skip
TWO: Final = (
    "{a} together with {b}", "both {a} and {b}", "{a} with {b}", "one {name} plus one {other}", "{a}, and also {b}",
)  # fmt: skip
COUNT: Final = (
    "{group} of {plural}", "{plural}, {number} of them", "a group of {number} {plural}", "exactly {number} {plural}",
    "{digit} of the same: {plural}",
)  # fmt: skip
GROUPS: Final = {2: "a duo", 3: "a trio", 4: "a quartet"}
COLOUR: Final = (
    "{plain} painted {colour}", "{plain} that is {colour}", "{plain} in {colour}", "{plain}, coloured {colour}",
    "something {colour}: {plain}",
)  # fmt: skip
LEFT: Final = (
    "{a} with {b} on its right", "beside {b}, on the left, {a}", "{a} on the left and {b} on the right",
    "{b} with {a} on its left", "on the right {b}, on the left {a}",
)  # fmt: skip
ABOVE: Final = (
    "{a} over {b}", "{b} with {a} over it", "{a} at the top and {b} at the bottom", "{b} beneath {a}",
    "at the bottom {b}, at the top {a}",
)  # fmt: skip
COLOUR_PAIR: Final = (
    "{plain} painted {colour} beside {other_plain} painted {other_colour}", "{a} together with {b}",
    "{plain} in {colour} and {other_plain} in {other_colour}",
    "{plain} that is {colour}, {other_plain} that is {other_colour}",
    "one {colour} {name} plus one {other_colour} {other}",
)  # fmt: skip
STYLE: Final = (
    "{style}: {a}", "{a} drawn as {style}", "{a} in the manner of {style}", "{a}, {style} version",
    "{a} done as {style}",
)  # fmt: skip

TEMPLATES: Final = {
    "single": SINGLE,
    "background": BACKGROUND,
    "two": TWO,
    "count": COUNT,
    "colour": COLOUR,
    "colour_pair": COLOUR_PAIR,
    "left": LEFT,
    "above": ABOVE,
}

BY_NAME: Final = {concept.name: concept for concept in CONCEPTS}
STYLES: Final = {artist.key: artist.style for artist in ARTISTS}
FORBIDDEN: Final = held_out_combinations(list(BY_NAME), list(STYLES))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the fixed prompts.")
    parser.add_argument("out", type=Path, help="the .jsonl file")
    write_text(parser.parse_args().out, lines())


def lines() -> str:
    """Build the text of the file."""
    return json_lines(map(to_row, prompts()))


def prompts() -> Iterator[ScenePrompt]:
    """Yield every prompt, by split, then by skill."""
    draw = Draws(np.random.default_rng(SEED))
    for skill in SKILLS:
        yield from _numbered("seen", skill, draw.compositions("seen", skill), _caption)
    unseen = held_out_prompts()
    for skill in SKILLS:
        chosen = [prompt for prompt in unseen if _skill(prompt.kind) == skill]
        yield from _numbered("unseen", skill, chosen, _caption)
    for skill in SKILLS:
        word = _restyle if skill == "style" else _paraphrase
        yield from _numbered("paraphrase", skill, draw.compositions("paraphrase", skill), word)
    for i, (artist, concept) in enumerate(sorted(FORBIDDEN)):
        spec = SceneSpec("single", artist, (ObjectSpec(concept),))
        caption = _caption(spec, i, STYLES[artist])
        yield ScenePrompt(f"held_out_style-style-{i:02}", "held_out_style", "style", caption, spec, True)


class Draws:
    """Sampler of compositions that aren't held out, varied over concepts, colours, counts and relations."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._backgrounds = iter(BACKGROUNDS)
        self._keys = held_out_keys()

    def compositions(self, split: str, skill: str) -> list[Composition]:
        """Draw all compositions of a skill in a split."""
        plain = NUM_SEEN if split == "seen" else NUM_PARAPHRASES
        count = NUM_STYLE[split] if skill == "style" else plain
        recoloured = skill in ("colour", "colour_pair")
        concepts = ShuffledCycle([c.name for c in CONCEPTS if c.recolourable or not recoloured], self._rng)
        colours, counts = ShuffledCycle(COLOURS, self._rng), ShuffledCycle(NUMBER_WORDS, self._rng)
        relations = ShuffledCycle(OPPOSITE, self._rng)
        made: list[Composition] = []
        while len(made) < count:
            name = concepts.draw()
            colour = colours.draw() if recoloured else None
            objects = (ObjectSpec(name, colour),)
            if skill in ("two", "position", "colour_pair"):
                other = concepts.draw(lambda other, name=name: other != name)
                objects += (
                    ObjectSpec(other, colours.draw(lambda c, first=colour: c != first) if recoloured else None),
                )
            composition = Composition(
                "single" if skill == "style" else skill,
                objects,
                counts.draw() if skill == "count" else 1,
                relations.draw() if skill == "position" else None,
            )
            if skill == "single" and len(made) >= ON_WHITE[split]:
                concept, background = next(self._backgrounds)
                composition = Composition("background", (ObjectSpec(concept),), background=background)
            if not is_held_out(composition, self._keys):
                made.append(composition)
        return made


def _numbered(
    split: str, skill: str, compositions: Sequence[Composition], word: Callable[[SceneSpec, int, str | None], str]
) -> Iterator[ScenePrompt]:
    for i, composition in enumerate(compositions):
        names_style = skill == "style" or i // len(ARTISTS) % 2 == 0
        spec = composition.by(_artist(composition, i))
        text = word(spec, i, STYLES[spec.artist] if names_style else None)
        yield ScenePrompt(f"{split}-{skill}-{i:02}", split, skill, text, spec, names_style)


def _artist(composition: Composition, turn: int) -> str:
    """Choose the artist whose turn it is, or the next one whose drawings of all the objects training shows."""
    keys = list(STYLES)
    turns = keys[turn % len(keys) :] + keys[: turn % len(keys)]
    return next(key for key in turns if not any((key, item.concept) in FORBIDDEN for item in composition.objects))


def _skill(kind: str) -> str:
    return "single" if kind == "background" else kind


def _caption(spec: SceneSpec, turn: int, style: str | None) -> str:
    """Choose one of the training captions: the first and the last name the style, the others don't."""
    captions = write_captions(spec, BY_NAME, style=STYLES[spec.artist])
    which = turn // (2 * len(ARTISTS)) % 2
    return captions[(1, 2)[which] if style is None else (0, 3)[which]]


def _paraphrase(spec: SceneSpec, turn: int, style: str | None) -> str:
    """Word a scene as no training caption does."""
    words = name_words(spec, BY_NAME) | {"group": GROUPS.get(spec.count, "")}
    text = TEMPLATES[template_kind(spec)][turn % 5].format(**words)
    if style is None:
        return text
    return f"{style}: {text}" if turn % 2 else f"{text}, drawn as {style}"


def _restyle(spec: SceneSpec, turn: int, style: str | None) -> str:
    return STYLE[turn % 5].format(a=named(BY_NAME[spec.objects[0].concept]), style=style)


if __name__ == "__main__":
    main()
