"""The fixed prompts: written by their recipe, held out or not as their split says, and drawn into the icon set."""

import json
import runpy
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bitvar.icons.dataset import build
from bitvar.icons.dataset.caption_templates import write_all_captions
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS, NUMBER_WORDS
from bitvar.icons.dataset.held_out import held_out_combinations, held_out_keys, is_held_out
from bitvar.icons.dataset.prompts import FILE, SKILLS, SPLITS, ScenePrompt, from_row, read_prompts, to_row
from bitvar.icons.dataset.render import SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_spec import OPPOSITE, ObjectSpec, SceneSpec, write_captions
from bitvar.icons.dataset.sources import ARTISTS, fetch_package, render_sprites

RECIPE = Path(__file__).parents[3] / "scripts" / "icons" / "prompts.py"
BY_NAME = {concept.name: concept for concept in CONCEPTS}
STYLES = {artist.key: artist.style for artist in ARTISTS}
COMBINATIONS = held_out_combinations(list(BY_NAME), list(STYLES))


@pytest.fixture(scope="module")
def prompts() -> tuple[ScenePrompt, ...]:
    return read_prompts()


def test_the_recipe_writes_the_same_bytes() -> None:
    assert runpy.run_path(str(RECIPE))["lines"]().encode() == FILE.read_bytes()


def test_ids_and_words_are_unique_and_sorted(prompts: tuple[ScenePrompt, ...]) -> None:
    assert len({prompt.id for prompt in prompts}) == len({prompt.prompt for prompt in prompts}) == len(prompts) >= 640
    order = [(SPLITS.index(prompt.split), SKILLS.index(prompt.skill), prompt.id) for prompt in prompts]
    assert order == sorted(order)
    assert [from_row(json.loads(json.dumps(to_row(prompt)))) for prompt in prompts] == list(prompts)


def test_every_split_has_enough_of_every_skill(prompts: tuple[ScenePrompt, ...]) -> None:
    counts = Counter((prompt.split, prompt.skill) for prompt in prompts)
    for split, least in (("seen", 30), ("unseen", 40), ("paraphrase", 20)):
        assert all(counts[split, skill] >= least for skill in SKILLS if skill != "style")
    assert counts["seen", "style"] >= 40
    assert counts["held_out_style", "style"] == len(COMBINATIONS) == 61


def test_splits_are_held_out_or_not(prompts: tuple[ScenePrompt, ...]) -> None:
    keys = held_out_keys()
    for prompt in prompts:
        shown = {(prompt.spec.artist, item.concept) for item in prompt.spec.objects}
        if prompt.split == "held_out_style":
            assert shown <= COMBINATIONS
        else:
            assert shown.isdisjoint(COMBINATIONS), prompt.id
            assert is_held_out(prompt.spec, keys) == (prompt.split == "unseen"), prompt.id


def test_half_name_a_style_and_artists_take_turns(prompts: tuple[ScenePrompt, ...]) -> None:
    for prompt in prompts:
        style = STYLES[prompt.spec.artist]
        assert (style in prompt.prompt) == prompt.names_style, prompt.id
        assert not any(other in prompt.prompt for other in STYLES.values() if other != style), prompt.id
    others = [prompt for prompt in prompts if prompt.skill != "style"]
    assert 0.48 < np.mean([prompt.names_style for prompt in others]) < 0.56
    artists = Counter(prompt.spec.artist for prompt in others)
    assert min(artists.values()) > 0.8 * len(others) / 4


def test_concepts_and_colours_are_varied(prompts: tuple[ScenePrompt, ...]) -> None:
    concepts = Counter(item.concept for prompt in prompts for item in prompt.spec.objects)
    assert set(concepts) == set(BY_NAME) and max(concepts.values()) < 20
    for values, known in (
        ([t.colour for p in prompts for t in p.spec.objects if t.colour], COLOURS),
        ([p.spec.background for p in prompts if p.spec.background != "white"], set(BACKGROUNDS) - {"white"}),
        ([p.spec.count for p in prompts if p.spec.count > 1], NUMBER_WORDS),
        ([p.spec.relation for p in prompts if p.spec.relation], OPPOSITE),
    ):
        counts = Counter(values)
        assert set(counts) == set(known) and min(counts.values()) > 0.7 * max(counts.values())


