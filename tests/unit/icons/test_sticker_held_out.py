"""What the sticker set keeps for evaluation: compositions, drawings, and concepts that one artist teaches."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bitvar.icons.dataset.concepts import BACKGROUNDS, CONCEPTS
from bitvar.icons.dataset.held_out import held_out_combinations
from bitvar.icons.dataset.prompts import read_prompts
from bitvar.icons.dataset.sources import ARTISTS as FIRST_ARTISTS
from bitvar.icons.stickers.artists import ARTISTS
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.held_out import (
    ONE_STYLE,
    SKILLS,
    able_artists,
    held_out_compositions,
    held_out_drawings,
    held_out_keys,
    is_held_out,
    keys_of,
)
from bitvar.icons.stickers.scenes import SPLITS, SceneSampler
from bitvar.icons.stickers.spec import Composition, Item, Scene
from bitvar.icons.stickers.sprites import SpriteStore

BY_NAME = {concept.name: concept for concept in read_concepts()}


class EveryBackground(SpriteStore):
    """A store without drawings, whose objects stand out against every background."""

    def _visible_backgrounds(self, artist: str, concept: str, colour: str | None) -> tuple[str, ...]:
        return tuple(BACKGROUNDS)


@pytest.fixture(scope="module")
def sampler() -> SceneSampler:
    return SceneSampler(read_concepts(), EveryBackground(Path("nowhere")), seed=0)


@pytest.fixture(scope="module")
def scenes(sampler: SceneSampler) -> list[Scene]:
    return [sampler.scene(split, index) for split in SPLITS for index in range(2500)]


def test_every_skill_has_compositions_that_artists_can_draw() -> None:
    found = Counter(skill for skill, _ in held_out_compositions())
    assert tuple(found) == SKILLS and set(found.values()) == {30}
    excluded = held_out_drawings(read_concepts())
    for skill, composition in held_out_compositions():
        assert able_artists(composition, BY_NAME, excluded), composition
        names = {item.concept for item in composition.items}
        assert len(names) == len(composition.items) == {"three": 3, "four": 4}.get(skill, len(names))
        assert not names & ONE_STYLE.keys()
        sizes = [item.size for item in composition.items if item.size]
        assert (sorted(sizes) == ["big", "small"]) == (skill == "size")
        assert all(item.colour for item in composition.items) == (skill in ("colour", "colour_pair"))
    counts = [composition.count for skill, composition in held_out_compositions() if skill == "count"]
    assert Counter(counts) == dict.fromkeys(range(2, 7), 6)


def test_no_scene_shows_what_is_held_out(scenes: list[Scene]) -> None:
    keys = set.union(*(set(keys_of(scene)) for scene in scenes))
    assert len(keys) > 5000
    assert not keys & held_out_keys()
    for _, composition in held_out_compositions():
        assert is_held_out(composition.by("noto"))
    assert not is_held_out(Composition("single", (Item("dog"),)))


def test_two_of_a_held_out_group_are_never_together() -> None:
    group = next(composition for skill, composition in held_out_compositions() if skill == "four")
    first, _, third, _ = group.items
    assert is_held_out(Scene("noto", "left", (third, Item(first.concept, "red", "small"))))
    assert not is_held_out(Scene("noto", "left", (first, Item("toolbox"))))


def test_held_out_drawings_are_never_shown(scenes: list[Scene], sampler: SceneSampler) -> None:
    held_out = held_out_drawings(read_concepts())
    old = held_out_combinations([concept.name for concept in CONCEPTS], [artist.key for artist in FIRST_ARTISTS])
    assert old < held_out and len(held_out) > 300
    assert not held_out & set(sampler.shown)
    assert not held_out & {(scene.artist, item.concept) for scene in scenes for item in scene.items}


def test_one_artist_teaches_the_concepts_of_one_style(sampler: SceneSampler) -> None:
    old = {concept.name for concept in CONCEPTS}
    for concept, artist in ONE_STYLE.items():
        assert concept not in old and len(BY_NAME[concept].drawings) >= 5
        assert [key for key, name in sampler.shown if name == concept] == [artist]
    assert len(ONE_STYLE) == 20 and len(set(ONE_STYLE.values())) == len(ARTISTS)


def test_what_the_first_benchmark_keeps_is_never_shown() -> None:
    unseen = [prompt.spec for prompt in read_prompts() if prompt.split == "unseen"]
    assert unseen
    for spec in unseen:
        items = tuple(Item(item.concept, item.colour) for item in spec.objects)
        layout = "count" if spec.count > 1 else "single" if len(items) == 1 else "beside"
        background = None if spec.background == "white" else spec.background
        assert is_held_out(Scene(spec.artist, layout, items, spec.count, background)), spec


def test_few_scenes_are_drawn_again(sampler: SceneSampler) -> None:
    rng = np.random.default_rng(0)
    tried = [sampler._try(*sampler.shown[i % len(sampler.shown)], rng) for i in range(4000)]
    held_out = [scene for scene in tried if scene is not None and is_held_out(scene)]
    assert 0.001 < len(held_out) / len(tried) < 0.03
