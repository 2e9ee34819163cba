"""The prompts of the stickers benchmark: held out or not as their split says, in words that training uses or not."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

from bitvar.icons.dataset.caption_templates import STYLED
from bitvar.icons.stickers import captions
from bitvar.icons.stickers.artists import ARTISTS
from bitvar.icons.stickers.benchmark.prompts import (
    SKILLS,
    SPLITS,
    StickerPrompt,
    everyday_nouns,
    from_row,
    read_prompts,
    to_row,
)
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.held_out import (
    ONE_STYLE,
    able_artists,
    held_out_compositions,
    held_out_drawings,
    is_held_out,
)

SCRIPTS = Path(__file__).parents[3] / "scripts" / "icons"
BY_NAME = {concept.name: concept for concept in read_concepts()}
EXCLUDED = held_out_drawings(read_concepts())


@pytest.fixture(scope="module")
def prompts() -> tuple[StickerPrompt, ...]:
    return read_prompts()


def test_ids_are_unique_and_rows_are_sorted(prompts: tuple[StickerPrompt, ...]) -> None:
    assert len({prompt.id for prompt in prompts}) == len(prompts) > 850
    order = [(SPLITS.index(prompt.split), SKILLS.index(prompt.skill), prompt.id) for prompt in prompts]
    assert order == sorted(order)
    assert [from_row(json.loads(json.dumps(to_row(prompt)))) for prompt in prompts] == list(prompts)


def test_every_cell_has_20_to_40_prompts(prompts: tuple[StickerPrompt, ...]) -> None:
    counts = Counter((prompt.split, prompt.skill) for prompt in prompts)
    assert counts.pop(("open", "noun")) == 200
    assert set(counts.values()) <= set(range(20, 41)) and len(counts) == 27
    assert counts["paraphrase", "position"] == 40


def test_splits_are_held_out_or_not(prompts: tuple[StickerPrompt, ...]) -> None:
    for prompt in prompts:
        if prompt.skill == "one_style":
            [item] = prompt.composition.items
            assert prompt.artist != ONE_STYLE[item.concept]
            continue
        assert is_held_out(prompt.composition) == (prompt.split == "unseen"), prompt.id
        assert prompt.artist in able_artists(prompt.composition, BY_NAME, EXCLUDED), prompt.id
    unseen = [prompt.composition for prompt in prompts if prompt.split == "unseen" and prompt.skill != "one_style"]
    assert unseen == [composition for _, composition in held_out_compositions()]


def test_nouns_are_everyday_concepts_of_three_artists_or_more(prompts: tuple[StickerPrompt, ...]) -> None:
    nouns = [prompt.composition.items[0].concept for prompt in prompts if prompt.split == "open"]
    assert tuple(nouns) == everyday_nouns() and len(set(nouns)) == 200
    assert not set(nouns) & ONE_STYLE.keys()
    for noun in nouns:
        assert len([artist for artist in BY_NAME[noun].drawings if (artist, noun) not in EXCLUDED]) >= 3, noun
    assert {"violin", "teapot", "dragon", "dog"} <= set(nouns)


def test_prompts_say_what_they_ask_for(prompts: tuple[StickerPrompt, ...]) -> None:
    for prompt in prompts:
        said, composition = prompt.prompt.lower(), prompt.composition
        for item in composition.items:
            concept = BY_NAME[item.concept]
            words = concept.synonyms if prompt.skill == "synonym" else (concept.name, concept.plural)
            assert any(word.lower() in said for word in words), prompt
            assert item.colour is None or item.colour in said, prompt
        assert composition.background is None or composition.background in said, prompt
        if composition.count > 1:
            assert captions.NUMBERS[composition.count] in said or str(composition.count) in said, prompt
        sizes = ("small", "big", "large", "little", "huge", "tiny", "larger")
        assert any(size in said for size in sizes) or prompt.skill != "size", prompt
        assert "{" not in said and " a a" not in said


def test_a_side_is_named_where_the_image_needs_it(prompts: tuple[StickerPrompt, ...]) -> None:
    for prompt in prompts:
        if prompt.composition.layout in ("left", "row"):
            assert any(word in prompt.prompt for word in ("left", "right")), prompt
        if prompt.composition.layout in ("above", "column"):
            words = ("above", "below", "over", "top", "bottom", "under", "beneath", "down")
            assert any(word in prompt.prompt for word in words), prompt


def test_styles_are_named_by_some_and_paraphrases_by_none(prompts: tuple[StickerPrompt, ...]) -> None:
    styles = {artist.key: artist.style for artist in ARTISTS}
    named = Counter((prompt.split, styles[prompt.artist] in prompt.prompt) for prompt in prompts)
    assert named["seen", True] and named["seen", False] and named["unseen", True] and named["unseen", False]
    assert not named["paraphrase", True] and not named["open", True]


def test_captions_use_no_wording_of_the_paraphrases() -> None:
    trained = {text for texts in captions._TEMPLATES.values() for text in texts} | set(captions._ON)
    trained |= {*captions._TRANSPARENT, *STYLED}
    trained = {plain(text) for text in trained}
    for recipe in ("sticker_prompts.py", "prompts.py"):
        script = runpy.run_path(str(SCRIPTS / recipe))
        ours = script.get("PARAPHRASES") or {**script["TEMPLATES"], "style": script["STYLE"]}
        assert not {plain(text) for texts in ours.values() for text in texts} & trained, recipe
        assert len(ours) >= 8


def plain(template: str) -> str:
    """Write a template's fields alike, so that only its words count."""
    words = template.lower()
    for field, alike in (("{text}", "{a}"), ("{a_colour}", "{colour}"), ("{background}", "{colour}")):
        words = words.replace(field, alike)
    return words.replace("{a_style}", "{style}").strip()