def specs_of(spec: SceneSpec) -> Iterator[SceneSpec]:
    """Every scene of these things, with or without their colours, in any order, number and place."""
    artist, plain = spec.artist, tuple(ObjectSpec(item.concept) for item in spec.objects)
    for objects in {plain, spec.objects}:
        coloured = objects[0].colour is not None
        if len(objects) == 1:
            on_white, on_colour = ("colour", "colour") if coloured else ("single", "background")
            yield SceneSpec(on_white, artist, objects)
            yield from (SceneSpec(on_colour, artist, objects, background=name) for name in BACKGROUNDS)
            yield from (SceneSpec("count", artist, objects, count=count) for count in NUMBER_WORDS)
            continue
        for pair in permutations(objects):
            yield SceneSpec("colour_pair" if coloured else "two", artist, pair)
            yield from (SceneSpec("position", artist, pair, relation=relation) for relation in OPPOSITE)


def test_paraphrases_are_no_captions_and_the_others_are(prompts: tuple[ScenePrompt, ...]) -> None:
    for prompt in prompts:
        style = STYLES[prompt.spec.artist]
        if prompt.split == "paraphrase":
            found = {text for r in specs_of(prompt.spec) for text in write_all_captions(r, BY_NAME, style=style)}
            assert prompt.prompt not in found, prompt.id
        else:
            assert prompt.prompt in write_captions(prompt.spec, BY_NAME, style=style), prompt.id


def test_training_templates_are_not_those_of_the_paraphrases() -> None:
    recipe = runpy.run_path(str(RECIPE))
    pairs = {
        "SINGLE": ["SINGLE"], "BACKGROUND": ["BACKGROUND"], "TWO": ["PAIR"], "COUNT": ["COUNT"], "COLOUR": ["COLOUR"],
        "COLOUR_PAIR": ["COLOUR_PAIR", "PAIR"], "LEFT": ["LEFT"], "ABOVE": ["ABOVE"],
    }  # fmt: skip
    for asked, taught in pairs.items():
        assert len(recipe[asked]) == 5
        for name in taught:
            assert set(recipe[asked]).isdisjoint(getattr(caption_templates, name)), asked


def test_every_prompt_is_drawn_into_the_set(
    prompts: tuple[ScenePrompt, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "plan_scenes", lambda *arguments, **named: iter(()))  # the other splits take long
    sprite = Image.new("RGBA", (20, 20))
    ImageDraw.Draw(sprite).ellipse((0, 0, 19, 19), fill=(90, 90, 160, 255))
    atlas = SpriteAtlas({artist: dict.fromkeys(BY_NAME, sprite) for artist in STYLES})
    rows = list(build.write_images(tmp_path, atlas, CONCEPTS, ARTISTS, size=32, seed=0, num_scenes=8, jitter=False))
    assert {row["split"] for row in rows} == {"scenes"}
    assert [row["prompt_id"] for row in rows] == [prompt.id for prompt in prompts]
    for row, prompt in zip(rows, prompts, strict=True):
        assert row["captions"] == [prompt.prompt] and row["artist"] == prompt.spec.artist
        if prompt.skill != "single":
            continue
        still, _ = draw_scene(prompt.spec, atlas, size=32, rng=np.random.default_rng(9), jitter=False)
        assert still.tobytes() == Image.open(tmp_path / str(row["image_path"])).tobytes()


@pytest.mark.slow
def test_every_object_stands_out_against_its_background(prompts: tuple[ScenePrompt, ...], tmp_path: Path) -> None:
    """With the real drawings, which are fetched."""
    sprites = {a.key: render_sprites(a, fetch_package(a, tmp_path), CONCEPTS, side=128) for a in ARTISTS}
    atlas = SpriteAtlas(sprites)
    for prompt in prompts:
        if prompt.spec.background != "white":
            visible = atlas.visible_backgrounds(prompt.spec.artist, prompt.spec.objects[0])
            assert prompt.spec.background in visible, prompt.id
