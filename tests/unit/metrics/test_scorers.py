"""Scoring networks of tiny random weights: loading, names of published tensors, and what is done with images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.errors import WeightsError
from bitvar.metrics.scorers.clip import ClipColours, HpsScorer, clip_from_open_clip, crop_square
from bitvar.metrics.scorers.detector import Mask2FormerDetector
from bitvar.metrics.scorers.folders import ScorerFolder
from bitvar.metrics.scorers.imagereward import ImageRewardScorer, imagereward_from
from tests.support.scorers import (
    imagereward_tensors,
    open_clip_tensors,
    tiny_clip,
    tiny_detector,
    word_tokenizer,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scorers")
    tiny_clip(root / "clip")
    tiny_detector(root / "detector")
    word_tokenizer(root / "words", length=64)
    torch.save({"epoch": 1, "name": "tiny", "state_dict": open_clip_tensors()}, root / "hps.pt")
    torch.save(imagereward_tensors(), root / "imagereward.pt")
    return root


def found(folder: Path) -> ScorerFolder:
    return ScorerFolder(folder.name, folder)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_detections_lie_within_the_image_and_are_sorted(folder: Path) -> None:
    detector = Mask2FormerDetector(found(folder / "detector"), 80, sides=(64, 96))
    objects = detector(noise(40, 30))
    assert objects and all(0 <= entry.label < 80 and 0 < entry.score < 1 for entry in objects)
    for entry in objects:
        rows, columns = entry.mask.nonzero()
        assert entry.mask.shape == (30, 40)
        assert entry.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_detector_of_other_classes_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="it knows 80 classes, and COCO has 81"):
        Mask2FormerDetector(found(folder / "detector"), 81)
    with pytest.raises(WeightsError, match="words can't judge"):
        Mask2FormerDetector(found(folder / "words"), 80)


def test_colours_see_the_object_alone(folder: Path) -> None:
    """What lies outside of the mask is grey, so it can't change the colour."""
    colours = ClipColours(found(folder / "clip"), ("red", "green", "blue"))
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:20, 5:30] = True
    first, second = noise(40, 30), np.array(noise(40, 30, seed=1))
    second[mask] = np.asarray(first)[mask]
    objects = [((5, 5, 30, 20), mask), ((5, 5, 30, 20), None)]
    named = colours(first, objects, "bench"), colours(Image.fromarray(second), objects, "bench")
    assert named[0][0] == named[1][0]
    assert set(named[0]) <= {"red", "green", "blue"}
    assert colours(first, [], "bench") == []


def test_crops_are_squares_of_the_middle() -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    assert np.asarray(crop_square(Image.fromarray(wide), 10)).min() == 255
    assert crop_square(noise(31, 47), 16).size == (16, 16)


def test_hps_scores_are_cosines_that_depend_on_image_and_prompt(folder: Path) -> None:
    scorer = HpsScorer(folder / "hps.pt", found(folder / "clip"))
    images, prompts = [noise(40, 30), noise(40, 30, 1)], ["a red bench", "a blue object"]
    values = scorer(images, prompts)
    assert all(-1 <= value <= 1 for value in values)
    assert scorer(images[:1], prompts[1:])[0] not in values
    assert scorer(images[1:], prompts[1:])[0] == pytest.approx(values[1], abs=1e-6)
    again = HpsScorer(folder / "hps.pt", found(folder / "clip"))
    assert again.sha256 == scorer.sha256 and len(scorer.sha256) == 64


def test_padding_of_other_prompts_changes_no_score(folder: Path) -> None:
    scorer = HpsScorer(folder / "hps.pt", found(folder / "clip"))
    image = noise(20, 20)
    long = "a photo of the red bench there is"
    assert scorer([image, image], ["a bench", long])[0] == pytest.approx(scorer([image], ["a bench"])[0], abs=1e-6)


def test_sizes_follow_from_the_tensors() -> None:
    model = clip_from_open_clip({**open_clip_tensors(width=160), **_text_tower(64)})
    vision, text = model.config.vision_config, model.config.text_config
    assert (vision.hidden_size, vision.num_attention_heads, vision.image_size, vision.num_hidden_layers) == (
        160,
        2,
        28,
        2,
    )
    assert (text.hidden_size, text.num_attention_heads, text.max_position_embeddings) == (64, 1, 16)


def _text_tower(width: int) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in open_clip_tensors(width=width).items() if not name.startswith("visual.")}


def test_imagereward_depends_on_image_and_prompt(folder: Path) -> None:
    scorer = ImageRewardScorer(folder / "imagereward.pt", found(folder / "words"))
    images, prompts = [noise(40, 30), noise(40, 30, 1)], ["a red bench", "a blue object"]
    values = scorer(images, prompts)
    assert scorer(images[:1], prompts[:1])[0] == pytest.approx(values[0], abs=1e-5)
    assert abs(scorer(images[:1], prompts[1:])[0] - values[0]) > 1e-4
    assert abs(scorer(images[1:], prompts[:1])[0] - values[0]) > 1e-4


def test_other_checkpoints_are_refused() -> None:
    with pytest.raises(WeightsError, match="no open_clip checkpoint"):
        clip_from_open_clip(imagereward_tensors())
    with pytest.raises(WeightsError, match="no ImageReward checkpoint"):
        imagereward_from(open_clip_tensors())
    missing = imagereward_tensors()
    del missing["blip.visual_encoder.norm.bias"]
    with pytest.raises(WeightsError, match="no ImageReward checkpoint"):
        imagereward_from(missing)


def test_a_folders_digest_follows_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("1")
    first = found(tmp_path).sha256
    (tmp_path / ".cache").write_text("x")
    assert found(tmp_path).sha256 == first
    (tmp_path / "a.json").write_text("2")
    assert found(tmp_path).sha256 != first
