r"""Write the fixed prompts of the stickers benchmark.

python scripts/icons/sticker_prompts.py src/bitvar/icons/stickers/benchmark/prompts.jsonl --sprites data/sprites

It writes the same bytes every time. Models are compared on these prompts, so change them only together with the
version of the set.

Seen and paraphrased compositions come from shuffled cycles of the concepts that five artists or more drew, faces aside,
without held-out combinations; unseen ones are `held_out.held_out_compositions` and the concepts of `ONE_STYLE`; the
nouns of the open split are those of `everyday_nouns`. Real images are by the artists who have the
fewest so far. Every other seen or unseen prompt names the style of its real image.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from bitvar.data.writing import json_lines
from bitvar.files import write_text
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, with_article
from bitvar.icons.dataset.scene_sampler import ShuffledCycle
from bitvar.icons.stickers.artists import ARTISTS
from bitvar.icons.stickers.benchmark.prompts import StickerPrompt, everyday_nouns, to_row
from bitvar.icons.stickers.captions import NUMBERS
from bitvar.icons.stickers.concepts import StickerConcept, read_concepts
from bitvar.icons.stickers.held_out import (
    ONE_STYLE,
    able_artists,
    held_out_compositions,
    held_out_drawings,
    is_held_out,
)
from bitvar.icons.stickers.spec import Composition, Item
from bitvar.icons.stickers.sprites import SpriteStore

SEED: Final = 20261130
LEAST_ARTISTS: Final = 5
NUM_SEEN: Final = 25
NUM_PARAPHRASES: Final = 20
NUM_PARAPHRASED_POSITIONS: Final = 40
COMPOSED: Final = ("single", "count", "colour", "position", "colour_pair", "size", "three", "four", "synonym")
COUNTS: Final = {"colour_pair": 2, "position": 2, "size": 2, "three": 3, "four": 4}
"""Number of objects of the skills with several."""

NO_ARTICLE: Final = frozenset(
    {"luggage", "wood", "stone", "rain", "wind", "money", "cutlery", "internet", "fire", "bread", "meat"}
)
"""Other names that people say without an article."""

LAYOUTS: Final = {
    "position": ("left", "above"), "colour_pair": ("beside",), "size": ("beside", "left", "beside", "above"),
    "three": ("group", "row", "group", "column"), "four": ("group", "row", "group", "column"), "count": ("count",),
}  # fmt: skip
"""Layouts of each skill, in turn; the others have "single"."""

CAPTIONS: Final = {
    "single": ("{a}", "one {name}"),
    "background": ("{a} on {a_colour} background", "{a}, {colour} background"),
    "colour": ("{a}",),
    "count": ("{number} {plural}", "{digit} {plural}"),
    "beside": ("{a} and {b}", "{a} next to {b}"),
    "left": ("{a} to the left of {b}", "{b} to the right of {a}"),
    "above": ("{a} above {b}", "{b} below {a}"),
    "group": ("{list}",),
    "row": ("from left to right: {list}", "{list}, from left to right"),
    "column": ("from top to bottom: {list}", "{list}, from top to bottom"),
}
"""Wordings of seen and unseen prompts, which training captions use."""

PARAPHRASES: Final = {
    "single": ("draw {a}", "{a}, please", "I would like {a}", "show me {a}", "a lone {name}"),
    "background": (
        "{a} with {colour} behind it", "{a}, all {colour} around it", "{a} in front of {colour}",
        "{a}, and make the background {colour}", "{colour} all around {a}",
    ),
    "count": (
        "{plural}, {number} of them", "exactly {number} {plural}", "draw {number} {plural}",
        "{digit} of the same: {plural}", "a set of {number} {plural}",
    ),
    "colour": (
        "{plain} painted {colour}", "{plain} that is {colour}", "{plain} in {colour}", "{plain}, coloured {colour}",
        "make {plain} {colour}",
    ),
    "colour_pair": (
        "{plain} painted {colour} beside {other_plain} painted {other_colour}", "{a} together with {b}",
        "{plain} in {colour} and {other_plain} in {other_colour}",
        "{plain} that is {colour}, {other_plain} that is {other_colour}",
        "one {colour} {name} plus one {other_colour} {other}",
    ),
    "left": (
        "{a} with {b} on its right", "{b} with {a} on its left", "{a} on the left and {b} on the right",
        "on the right {b}, on the left {a}", "beside {b}, on the left, {a}", "put {a} on the left of {b}",
        "put {b} on the right of {a}", "the left side has {a}, the right side {b}",
        "{b} on the right-hand side, {a} on the left-hand side", "{a}, then {b} further right",
    ),
    "above": (
        "{a} over {b}", "{b} with {a} over it", "{a} at the top and {b} at the bottom", "{b} beneath {a}",
        "at the bottom {b}, at the top {a}", "put {a} over {b}", "put {b} under {a}", "{b} with {a} overhead",
        "the top has {a}, the bottom {b}", "{a}, then {b} further down",
    ),
    "size": (
        "a large {larger} and a little {smaller}", "a huge {larger} together with a tiny {smaller}",
        "{smaller_plain} that is smaller than {larger_plain}", "{larger_plain} that is bigger than {smaller_plain}",
        "{smaller_plain} and a much larger {larger}",
    ),
    "size_left": ("a large {name} on the left and a little {other} on the right",),
    "size_right": ("a little {name} on the left and a large {other} on the right",),
    "size_above": ("a huge {name} over a tiny {other}",),
    "size_below": ("a tiny {name} over a huge {other}",),
    "group": ("draw {list}", "{list}, please", "{list} all in one image", "I would like {list}"),
    "row": ("starting on the left: {list}", "{list}, reading from the left", "side by side, leftmost first: {list}"),
    "column": ("starting at the top: {list}", "{list}, reading downwards", "stacked, topmost first: {list}"),
}  # fmt: skip
"""Wordings that no training caption uses; of two objects, `a` is the left or upper one."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Write the fixed prompts.")
    parser.add_argument("out", type=Path, help="the .jsonl file")
    parser.add_argument("--sprites", type=Path, required=True, help="folder of the rendered drawings")
    given = parser.parse_args()
    write_text(given.out, json_lines(map(to_row, Writer(SpriteStore(given.sprites)).prompts())))


