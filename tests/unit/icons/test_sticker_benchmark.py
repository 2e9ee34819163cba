"""The stickers benchmark: scores, atoms and tables by a judge that always sees the same, and the real judge's parts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.errors import UsageError, WeightsError
from bitvar.evaluation.benchmarks.base import Benchmark, EvalItem, GeneratedImage, HasReferences, JudgeInfo
from bitvar.evaluation.generation.items import matched
from bitvar.icons.benchmark.classifier import NUM_FEATURES, NUM_PAINTS, NUM_TEXTURES, ObjectFeatures
from bitvar.icons.stickers.artists import ARTISTS
from bitvar.icons.stickers.benchmark import benchmark as stickers
from bitvar.icons.stickers.benchmark.benchmark import Judge, StickersBenchmark, eval_prompts
from bitvar.icons.stickers.benchmark.calibration import draw_pairs, measure_accuracy
from bitvar.icons.stickers.benchmark.judge import CONCEPT_NAMES, FOLDS, StickerHeads, StickerJudge, fold_of
from bitvar.icons.stickers.benchmark.prompts import read_prompts
from bitvar.icons.stickers.benchmark.references import build_references, reference_images
from bitvar.icons.stickers.benchmark.rules import Detection, Detections
from bitvar.icons.stickers.benchmark.training import ObjectSet, draw_scenes, fit_heads, gather_objects
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.held_out import is_held_out
from bitvar.icons.stickers.sprites import SpriteStore

PROMPTS = eval_prompts()
BOXES = ((0.0, 0.0, 0.4, 0.4), (0.6, 0.0, 1.0, 0.4))


def noting(notes: list[int]) -> Judge:
    """A judge that sees a red cat left of a dog, and notes the heads it is asked for."""

    def detect(images: Float[Tensor, "b 3 256 256"], heads: Sequence[int]) -> list[Detections]:
        notes.extend(heads)
        named = zip(("cat", "dog"), BOXES, strict=True)
        objects = tuple(Detection(box, 0.9, {name: 0.9}, {"red": 0.9}) for name, box in named)
        return [Detections(objects, {"white": 1.0})] * len(images)

    return Judge(JudgeInfo("stub"), detect)


@pytest.fixture
def images(tmp_path: Path) -> list[GeneratedImage]:
    chosen = [prompt for prompt in PROMPTS if prompt.id in ("open-noun-000", "open-noun-001", "seen-three-001")]
    made = []
    for prompt, side in zip(chosen, (64, 256, 300), strict=True):
        Image.new("RGBA", (side, side), (255, 0, 0, 0)).save(tmp_path / f"{prompt.id}.png")
        made.append(GeneratedImage(prompt, 0, tmp_path / f"{prompt.id}.png"))
    return made


def test_it_is_a_benchmark_with_references(tmp_path: Path) -> None:
    made = StickersBenchmark(noting([]), tmp_path)
    assert isinstance(made, Benchmark) and isinstance(made, HasReferences)
    assert len({prompt.id for prompt in made.prompts()}) == len(read_prompts())


def test_scores_have_atoms_and_tables_both_means(images: list[GeneratedImage], tmp_path: Path) -> None:
    benchmark = StickersBenchmark(noting([]), tmp_path / "elsewhere")
    scores = list(benchmark.score(matched(images)))
    by_id = {score.id: score for score in scores}
    assert by_id["open-noun-001"].correct is True  # a cat
    assert by_id["open-noun-000"].correct is False and by_id["open-noun-000"].reasons == ("not dog (saw cat)",)
    assert [kind for kind, _, _ in by_id["seen-three-001"].details["atoms"]] == ["object"] * 3 + ["relation"] * 2
    table = benchmark.summarise(scores)
    rows = {(row.split, row.skill): row.score for row in table.rows}
    assert rows["open", "noun"] == 0.5 and ("open", "atoms") not in rows
    assert rows["seen", "three"] == 0.0
    assert rows["atoms", "name_atom"] == 0.5 and rows["atoms", "relation_atom"] == 0.0
    assert table.unit == "%"


def test_real_images_are_judged_without_their_artist(images: list[GeneratedImage], tmp_path: Path) -> None:
    notes: list[int] = []
    benchmark = StickersBenchmark(noting(notes), tmp_path)
    list(benchmark.score(matched(images)))
    assert notes == [fold_of(image.prompt.payload.artist) for image in images]
    list(benchmark.score([EvalItem(images[0], images[1].prompt)]))
    assert len(notes) == len(images)  # kept
    elsewhere: list[int] = []
    list(StickersBenchmark(noting(elsewhere), tmp_path / "real").score(matched(images)))
    assert elsewhere == [-1] * len(images)


def test_an_image_that_is_not_square_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    image = GeneratedImage(PROMPTS[0], 0, tmp_path / "wide.png")
    with pytest.raises(UsageError, match="square"):
        list(StickersBenchmark(noting([]), tmp_path).score(matched([image])))


def test_references_are_drawn_and_found(store: SpriteStore, tmp_path: Path) -> None:
    some = [prompt for prompt in read_prompts() if prompt.id.endswith("-003")]
    digests = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        build_references(folder, some, store)
        found = reference_images(folder, [prompt for prompt in PROMPTS if prompt.id.endswith("-003")])
        assert [image.open().shape for image in found] == [(256, 256, 3)] * len(some)
        digests.append([image.path.read_bytes() for image in found])
    assert digests[0] == digests[1]
    with pytest.raises(UsageError, match="has no image"):
        reference_images(tmp_path / "one", PROMPTS)
    with pytest.raises(UsageError, match="sticker_references"):
        reference_images(tmp_path / "none", PROMPTS)
    (tmp_path / "two" / "samples.jsonl").write_text(json.dumps({"image_path": "a.png"}) + "\n")
    with pytest.raises(UsageError, match="another set"):
        reference_images(tmp_path / "two", PROMPTS)


def test_folds_have_every_artist_once() -> None:
    assert sorted(artist for artists in FOLDS for artist in artists) == sorted(artist.key for artist in ARTISTS)


def test_heads_answer_alone_or_together() -> None:
    heads, rng = StickerHeads(), torch.Generator().manual_seed(0)
    heads.projection.copy_(torch.randn(heads.projection.shape, generator=rng) / NUM_FEATURES**0.5)
    heads.weight.data.copy_(torch.randn(heads.weight.shape, generator=rng) / 10)
    features = torch.randn(3, NUM_FEATURES, generator=rng)
    seen = ObjectFeatures(features, torch.rand(3, NUM_PAINTS, generator=rng), torch.zeros(3, NUM_TEXTURES))
    concepts, colours = heads(seen, torch.tensor([-1, 0, 3]))
    assert torch.allclose(concepts.sum(dim=1), torch.ones(3)) and torch.allclose(colours.sum(dim=1), torch.ones(3))
    silhouettes = [i for i, concept in enumerate(read_concepts()) if set(concept.drawings) == {"silhouette"}]
    assert (concepts[2, silhouettes] == 0).all() and (concepts[:2, silhouettes] > 0).all()
    alone, _ = heads(ObjectFeatures(features[1:2], seen.paints[1:2], seen.textures[1:2]), torch.tensor([0]))
    assert torch.allclose(concepts[1], alone[0], atol=1e-6)


def test_the_judge_sees_nothing_on_an_empty_image() -> None:
    judge = StickerJudge()
    judge.detector.middle.weight.data.zero_()
    assert judge.detect(torch.ones(2, 3, 256, 256), [-1, 0])[1].objects == ()
    assert judge.detect(torch.ones(1, 3, 256, 256), [-1])[0].background["white"] == 1.0


def test_weights_survive_the_folder_and_its_damage(tmp_path: Path) -> None:
    judge = StickerJudge()
    judge.heads.weight.data.fill_(0.5)
    other = StickerJudge()
    other.take(judge.tensors())
    assert torch.equal(other.heads.weight, judge.heads.weight)
    with pytest.raises(WeightsError):
        StickerJudge.load(tmp_path)


def test_pairs_are_by_other_artists_than_the_real_images(store: SpriteStore) -> None:
    some = [prompt for prompt in read_prompts() if prompt.id.endswith(("-003", "-004"))]
    pairs = list(draw_pairs(some, store, num_each=2, seed=1))
    assert {pair.skill for pair in pairs} == {prompt.skill for prompt in some}
    own = {prompt.scene for prompt in some}
    assert sum(pair.true in own for pair in pairs) == 0
    nothing = measure_accuracy(pairs, [Detections(())] * len(pairs))
    assert all(rates["true_positive_rate"] == 0 and rates["true_negative_rate"] == 1 for rates in nothing.values())


def test_the_judge_learns_from_every_drawing_in_the_folds_that_know_it(store: SpriteStore) -> None:
    names = ("apple", "violin", "lighthouse")
    concepts = [concept for concept in read_concepts() if concept.name in names]
    objects = gather_objects(concepts, store, StickerJudge().network, seed=0, log=lambda text: None)
    drawings = sum(len(concept.drawings) for concept in concepts)
    assert len(objects.features) >= 2 * drawings and objects.features.dtype == torch.float16
    assert set(objects.concepts.tolist()) <= {-1, 0, 1, 2}
    assert torch.isfinite(objects.features.float()).all()


def test_detector_scenes_are_not_held_out(store: SpriteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list(draw_scenes(read_concepts(), store, number=12, seed=5))
    assert len(drawn) == 12
    for scene in drawn:
        assert scene.image.size == (64, 64)
        assert all(0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64 for x0, y0, x1, y1 in scene.boxes)
    assert is_held_out(PROMPTS[250].payload)


def test_heads_learn_what_features_tell() -> None:
    rng = np.random.default_rng(0)
    number, classes = 1024, 4
    concepts = torch.arange(number) % classes
    centres = torch.from_numpy(rng.normal(0, 1, (classes, NUM_FEATURES))).float()
    features = centres[concepts] + torch.from_numpy(rng.normal(0, 0.5, (number, NUM_FEATURES))).float()
    artists = torch.from_numpy(rng.integers(0, len(ARTISTS), number))
    paints = torch.rand(number, NUM_PAINTS, generator=torch.Generator().manual_seed(0))
    objects = ObjectSet(features.half(), paints.half(), concepts, torch.zeros(number, dtype=torch.long), artists)
    heads = StickerHeads()
    fit_heads(heads, objects, num_epochs=1, generator=torch.Generator().manual_seed(0))
    answers = heads.concepts(heads.reduce(features)).argmax(dim=2)
    assert (answers == concepts[:, None]).float().mean() > 0.9


@pytest.mark.skipif(not (stickers.FOLDER / "model.safetensors").is_file(), reason="the judge is not trained yet")
def test_the_judge_in_the_package_knows_its_errors() -> None:
    judge: Any = stickers.load_judge("cpu")
    assert {prompt.skill for prompt in PROMPTS} == set(judge.info.accuracy)
    assert all(rates["true_positive_rate"] > 0.5 for rates in judge.info.accuracy.values())
    assert sum(path.stat().st_size for path in stickers.FOLDER.iterdir()) <= 4 * 2**20
    assert len(CONCEPT_NAMES) == 1024
