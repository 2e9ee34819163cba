"""The scene judge: its network, its parts on simple images, and the packaged one on real scenes."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.errors import UsageError, WeightsError
from bitvar.icons.benchmark.classifier import (
    NUM_FEATURES,
    background_shares,
    concept_fold,
    cut_out,
    object_paints,
    outside_boxes,
)
from bitvar.icons.benchmark.detections import Detection, Detections, Thresholds
from bitvar.icons.benchmark.detector import GRID, find_objects, targets
from bitvar.icons.benchmark.judge import FOLDER, JudgeConfig, SceneJudge, resize
from bitvar.icons.benchmark.judge_calibration import PAIR_KINDS, as_images, draw_calibration_pairs, measure_accuracy
from bitvar.icons.benchmark.judge_training import gather_training_set, train_classifier, train_detector
from bitvar.icons.benchmark.rules import judge_scene
from bitvar.icons.dataset.concepts import CONCEPTS, Concept
from bitvar.icons.dataset.free_scenes import draw_free_scene
from bitvar.icons.dataset.judge_artists import JUDGE_ARTISTS, render_known_sprites
from bitvar.icons.dataset.render import SpriteAtlas
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec
from bitvar.icons.dataset.sources import ARTISTS
from bitvar.metrics import efficientnet
from bitvar.metrics.efficientnet import STAGE_CHANNELS, STAGE_STRIDES, EfficientNet

SCENES = Path(__file__).parent / "scenes"
KNOWN = [concept for concept in CONCEPTS if concept.name in ("car", "cat", "apple", "dog")]


@pytest.fixture(scope="module")
def network() -> EfficientNet:
    return EfficientNet()


@pytest.fixture(scope="module")
def judge() -> SceneJudge:
    return SceneJudge.load()


def blocks(artists: tuple[str, ...] = ("noto", "twemoji")) -> tuple[SpriteAtlas, dict[str, list[Concept]]]:
    """Plain squares as drawings."""
    colours = {
        "car": (200, 40, 40, 255),
        "cat": (40, 90, 200, 255),
        "apple": (30, 160, 60, 255),
        "dog": (90, 60, 30, 255),
    }
    sprites = {name: Image.new("RGBA", (24, 24), colour) for name, colour in colours.items()}
    return SpriteAtlas(dict.fromkeys(artists, sprites)), dict.fromkeys(artists, KNOWN)


def scene(name: str) -> torch.Tensor:
    return as_images([Image.open(SCENES / f"{name}.png")])


# The network.


def test_the_network_sees_what_the_publishers_code_saw(network: EfficientNet) -> None:
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64).sin()
    features = network.features(image)[0]
    # of the package's own code in single precision; halved kernels move them by 0.7 % of their length here
    assert features.norm() == pytest.approx(9.0329, rel=0.01)


def test_stages_have_their_channels_and_strides(network: EfficientNet) -> None:
    maps = network.stages(torch.zeros(2, 3, 96, 64))
    assert [tuple(stage.shape) for stage in maps] == [
        (2, channels, 96 // stride, 64 // stride)
        for channels, stride in zip(STAGE_CHANNELS, STAGE_STRIDES, strict=True)
    ]


def test_an_altered_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "efficientnet_lite0"
    shutil.copytree(efficientnet.FOLDER, folder)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    monkeypatch.setattr(efficientnet, "FOLDER", folder)
    with pytest.raises(WeightsError, match="was altered"):
        EfficientNet()
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="install bitvar again"):
        EfficientNet()


# The parts.


def test_targets_are_found_again() -> None:
    boxes = [(0.05, 0.1, 0.45, 0.5), (0.55, 0.5, 0.95, 0.95)]
    middles, distances, weights = targets(boxes)
    assert int((middles == 1).sum()) == 2
    assert bool((weights[middles == 1] == 1).all())
    found = find_objects((torch.logit(middles.clamp(1e-4, 1 - 1e-4))[None], distances[None]), threshold=0.5)[0]
    assert sorted(box for _, box in found) == [pytest.approx(box, abs=1e-5) for box in boxes]
    assert not find_objects((torch.full((1, GRID, GRID), -9.0), distances[None]), threshold=0.5)[0]


def test_of_two_boxes_on_one_object_the_surer_stays() -> None:
    logits = torch.full((1, GRID, GRID), -9.0)
    logits[0, 4, 4], logits[0, 4, 7] = 3.0, 2.0
    found = find_objects((logits, torch.full((1, 4, GRID, GRID), 0.3)), threshold=0.5)[0]
    assert len(found) == 1
    assert found[0][0] == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item())


def test_the_background_is_what_no_box_covers() -> None:
    image = torch.tensor([252.0, 230.0, 118.0])[:, None, None].expand(3, 64, 64) / 127.5 - 1
    image = image.clone()
    image[:, 16:48, 16:48] = -1.0
    box = (0.25, 0.25, 0.75, 0.75)
    assert background_shares(outside_boxes(image, [box]))["yellow"] == pytest.approx(1.0)
    assert background_shares(outside_boxes(image, []))["yellow"] == pytest.approx(0.75)
    assert background_shares(outside_boxes(image, [(0.0, 0.0, 1.0, 1.0)]))["yellow"] == pytest.approx(1.0)
    assert sum(background_shares(torch.zeros(3, 5)).values()) == 0.0  # mid-grey is no background


def test_a_cut_out_shows_the_object_and_not_its_neighbours() -> None:
    image = torch.ones(1, 3, 64, 64)
    image[0, :, 8:56, 4:28] = -1.0  # tall, on the left
    image[0, :, 8:56, 36:60] = 0.0  # its neighbour
    box = torch.tensor([[4 / 64, 8 / 64, 28 / 64, 56 / 64]])
    crop = cut_out(image, torch.tensor([0]), box, torch.ones(1, 3))[0]
    assert float(crop[0, 64, 64]) == -1.0
    assert set(crop.unique().tolist()) & {0.0} == set()
    assert float((crop < 0).float().mean()) == pytest.approx(0.5 / 1.12**2, abs=0.03)


def test_paints_leave_the_background_out() -> None:
    crops = torch.ones(1, 3, 128, 128)
    crops[0, :, :64] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    paints = object_paints(crops, torch.ones(1, 3)).reshape(6, 6, 6)
    assert float(paints[5, 0, 0]) == pytest.approx(1.0)
    assert float(object_paints(torch.ones(1, 3, 128, 128), torch.ones(1, 3)).sum()) == 0.0


def test_folds_halve_the_concepts() -> None:
    folds = [concept_fold(concept.name) for concept in CONCEPTS]
    assert 60 < sum(folds) < 93


# The judge's artists.


def test_drawings_are_found_by_the_packages_names(tmp_path: Path) -> None:
    body = '<rect width="8" height="8" fill="red"/>'
    icons = {"aubergine": {"body": body}, "bunny": {"body": body}, "loudlycrying": {"body": body}}
    aliases = {"cow": {"parent": "bunny"}, "cowface": {"parent": "bunny"}}
    tarball = tmp_path / "package.tgz"
    data = json.dumps({"icons": icons, "aliases": aliases, "width": 16, "height": 16}).encode()
    with tarfile.open(tarball, "w:gz") as archive:
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    artist = next(artist for artist in JUDGE_ARTISTS if artist.key == "fxemoji")
    drawings = render_known_sprites(artist, tarball, CONCEPTS, side=32)
    assert set(drawings) == {"eggplant", "rabbit", "crying face", "cow"}
    assert drawings["eggplant"].size == (16, 16)


def test_the_judges_artists_are_not_the_generators() -> None:
    assert not {artist.package for artist in JUDGE_ARTISTS} & {artist.package for artist in ARTISTS}
    assert len({artist.key for artist in (*JUDGE_ARTISTS, *ARTISTS)}) == len(JUDGE_ARTISTS) + len(ARTISTS)


# Learning.


def test_free_scenes_are_true_and_vary() -> None:
    atlas, drawable = blocks()
    scenes = [draw_free_scene(atlas, drawable, size=64, rng=np.random.default_rng(seed)) for seed in range(60)]
    assert {len(scene.objects) for scene in scenes} >= {1, 2, 3, 4}
    assert {scene.artist for scene in scenes} == {"noto", "twemoji"}
    for drawn in scenes:
        assert drawn.image.size == (64, 64)
        assert len(drawn.boxes) == len(drawn.objects)
        for index, (left, top, right, bottom) in enumerate(drawn.boxes):
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 64
            for other in drawn.boxes[:index]:
                assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_small_judge_learns_squares(network: EfficientNet) -> None:
    atlas, drawable = blocks()
    rng = np.random.default_rng(0)
    scenes = [draw_free_scene(atlas, drawable, size=64, rng=rng) for _ in range(24)]
    generator = torch.Generator().manual_seed(0)
    said: list[str] = []
    detector = train_detector(scenes, num_steps=100, generator=generator, batch_size=2, log=said.append)
    assert len(said) == 1
    training_set = gather_training_set(scenes, network, rng=rng)
    assert training_set.features.shape == (len(training_set.artists), NUM_FEATURES)
    assert len(training_set.select(lambda artist: artist == "noto").artists) == training_set.artists.count("noto")
    state = torch.get_rng_state()
    classifier = train_classifier(training_set, training_set, num_epochs=30, generator=generator)
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        reading = classifier(training_set.object_features())
    assert float((reading.concepts.argmax(dim=1) == training_set.concepts).float().mean()) > 0.6
    assert not detector.training


def test_claims_are_true_and_false() -> None:
    atlas, drawable = blocks()
    rng = np.random.default_rng(0)
    pairs = list(draw_calibration_pairs(atlas, drawable, num_each=4, size=64, rng=rng, styles=("noto", "twemoji")))
    assert [pair.kind for pair in pairs[::4]] == list(PAIR_KINDS)
    assert all(pair.true != pair.false for pair in pairs)
    assert not any(
        pair.kind == "style" for pair in draw_calibration_pairs(atlas, drawable, num_each=1, size=64, rng=rng)
    )
    told = [_truth(pair.true) for pair in pairs]
    for kind, found in measure_accuracy(pairs, told).items():
        assert (found["true_positive_rate"], found["true_negative_rate"], found["num_images"]) == (1.0, 1.0, 4), kind
    blind = measure_accuracy(pairs, told, Thresholds(concept=1.0))
    assert all(found["balanced_accuracy"] == 0.5 for kind, found in blind.items() if kind != "background")


def _truth(spec: SceneSpec) -> Detections:
    """What a judge without errors sees."""
    places = {"left": (0.0, 0.4), "right": (0.6, 0.4), "above": (0.4, 0.0), "below": (0.4, 0.6), None: (0.0, 0.4)}
    x, y = places[spec.relation]
    starts = [(x, y), (0.4 if spec.relation in ("above", "below") else 0.6 - x, 0.6 - y if y != 0.4 else y)]
    objects = tuple(
        Detection((*starts[index % 2], starts[index % 2][0] + 0.2, starts[index % 2][1] + 0.2), 1.0, *_read(item))
        for index, item in enumerate(spec.objects * spec.count)
    )
    return Detections(objects, {spec.background: 1.0}, {spec.artist: 1.0})


def _read(item: ObjectSpec) -> tuple[dict[str, float], dict[str, float]]:
    return {item.concept: 0.9}, {item.colour or "own": 1.0}


# The judge of the package.


def test_real_scenes_are_judged_rightly(judge: SceneJudge) -> None:
    asked = {
        "single-noto-fox": SceneSpec("single", "noto", (ObjectSpec("fox"),)),
        "background-twemoji-bus-blue": SceneSpec("background", "twemoji", (ObjectSpec("bus"),), background="blue"),
        "count-fluent-flat-strawberry-3": SceneSpec("count", "fluent-flat", (ObjectSpec("strawberry"),), count=3),
        "colour_pair-fluent-3d-red-book-blue-star": SceneSpec(
            "colour_pair", "fluent-3d", (ObjectSpec("book", "red"), ObjectSpec("star", "blue"))
        ),
        "position-noto-lion-left-tree": SceneSpec(
            "position", "noto", (ObjectSpec("lion"), ObjectSpec("tree")), relation="left"
        ),
        "colour-twemoji-heart-green": SceneSpec("colour", "twemoji", (ObjectSpec("heart", "green"),)),
        "two-fluent-3d-frog-key": SceneSpec("two", "fluent-3d", (ObjectSpec("frog"), ObjectSpec("key"))),
    }
    all_detections = dict(zip(asked, judge.detect(torch.cat([scene(name) for name in asked])), strict=True))
    for name, spec in asked.items():
        skill = name.split("-")[0].replace("background", "single")
        judgement = judge_scene(all_detections[name], spec, skill)
        assert judgement.correct, f"{name}: {judgement.reasons}"
    fox = asked["single-noto-fox"]
    assert not judge_scene(all_detections["two-fluent-3d-frog-key"], fox, "single").correct
    assert judge_scene(all_detections["single-noto-fox"], fox, "style").correct


def test_a_image_is_seen_alike_alone_and_larger(judge: SceneJudge) -> None:
    images = torch.cat([scene("single-noto-fox"), scene("two-fluent-3d-frog-key"), scene("colour-twemoji-heart-green")])
    alone, among = judge.detect(images[1:2])[0], judge.detect(images)[1]
    assert [s.concept for s in alone.objects] == [s.concept for s in among.objects]
    assert alone.objects[0].box == pytest.approx(among.objects[0].box, abs=1e-4)
    large = judge.detect(torch.nn.functional.interpolate(images[1:2], scale_factor=2.0, mode="nearest"))[0]
    assert {s.concept for s in large.objects} == {"frog", "key"}
    assert resize(torch.full((1, 3, 128, 128), 2.0)).max() == 1.0


def test_nothing_is_seen_on_an_empty_image(judge: SceneJudge) -> None:
    detections = judge.detect(torch.ones(1, 3, 64, 64))[0]
    assert not detections.objects
    assert not detections.style
    assert detections.background["white"] == pytest.approx(1.0)


def test_images_that_are_not_square_are_refused(judge: SceneJudge) -> None:
    with pytest.raises(UsageError, match="64 x 32"):
        judge.detect(torch.zeros(1, 3, 32, 64))


def test_an_altered_judge_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(FOLDER, folder)
    config = JudgeConfig.load(folder / "config.json")
    (folder / "config.json").write_text(config.override(["detection=0.9"]).dump(), encoding="utf-8")
    with pytest.raises(WeightsError):
        SceneJudge.load(folder)


def test_a_judge_of_other_concepts_is_refused(tmp_path: Path) -> None:
    from bitvar.weights.digests import write_manifest

    folder = tmp_path / "judge"
    shutil.copytree(FOLDER, folder)
    (folder / "config.json").write_text(JudgeConfig(concepts=("dog",)).dump(), encoding="utf-8")
    write_manifest(folder)
    with pytest.raises(UsageError, match="knows 1 concepts"):
        SceneJudge.load(folder)


def test_a_judge_that_wants_to_be_sure_sees_less(judge: SceneJudge) -> None:
    strict = SceneJudge(judge.config.override(["detection=1.0"]))
    strict.detector, strict.classifier = judge.detector, judge.classifier
    assert not strict.detect(scene("single-noto-fox"))[0].objects


def test_the_judge_is_small_and_states_its_errors() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 5_000_000
    from bitvar.config import read_json

    metrics = read_json(FOLDER / "metrics.json")
    assert set(metrics["by_kind"]) == set(PAIR_KINDS)