class Writer:
    """Writes prompts: draws what they ask for, words it, and gives each an artist."""

    def __init__(self, store: SpriteStore) -> None:
        self._store, self._rng = store, np.random.default_rng(SEED)
        self._concepts = {concept.name: concept for concept in read_concepts()}
        self._excluded = held_out_drawings(read_concepts())
        self._used = dict.fromkeys((artist.key for artist in ARTISTS), 0)

    def prompts(self) -> Iterator[StickerPrompt]:
        """Yield every prompt, by split, then by skill."""
        for skill in COMPOSED:
            for i, composition in enumerate(self._compositions(skill, NUM_SEEN)):
                yield self._captioned("seen", skill, i, composition)
        unseen: dict[str, list[Composition]] = {}
        for skill, composition in held_out_compositions():
            unseen.setdefault(skill, []).append(composition)
        for skill, compositions in unseen.items():
            for i, composition in enumerate(compositions):
                yield self._captioned("unseen", skill, i, composition)
        for i, name in enumerate(name for name in ONE_STYLE for _ in range(2)):
            yield self._captioned("unseen", "one_style", i, Composition("single", (Item(name),)))
        for skill in COMPOSED:
            number = NUM_PARAPHRASED_POSITIONS if skill == "position" else NUM_PARAPHRASES
            for i, composition in enumerate(self._compositions(skill, number)):
                text = self._paraphrase(skill, i, composition)
                yield self._prompt("paraphrase", skill, i, text, composition)
        for i, name in enumerate(everyday_nouns()):
            yield self._prompt("open", "noun", i, with_article(name), Composition("single", (Item(name),)))

    def _compositions(self, skill: str, number: int) -> Iterator[Composition]:
        everything = [name for name, concept in self._concepts.items() if self._is_plain(concept)]
        names = ShuffledCycle([name for name in everything if skill != "synonym" or self._synonym(name)], self._rng)
        paintable = ShuffledCycle([name for name in everything if self._concepts[name].recolourable], self._rng)
        colours, backgrounds = ShuffledCycle(COLOURS, self._rng), ShuffledCycle(list(BACKGROUNDS)[1:], self._rng)
        layouts = LAYOUTS.get(skill, ("single",))
        made = 0
        while made < number:
            coloured = skill in ("colour", "colour_pair")
            source = paintable if coloured and made % 2 == 0 else names
            chosen = [source.draw() for _ in range(COUNTS.get(skill, 1))]
            paints = [colours.draw() if coloured else None for _ in chosen]
            sizes = ("small", "big") if made // 2 % 2 else ("big", "small")
            composition = Composition(
                layouts[made % len(layouts)],
                tuple(
                    Item(name, paint, sizes[place] if skill == "size" else None)
                    for place, (name, paint) in enumerate(zip(chosen, paints, strict=True))
                ),
                2 + made % 5 if skill == "count" else 1,
                backgrounds.draw() if skill == "single" and made % 2 else None,
            )
            varied = len(set(chosen)) == len(chosen) and (not coloured or len(set(paints)) == len(paints))
            if varied and not is_held_out(composition) and self._artists(composition):
                made += 1
                yield composition

    def _is_plain(self, concept: StickerConcept) -> bool:
        shown = [artist for artist in concept.drawings if (artist, concept.name) not in self._excluded]
        return concept.category != "face" and len(shown) >= LEAST_ARTISTS

    def _synonym(self, name: str) -> str | None:
        """Choose another name that takes an article; None if there is none."""
        if " of " in name or name.startswith("pair"):
            return None
        words = self._concepts[name].synonyms
        return next(
            (
                word
                for word in words
                if name not in word and word not in name and word[-1] != "s" and word not in NO_ARTICLE
            ),
            None,
        )

    def _artists(self, composition: Composition) -> list[str]:
        able = able_artists(composition, self._concepts, self._excluded)
        if composition.items[0].concept in ONE_STYLE:
            taught = ONE_STYLE[composition.items[0].concept]
            able = [artist for artist in able_artists(composition, self._concepts, frozenset()) if artist != taught]
        return [
            artist
            for artist in able
            if composition.background is None
            or composition.background in self._store.visible_backgrounds(artist, composition.items[0].concept, None)
        ]

    def _captioned(self, split: str, skill: str, i: int, composition: Composition) -> StickerPrompt:
        """Word a prompt as training captions do; every other one names the style of the real image."""
        kind = "background" if composition.background else "colour" if skill == "colour" else composition.layout
        templates = CAPTIONS[kind]
        words = self._words(composition, synonym=skill == "synonym")
        text = templates[i // len(LAYOUTS.get(skill, " ")) // 2 % len(templates)].format(**words)
        prompt = self._prompt(split, skill, i, text, composition)
        if i % 2:
            return prompt
        style = next(artist.style for artist in ARTISTS if artist.key == prompt.artist)
        return StickerPrompt(prompt.id, split, skill, f"{text}, {style}", composition, prompt.artist)

    def _paraphrase(self, skill: str, i: int, composition: Composition) -> str:
        kind = "background" if composition.background else composition.layout
        if skill in ("colour", "colour_pair"):
            kind = skill
        if skill == "size":
            first = composition.items[0].size
            places = {("left", "big"): "left", ("left", "small"): "right", ("above", "big"): "above"}
            place = places.get((composition.layout, str(first)), "below")
            kind = "size" if composition.layout == "beside" else f"size_{place}"
        templates = PARAPHRASES[kind]
        words = self._words(composition, synonym=skill == "synonym")
        return templates[i // len(LAYOUTS.get(skill, " ")) % len(templates)].format(**words)

    def _words(self, composition: Composition, *, synonym: bool) -> dict[str, str]:
        """Return the values of a wording's fields."""
        items = composition.items
        names = [str(self._synonym(item.concept)) if synonym else item.concept for item in items]
        phrases = [
            with_article(" ".join(filter(None, (item.size, item.colour, name))))
            for item, name in zip(items, names, strict=True)
        ]
        words = {"name": names[0], "other": names[-1], "a": phrases[0], "b": phrases[-1]}
        words |= {"plain": with_article(names[0]), "other_plain": with_article(names[-1])}
        words |= {"list": ", ".join(phrases[:-1]) + f" and {phrases[-1]}"}
        colour = items[0].colour or composition.background or ""
        words |= {"colour": colour, "a_colour": with_article(colour), "other_colour": items[-1].colour or ""}
        larger, smaller = (names[0], names[-1]) if items[0].size == "big" else (names[-1], names[0])
        words |= {"larger": larger, "smaller": smaller}
        words |= {"larger_plain": with_article(larger), "smaller_plain": with_article(smaller)}
        if composition.count > 1:
            plural = self._concepts[items[0].concept].plural
            words |= {"number": NUMBERS[composition.count], "digit": str(composition.count), "plural": plural}
        return words

    def _prompt(self, split: str, skill: str, i: int, text: str, composition: Composition) -> StickerPrompt:
        artist = min(self._artists(composition), key=lambda key: self._used[key])
        self._used[artist] += 1
        return StickerPrompt(f"{split}-{skill}-{i:03}", split, skill, text, composition, artist)


if __name__ == "__main__":
    main()
