"""The sticker set: its table of concepts, its scenes and captions, and files that depend on seed and index only."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvar.icons.dataset.concepts import CONCEPTS
from bitvar.icons.dataset.prompts import read_prompts
from bitvar.icons.dataset.sources import ARTISTS as FIRST_ARTISTS
from bitvar.icons.dataset.sources import Artist, Licence
from bitvar.icons.stickers import build
from bitvar.icons.stickers.artists import ARTISTS, ONE_COLOUR
from bitvar.icons.stickers.captions import draw_captions
from bitvar.icons.stickers.concepts import StickerConcept, read_concepts
from bitvar.icons.stickers.render import draw_scene
from bitvar.icons.stickers.scenes import SceneSampler
from bitvar.icons.stickers.spec import LAYOUTS, Item, Scene
from bitvar.icons.stickers.sprites import SpriteStore, build_sprites, file_name, missing_sprites, read_licences

BY_NAME = {concept.name: concept for concept in read_concepts()}
STYLES = {artist.key: artist.style for artist in ARTISTS}


@pytest.fixture(scope="module")
def scenes(store: SpriteStore) -> list[Scene]:
    sampler = SceneSampler(read_concepts(), store, seed=0)
    return [sampler.scene("train", index) for index in range(1500)]


def test_the_table_names_everything_once_and_has_what_it_promises() -> None:
    concepts = read_concepts()
    said = Counter(word for concept in concepts for word in (concept.name, *concept.synonyms))
    assert [word for word, times in said.items() if times > 1] == []
    assert len(concepts) >= 600 and len(ARTISTS) >= 8
    assert len({file_name(concept.name) for concept in concepts}) == len(concepts)
    assert {"puppy", "kitten", "automobile", "violin", "lighthouse", "teapot", "dragon"} <= set(said)


def test_the_concepts_of_the_first_set_keep_their_names_and_artists() -> None:
    for concept in CONCEPTS:
        found = BY_NAME[concept.name]
        assert (found.plural, found.recolourable) == (concept.plural, concept.recolourable)
        assert {artist.key for artist in FIRST_ARTISTS} <= set(found.drawings)


def test_scenes_have_every_layout_and_stay_in_their_artist(scenes: list[Scene]) -> None:
    assert {scene.layout for scene in scenes} == set(LAYOUTS)
    assert {scene.count for scene in scenes} == set(range(1, 7))
    assert {len(scene.items) for scene in scenes} == {1, 2, 3, 4}
    assert {scene.background for scene in scenes} > {None, "white", "black"}
    for scene in scenes:
        assert all(scene.artist in BY_NAME[item.concept].drawings for item in scene.items)
        coloured = [item for item in scene.items if item.colour]
        assert all(scene.artist in ONE_COLOUR or BY_NAME[item.concept].recolourable for item in coloured)


def test_a_scene_depends_on_seed_split_and_index(store: SpriteStore) -> None:
    one, other = (SceneSampler(read_concepts(), store, seed=3) for _ in range(2))
    places = [(split, index) for split in ("train", "val") for index in (0, 7, 6000, 20_000)]
    backwards = {place: other.scene(*place) for place in reversed(places)}
    assert [one.scene(*place) for place in places] == [backwards[place] for place in places]
    assert len({one.scene(*place) for place in places}) == len(places)


def test_one_lap_shows_every_drawing_once(store: SpriteStore) -> None:
    sampler = SceneSampler(read_concepts(), store, seed=0)
    number = len(sampler.shown)
    order = [sampler.scene("train", index) for index in range(0, number, 97)]
    assert len(order) == len({(scene.artist, scene.items) for scene in order})


def test_objects_keep_apart_and_in_the_image(scenes: list[Scene], store: SpriteStore) -> None:
    for number, scene in enumerate(scenes[:300]):
        image, boxes = draw_scene(scene, store, size=128, rng=np.random.default_rng(number))
        assert image.size == (128, 128) and len(boxes) == len(scene.items) * scene.count
        assert all(0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 128 for x0, y0, x1, y1 in boxes)
        for i, (a, b, c, d) in enumerate(boxes):
            for e, f, g, h in boxes[i + 1 :]:
                assert c <= e or g <= a or d <= f or h <= b, scene
        alpha = np.asarray(image)[..., 3]
        assert (alpha.min() == 255) == (scene.background is not None)


def test_layouts_are_as_they_are_called(scenes: list[Scene], store: SpriteStore) -> None:
    for number, scene in enumerate(scenes):
        if scene.layout not in ("left", "above", "row", "column"):
            continue
        axis = 0 if scene.layout in ("left", "row") else 1
        _, boxes = draw_scene(scene, store, size=96, rng=np.random.default_rng(number))
        starts = [box[axis] for box in boxes]
        assert starts == sorted(starts), scene


def test_captions_say_what_is_there(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    for scene in scenes:
        style = STYLES[scene.artist]
        first, *others = draw_captions(scene, BY_NAME, style=style, rng=rng)
        assert style in first.replace("Silhouette", "silhouette")
        for text in (first, *others):
            said = text.lower()
            for item in scene.items:
                concept = BY_NAME[item.concept]
                words = (concept.name, concept.plural, *concept.synonyms)
                assert any(word.lower() in said for word in words), (text, item)
                assert item.colour is None or item.colour in said
                assert item.size is None or item.size in said
            assert scene.background is None or scene.background in said


def test_captions_use_no_wording_of_the_paraphrased_prompts(scenes: list[Scene]) -> None:
    paraphrased = {prompt.prompt for prompt in read_prompts() if prompt.split == "paraphrase"}
    rng = np.random.default_rng(0)
    captions = {text for scene in scenes for text in draw_captions(scene, BY_NAME, style="x", rng=rng)}
    assert not captions & paraphrased


@pytest.mark.parametrize(
    ("name", "said", "never"),
    [
        ("cup of coffee", ("a cup of coffee", "coffee"), "a coffee"),
        ("peanut", ("a peanut", "peanuts"), "a peanuts"),
        ("pair of scissors", ("a pair of scissors", "scissors"), "a scissors"),
        ("dog", ("a dog", "a puppy"), "an dog"),
    ],
)
def test_people_say_some_words_without_an_article(name: str, said: tuple[str, ...], never: str) -> None:
    rng = np.random.default_rng(0)
    scene = Scene("noto", "single", (Item(name),))
    texts = [text for _ in range(200) for text in draw_captions(scene, BY_NAME, style="x", rng=rng)]
    assert all(words in texts for words in said)
    assert not any(never in text for text in texts)


def test_files_are_the_same_for_any_number_of_processes(
    store: SpriteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_CHUNK", 4)
    monkeypatch.setattr(build, "fetch_package", lambda *arguments, **options: pytest.fail("nothing is missing"))
    digests = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        number = build.build_sticker_set(
            folder, sprites=store.folder, downloads=tmp_path, size=64, counts=(9, 3), processes=processes
        )
        assert number == 12
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests.append([(path.relative_to(folder), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
    attribution = (tmp_path / "1" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(artist.package in attribution and f"those of {artist.key}" in attribution for artist in ARTISTS)


def test_a_concept_is_read_as_written() -> None:
    assert isinstance(BY_NAME["dog"], StickerConcept) and "puppy" in BY_NAME["dog"].synonyms


def test_only_missing_drawings_are_asked_for(store: SpriteStore, tmp_path: Path) -> None:
    asked: list[str] = []

    def fetch(artist: Artist) -> Path:
        asked.append(artist.key)
        return tmp_path / "package.tgz"

    concepts = [BY_NAME["dog"], BY_NAME["lighthouse"]]
    for artist in ("noto", "silhouette"):
        (tmp_path / artist).mkdir()
    Image.new("RGBA", (8, 8), "red").save(tmp_path / "noto" / file_name("dog"), lossless=True)
    licence = Licence("Noto", "Google", "https://authors", "Apache 2.0", "https://licence")
    (tmp_path / "noto" / "licence.json").write_text(json.dumps(asdict(licence)), encoding="utf-8")
    write_package(tmp_path / "package.tgz", spdx="CC-BY-3.0")
    artists = [artist for artist in ARTISTS if artist.key in ("noto", "silhouette")]
    assert [len(missing_sprites(tmp_path, artist, concepts)) for artist in artists] == [0, 1]
    assert build_sprites(tmp_path, artists, concepts, fetch=fetch) == 1
    assert asked == ["silhouette"]
    assert SpriteStore(tmp_path).sprite("silhouette", "lighthouse").size == (256, 128)
    assert build_sprites(tmp_path, artists, concepts, fetch=fetch) == 0
    assert asked == ["silhouette"]
    found = read_licences(tmp_path, artists)
    assert (found["noto"], found["silhouette"].authors) == (licence, "Somebody")


def test_a_package_under_another_licence_is_refused(tmp_path: Path) -> None:
    write_package(tmp_path / "package.tgz", spdx="CC-BY-NC-4.0")
    silhouettes = [artist for artist in ARTISTS if artist.key == "silhouette"]
    with pytest.raises(RuntimeError, match="not openly licensed"):
        build_sprites(tmp_path, silhouettes, [BY_NAME["lighthouse"]], fetch=lambda artist: tmp_path / "package.tgz")
    assert list((tmp_path / "silhouette").iterdir()) == []


def write_package(path: Path, *, spdx: str) -> None:
    """A package of one drawing, a lighthouse twice as wide as high."""
    icons = {"icons": {"lighthouse": {"body": '<rect width="16" height="8" fill="red"/>'}}, "width": 16, "height": 16}
    info = {
        "name": "Drawings",
        "author": {"name": "Somebody", "url": "https://authors"},
        "license": {"title": spdx, "spdx": spdx, "url": "https://licence"},
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"icons.json": icons, "info.json": info}.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
