"""The icon set: captions and labels agree with pixels, nothing held out is shown, a build is whole or absent."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bitvar.data import writing
from bitvar.errors import UsageError
from bitvar.icons.dataset import build, build_icon_set
from bitvar.icons.dataset.caption_templates import draw_captions, write_all_captions
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS, named, with_article
from bitvar.icons.dataset.held_out import held_out_combinations, held_out_keys, held_out_prompts, is_held_out
from bitvar.icons.dataset.render import SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_sampler import SHARES, ShuffledCycle
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec, write_captions
from bitvar.icons.dataset.sources import ARTISTS, Licence, fetch_package
from bitvar.icons.dataset.sprites import camouflaged_share, recolour, trim_to_alpha

BY_NAME = {concept.name: concept for concept in CONCEPTS}
ARGUMENTS = {"format_version": 5, "size": 32, "seed": 3, "num_scenes": 200, "jitter": True}


def disc(colour: tuple[int, int, int], width: int = 40, height: int = 40) -> Image.Image:
    sprite = Image.new("RGBA", (width, height))
    ImageDraw.Draw(sprite).ellipse((0, 0, width - 1, height - 1), fill=(*colour, 255))
    return sprite


@pytest.fixture(scope="module")
def atlas() -> SpriteAtlas:
    rng = np.random.default_rng(0)
    drawings = {}
    for concept in CONCEPTS:
        red, green, blue = rng.integers(40, 200, size=3).tolist()
        width, height = rng.integers(12, 28, size=2).tolist()
        drawings[concept.name] = disc((red, green, blue), width, height)
    return SpriteAtlas({artist.key: drawings for artist in ARTISTS})


@pytest.fixture(scope="module")
def planned(atlas: SpriteAtlas) -> list[tuple[str, SceneSpec]]:
    return list(build.plan_scenes(atlas, CONCEPTS, tuple(a.key for a in ARTISTS), seed=3, num_scenes=800))


def draw(spec: SceneSpec, atlas: SpriteAtlas, *, size: int = 64, seed: int = 0):
    return draw_scene(spec, atlas, size=size, rng=np.random.default_rng(seed))


def overlap(first, second) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("apple", "an apple"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("orange car", "an orange car"),
        ("hourglass", "an hourglass"),
        ("pair of scissors", "a pair of scissors"),
        ("3D emoji", "a 3D emoji"),
        ("onion", "an onion"),
    ],
)
def test_articles_follow_the_sound(phrase, expected):
    assert with_article(phrase) == expected


def test_a_colour_takes_over_the_article():
    assert named(BY_NAME["umbrella"], "red") == "a red umbrella"
    assert named(BY_NAME["car"], "orange") == "an orange car"


def test_the_table_has_no_duplicates():
    assert len({concept.name for concept in CONCEPTS}) == len(CONCEPTS)
    assert len({concept.code_point for concept in CONCEPTS}) == len(CONCEPTS)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (SceneSpec("single", "noto", (ObjectSpec("apple"),)), ["an apple, S", "an apple"]),
        (SceneSpec("count", "noto", (ObjectSpec("mouse"),), count=3), ["three mice", "3 mice"]),
        (SceneSpec("background", "noto", (ObjectSpec("cat"),), background="orange"), ["a cat on an orange background"]),
        (
            SceneSpec("colour_pair", "noto", (ObjectSpec("car", "red"), ObjectSpec("star", "blue"))),
            ["a red car and a blue star"],
        ),
        (
            SceneSpec("position", "noto", (ObjectSpec("cat"), ObjectSpec("owl")), relation="left"),
            ["a cat to the left of an owl", "an owl to the right of a cat"],
        ),
        (
            SceneSpec("position", "noto", (ObjectSpec("cat"), ObjectSpec("owl")), relation="below"),
            ["a cat below an owl", "an owl above a cat, S"],
        ),
    ],
)
def test_captions_say_what_is_shown(spec, expected):
    captions = write_captions(spec, BY_NAME, style="S")
    assert set(expected) <= set(captions)
    assert 2 <= len(captions) == len(set(captions)) <= 4
    assert "S" in captions[0] and "S" not in captions[1]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (SceneSpec("single", "noto", (ObjectSpec("apple"),)), {"apple", "3D emoji, there is an apple"}),
        (SceneSpec("background", "noto", (ObjectSpec("cat"),), background="red"), {"a cat against red"}),
        (SceneSpec("background", "noto", (ObjectSpec("cat"),)), {"a cat against a white background"}),
        (SceneSpec("two", "noto", (ObjectSpec("cat"), ObjectSpec("owl"))), {"a cat alongside an owl, 3D emoji"}),
        (
            SceneSpec("count", "noto", (ObjectSpec("mouse"),), count=3),
            {"3 identical mice", "mice: three as a 3D emoji"},
        ),
        (SceneSpec("colour", "noto", (ObjectSpec("car", "orange"),)), {"an orange-coloured car", "a car made orange"}),
        (
            SceneSpec("colour", "noto", (ObjectSpec("car", "orange"),), background="blue"),
            {"an orange car against a blue background"},
        ),
        (
            SceneSpec("colour_pair", "noto", (ObjectSpec("car", "red"), ObjectSpec("owl", "blue"))),
            {"a car (red) and an owl (blue)", "3D emoji, car red, owl blue"},
        ),
        (
            SceneSpec("position", "noto", (ObjectSpec("cat"), ObjectSpec("owl")), relation="right"),
            {"from left to right, an owl and a cat", "a cat right of an owl"},
        ),
        (
            SceneSpec("position", "noto", (ObjectSpec("cat"), ObjectSpec("owl")), relation="above"),
            {"below a cat there is an owl", "an owl lower than a cat"},
        ),
    ],
)
def test_other_wordings_say_the_same(spec, expected):
    every = write_all_captions(spec, BY_NAME, style="3D emoji")
    assert expected <= set(every) and len(set(every)) == len(every) > 100
    assert every[:2] == write_captions(spec, BY_NAME, style="3D emoji")[:2]
    rng = np.random.default_rng(0)
    draws = [draw_captions(spec, BY_NAME, style="3D emoji", rng=rng) for _ in range(200)]
    assert all(set(drawn) <= set(every) and drawn[:2] == every[:2] for drawn in draws)
    assert all("3D emoji" in drawn[3] and 4 <= len(drawn) <= 5 for drawn in draws if len(drawn) == 5)
    assert len({text for drawn in draws for text in drawn}) > 80


def test_every_wording_can_be_written_of_every_concept():
    for concept in CONCEPTS:
        for text in write_all_captions(SceneSpec("single", "noto", (ObjectSpec(concept.name),)), BY_NAME, style="S"):
            assert "  " not in text and "{" not in text


@pytest.mark.parametrize("relation", ["left", "right", "above", "below"])
def test_positions_agree_with_boxes(atlas, relation):
    spec = SceneSpec("position", "noto", (ObjectSpec("cat"), ObjectSpec("dog")), relation=relation)
    for seed in range(20):
        _, (first, second) = draw(spec, atlas, seed=seed)
        holds = {
            "left": first[2] <= second[0],
            "right": first[0] >= second[2],
            "above": first[3] <= second[1],
            "below": first[1] >= second[3],
        }
        assert [name for name, true in holds.items() if true] == [relation]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_still_objects_keep_one_size_and_place(atlas, count):
    objects = (ObjectSpec("cat"), ObjectSpec("dog")) if count == 1 else (ObjectSpec("cat"),)
    spec = SceneSpec("two" if count == 1 else "count", "noto", objects, count=count)
    still, moved = (
        {
            draw_scene(spec, atlas, size=64, rng=np.random.default_rng(seed), jitter=jitter)[0].tobytes()
            for seed in range(9)
        }
        for jitter in (False, True)
    )
    assert len(still) == 1
    assert len(moved) > 1


def test_two_objects_stand_in_the_order_of_the_caption(atlas):
    _, (first, second) = draw(SceneSpec("two", "noto", (ObjectSpec("cat"), ObjectSpec("dog"))), atlas)
    assert first[2] <= second[0]


@pytest.mark.parametrize("size", [32, 64, 100])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_counted_objects_neither_overlap_nor_leave_the_image(atlas, count, size):
    for seed in range(10):
        image, boxes = draw(SceneSpec("count", "noto", (ObjectSpec("bee"),), count=count), atlas, size=size, seed=seed)
        assert image.size == (size, size) and image.mode == "RGB" and len(boxes) == count
        assert all(0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size for x0, y0, x1, y1 in boxes)
        assert not any(overlap(boxes[i], boxes[j]) for i in range(count) for j in range(i))


def test_everything_outside_the_boxes_is_background(atlas):
    spec = SceneSpec("background", "noto", (ObjectSpec("cat"),), background="green")
    image, boxes = draw(spec, atlas)
    pixels = np.array(image)
    for x0, y0, x1, y1 in boxes:
        assert (pixels[(y0 + y1) // 2, (x0 + x1) // 2] != BACKGROUNDS["green"]).any()
        pixels[y0:y1, x0:x1] = BACKGROUNDS["green"]
    assert (pixels == BACKGROUNDS["green"]).all()


def test_a_centred_single_ignores_the_generator(atlas):
    spec = SceneSpec("single", "noto", (ObjectSpec("cat"),), centred=True)
    assert draw(spec, atlas, seed=1)[1] == draw(spec, atlas, seed=2)[1]


@pytest.mark.parametrize("colour", COLOURS)
def test_recolouring_hits_the_named_colour(colour):
    # A red disc with a white spot and a green leaf: the paint changes, the spot and the leaf stay.
    sprite = disc((210, 40, 40))
    sprite.paste((255, 255, 255, 255), (15, 10, 20, 15))
    sprite.paste((60, 170, 60, 255), (20, 10, 25, 15))
    pixels = np.asarray(recolour(sprite, COLOURS[colour])).astype(int)
    assert np.abs(pixels[30, 20, :3] - COLOURS[colour]).max() < 30
    assert pixels[12, 17].tolist() == [255, 255, 255, 255] and pixels[12, 22].tolist() == [60, 170, 60, 255]
    assert (pixels[..., 3] == np.asarray(sprite)[..., 3]).all()


def test_grey_drawings_are_recoloured_whole():
    pixels = np.asarray(recolour(disc((128, 128, 128)), COLOURS["blue"])).astype(int)
    assert np.abs(pixels[20, 20, :3] - COLOURS["blue"]).max() < 30


def test_backgrounds_that_hide_the_object_are_refused():
    atlas = SpriteAtlas({"noto": {"car": disc((255, 255, 255))}})
    assert "white" not in atlas.visible_backgrounds("noto", ObjectSpec("car"))
    assert camouflaged_share(disc((255, 255, 255)), BACKGROUNDS["white"]) == 1.0
    assert "blue" not in atlas.visible_backgrounds("noto", ObjectSpec("car", "blue"))


def test_an_empty_drawing_is_refused():
    with pytest.raises(ValueError, match="transparent"):
        trim_to_alpha(Image.new("RGBA", (8, 8)))


def test_held_out_prompts_are_known_and_distinct():
    prompts = held_out_prompts()
    assert len(set(prompts)) == len(prompts) == 240
    assert set(Counter(prompt.kind for prompt in prompts).values()) == {40}
    for prompt in prompts:
        assert all(item.colour is None or BY_NAME[item.concept].recolourable for item in prompt.objects)
    pairs = [frozenset(item.concept for item in prompt.objects) for prompt in prompts if len(prompt.objects) > 1]
    assert len(set(pairs)) == len(pairs) == 120


def test_no_concept_loses_much_to_the_held_out_prompts():
    lone = Counter((p.kind, p.objects[0].concept) for p in held_out_prompts() if len(p.objects) == 1)
    assert set(lone.values()) == {1}, "of ten backgrounds, three counts and eight colours, one is lost at most"
    paired = Counter(item.concept for p in held_out_prompts() if len(p.objects) == 2 for item in p.objects)
    assert max(paired.values()) <= 6, "of 152 partners"


def test_held_out_colours_of_a_pair_are_seen_with_others():
    coloured = {(p.objects[0].concept, p.objects[0].colour) for p in held_out_prompts() if p.kind == "colour"}
    shown = {(t.concept, t.colour) for p in held_out_prompts() if p.kind == "colour_pair" for t in p.objects}
    assert coloured.isdisjoint(shown)


def test_nothing_held_out_is_planned_for_training(planned):
    keys = held_out_keys()
    combinations = held_out_combinations([c.name for c in CONCEPTS], [a.key for a in ARTISTS])
    assert len(combinations) == round(0.1 * len(CONCEPTS) * len(ARTISTS))
    assert len({concept for _, concept in combinations}) == len(combinations), "a concept lost two artists"
    for split, spec in planned:
        shown = {(spec.artist, item.concept) for item in spec.objects}
        if split in ("train", "val"):
            assert not is_held_out(spec, keys)
            assert shown.isdisjoint(combinations)
        elif split == "held_out_combination":
            assert shown <= combinations
        else:
            assert is_held_out(spec, keys) or spec.kind == "colour_pair"


def test_a_held_out_background_is_excluded_whatever_the_colour():
    keys = held_out_keys()
    for item in (ObjectSpec("rose"), ObjectSpec("rose", "blue"), ObjectSpec("rose", "pink")):
        assert is_held_out(SceneSpec("colour", "noto", (item,), background="grey"), keys)
    assert not is_held_out(SceneSpec("background", "noto", (ObjectSpec("rose"),), background="green"), keys)


def test_a_held_out_pair_is_excluded_whatever_its_order_or_kind():
    for kind, objects in (("two", ("dog", "cat")), ("position", ("dog", "cat")), ("two", ("tree", "lion"))):
        assert is_held_out(SceneSpec(kind, "noto", tuple(map(ObjectSpec, objects))), held_out_keys())


def test_training_is_balanced(planned):
    train = [spec for split, spec in planned if split == "train"]
    for kind, share in SHARES.items():
        chosen = [spec for spec in train if spec.kind == kind]
        numbers = [sum(spec.artist == artist.key for spec in chosen) for artist in ARTISTS]
        if kind != "single":
            assert len(chosen) == round(share * 800)
            assert max(numbers) - min(numbers) <= 1
    assert all(first.colour != second.colour for r in train if r.kind == "colour_pair" for first, second in [r.objects])
    assert all(r.background not in {item.colour for item in r.objects} for r in train)


def test_a_cycle_shows_everything_once_before_repeating():
    cycle = ShuffledCycle("abcd", np.random.default_rng(0))
    drawn = [cycle.draw() for _ in range(8)]
    assert sorted(drawn[:4]) == sorted(drawn[4:]) == list("abcd")
    with pytest.raises(ValueError, match="none of 4"):
        cycle.draw(lambda item: item == "z")


def write_set(destination: Path, atlas: SpriteAtlas, *, seed: int = 3) -> build.IconSetSummary:
    concepts = tuple(concept for concept in CONCEPTS if concept.recolourable)[:8]
    build.prepare_folder(destination)
    samples = list(build.write_images(destination, atlas, concepts, ARTISTS, size=32, seed=seed, num_scenes=200))
    licence = Licence("Set", "Somebody", "where", "MIT", "link")
    return build.finish(destination, samples, {**ARGUMENTS, "seed": seed}, {a.key: licence for a in ARTISTS})


@pytest.fixture(scope="module")
def written(tmp_path_factory, atlas) -> build.IconSetSummary:
    return write_set(tmp_path_factory.mktemp("icons"), atlas)


def test_same_seed_same_files(written, tmp_path, atlas):
    again = write_set(tmp_path, atlas)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == again.num_samples + 3
    assert files == sorted(p.relative_to(written.destination) for p in written.destination.rglob("*") if p.is_file())
    assert all((written.destination / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_another_seed_plans_other_scenes(atlas, planned):
    artists = tuple(artist.key for artist in ARTISTS)
    assert list(build.plan_scenes(atlas, CONCEPTS, artists, seed=4, num_scenes=800)) != planned


def test_the_written_records_name_their_images(written):
    records = [json.loads(line) for line in (written.destination / "samples.jsonl").read_text().splitlines()]
    assert len(records) == written.num_samples
    assert {record["split"] for record in records} == set(written.counts)
    assert all((written.destination / record["image_path"]).exists() for record in records)
    assert all(record["captions"] and record["objects"] for record in records)
    assert all(("prompt_id" in record) == (record["split"] == "scenes") for record in records)
    assert "Licence: MIT (link)" in (written.destination / "ATTRIBUTION.md").read_text()


def test_a_complete_folder_is_left_alone_and_another_is_refused(written):
    before = (written.destination / "samples.jsonl").stat().st_mtime_ns
    again = build_icon_set(written.destination, size=32, seed=3, num_scenes=200)
    assert again.already_complete and again.counts == written.counts and again.num_samples == written.num_samples
    assert (written.destination / "samples.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="another folder"):
        build_icon_set(written.destination, size=48, seed=3, num_scenes=200)


def test_without_the_last_file_a_set_is_not_complete(tmp_path, monkeypatch):
    write_text = writing.write_text

    def stop_at_the_end(path: Path, text: str) -> None:
        if path.name == "samples.jsonl":
            raise KeyboardInterrupt
        write_text(path, text)

    monkeypatch.setattr(writing, "write_text", stop_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        build.prepare_folder(tmp_path)
        build.finish(tmp_path, [], ARGUMENTS, {a.key: Licence("Set", "A", "b", "MIT", "c") for a in ARTISTS})
    assert (tmp_path / "manifest.json").exists()
    assert build.read_finished(tmp_path, ARGUMENTS) is None


def test_a_folder_cut_short_does_not_pass_for_whole(tmp_path):
    build.prepare_folder(tmp_path)
    (tmp_path / "images").mkdir()
    assert build.read_finished(tmp_path, ARGUMENTS) is None
    build.prepare_folder(tmp_path)
    assert not (tmp_path / "images").exists()


def test_foreign_images_are_not_deleted(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="new folder"):
        build.prepare_folder(tmp_path)
    assert (tmp_path / "images").exists()


@pytest.mark.parametrize("arguments", [{"size": 16}, {"size": 1024}, {"num_scenes": 0}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(tmp_path, arguments):
    with pytest.raises(UsageError, match="expected"):
        build_icon_set(tmp_path, **arguments)


def test_an_altered_package_is_refused(tmp_path):
    (tmp_path / ARTISTS[0].tarball_name).write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="as pinned"):
        fetch_package(ARTISTS[0], tmp_path)


def test_a_missing_npm_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"install Node\.js"):
        fetch_package(ARTISTS[0], tmp_path)
