"""Memorisation, diversity and alignment of scenes, on images made here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.data.samples import read_samples
from bitvar.errors import WeightsError
from bitvar.evaluation.benchmarks.base import GeneratedImage
from bitvar.evaluation.generation.diversity import DiversityMetric, measure_diversity
from bitvar.evaluation.generation.memorisation import (
    COPY,
    MemorisationMetric,
    closeness,
    find_neighbours,
    thumbnails,
)
from bitvar.icons.benchmark.alignment import (
    FOLDER,
    NUM_FEATURES,
    AlignmentConfig,
    AlignmentMetric,
    AlignmentModel,
    AlignmentScorer,
    score_alignment,
)
from bitvar.icons.benchmark.scenes import HELD_OUT, eval_prompts
from bitvar.imaging.batches import as_tensor
from bitvar.metrics.efficientnet import EfficientNet
from bitvar.text import load_text_encoder
from bitvar.weights.hub import EMBEDDED_MODEL
from tests.support.tiny import tiny_text_encoder, toy_set

PROMPTS = eval_prompts()


def squares(folder: Path, name: str, colours: list[tuple[int, int, int]]) -> list[Path]:
    """An image of 64 x 64 pixels for each colour: a square on white."""
    paths = []
    for i, colour in enumerate(colours):
        image = Image.new("RGB", (64, 64), "white")
        image.paste(colour, (16, 16, 48, 48))
        paths.append(folder / f"{name}{i}.png")
        image.save(paths[-1])
    return paths


# Memorisation


def test_the_nearest_training_image_is_found_and_a_copy_counts(tmp_path: Path) -> None:
    training = squares(tmp_path, "train", [(255, 0, 0), (0, 160, 0), (0, 0, 255)])
    images = squares(tmp_path, "made", [(0, 0, 250), (250, 120, 0)])
    neighbours = find_neighbours(thumbnails(images), thumbnails(training))
    assert [(found.image, found.training) for found in neighbours] == [(0, 2), (1, 0)]
    assert neighbours[0].distance < COPY < neighbours[1].distance
    # a quarter of the image differs by 120 of 255 in one of three channels, and by 5 in another
    assert neighbours[1].distance == pytest.approx(((120**2 + 5**2) / 255**2 / 3 / 4) ** 0.5, rel=1e-4)
    found = closeness(neighbours)
    assert (found.num_images, found.copies) == (2, 0.5)
    assert found.median_distance == pytest.approx(sum(each.distance for each in neighbours) / 2)


def test_a_small_distance_keeps_its_digits() -> None:
    training = torch.full((3, 768), 0.9)
    training[1] += 1e-4
    assert find_neighbours(training[1:2], training)[0] == find_neighbours(training[1:2], training)[0]
    assert find_neighbours(training[1:2] + 1e-5, training[1:2])[0].distance == pytest.approx(1e-5, rel=0.1)


def test_more_images_than_pass_at_once() -> None:
    training = torch.rand(40, 768, generator=torch.Generator().manual_seed(0))
    order = torch.randint(40, (1100,), generator=torch.Generator().manual_seed(1))
    found = find_neighbours(training[order], training)
    assert [each.training for each in found] == order.tolist()
    assert [each.image for each in found] == list(range(1100))


# Diversity


class MeanDifference:
    """The mean absolute difference, as a distance."""

    title, name, min_side = "mean difference", "mean", 1

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        return (reconstruction - images).abs().mean(dim=(1, 2, 3))


def test_diversity_is_of_seeds_over_that_of_prompts() -> None:
    def plain(value: float) -> Tensor:
        return torch.full((3, 4, 4), value)

    images = {"a": [plain(0.0), plain(0.1), plain(0.2)], "b": [plain(1.0), plain(1.4)], "alone": [plain(-1.0)]}
    found = measure_diversity(images, MeanDifference())
    assert found is not None
    assert found.num_prompts == 2
    assert found.same_prompt == pytest.approx(((0.1 + 0.2 + 0.1) / 3 + 0.4) / 2)
    assert found.other_prompt == pytest.approx(1.0)
    assert found.ratio == pytest.approx(found.same_prompt)


def test_without_two_seeds_of_two_prompts_there_is_no_diversity() -> None:
    image = torch.zeros(3, 4, 4)
    assert measure_diversity({"a": [image, image], "b": [image]}, MeanDifference()) is None


# Alignment


def test_alignment_counts_images_whose_own_prompt_is_nearest() -> None:
    prompts = torch.eye(3)
    texts = ["a", "b", "c", "a"]
    rows = torch.stack([prompts[0], prompts[1], prompts[2], prompts[0]])
    images = torch.stack([prompts[0], prompts[2], prompts[2], prompts[0]])
    found = score_alignment(images, rows, texts)
    assert (found.num_images, found.num_prompts, found.found) == (4, 3, 0.75)
    assert found.cosine == pytest.approx(75.0)


@pytest.mark.parametrize(
    "changes", [{}, {"width": 32}, {"text_depth": 1}, {"num_heads": 2}, {"text_width": 32}], ids=str
)
def test_towers_learn_which_prompt_belongs_to_which_image(tmp_path: Path, changes: dict[str, int]) -> None:
    torch.manual_seed(0)
    config = AlignmentConfig.parse(
        {"width": 16, "text_width": 64, "text_depth": 2, "num_heads": 4} | changes, source="test"
    )
    model = AlignmentModel(config)
    prompts = ["a red circle", "a blue circle", "a dog on a square", "two cat"]
    condition = tiny_text_encoder(tmp_path).encode(prompts).clone()
    condition = TextCondition(condition.features[..., : config.text_width], condition.mask, condition.dropped)
    seen = torch.randn(4, NUM_FEATURES)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        loss = model.loss(model.embed_images(seen), model.embed_prompts(condition))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        found = score_alignment(model.embed_images(seen), model.embed_prompts(condition), prompts)
        shuffled = score_alignment(model.embed_images(seen.flip(0)), model.embed_prompts(condition), prompts)
    assert found.found == 1.0
    assert shuffled.found == 0.0
    assert found.cosine > shuffled.cosine + 50


def test_padding_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AlignmentModel(AlignmentConfig(width=16, text_width=64)).eval()
    encoder = tiny_text_encoder(tmp_path)
    with torch.inference_mode():
        alone = model.embed_prompts(encoder.encode(["a dog"]))
        among = model.embed_prompts(encoder.encode(["a dog", "two cat on a red square left of a blue circle"]))
    torch.testing.assert_close(alone[0], among[0], atol=1e-5, rtol=1e-4)


# As metrics of a candidate


def images_of(folder: Path, colours: list[tuple[int, int, int]], *, seeds: int = 1) -> list[GeneratedImage]:
    """Images of as many prompts as it takes, `seeds` of each."""
    paths = squares(folder, "shown", colours)
    return [GeneratedImage(PROMPTS[i // seeds], i % seeds, path) for i, path in enumerate(paths)]


def test_memorisation_is_told_by_split_and_shows_the_nearest_pairs(tmp_path: Path) -> None:
    data = toy_set(tmp_path / "set")
    samples = read_samples(data, split="train")
    unseen = next(prompt for prompt in PROMPTS if prompt.split == "unseen")
    shown = [
        GeneratedImage(PROMPTS[0], 0, samples[3].path),
        *images_of(tmp_path, [(0, 255, 255)])[:1],
        GeneratedImage(unseen, 0, samples[5].path),
    ]
    result = MemorisationMetric(data, held_out=HELD_OUT)(shown)
    assert result.values["training_images"] == len(samples)
    assert result.values[PROMPTS[0].split]["num_images"] == 2
    assert result.values[PROMPTS[0].split]["copies"] == 0.5
    assert result.values["unseen"] == {"num_images": 1, "median_distance": 0.0, "copies": 1.0}
    (row,) = result.rows
    assert [cell.title for cell in row.cells] == [unseen.text, samples[5].captions[0]]
    assert row.cells[1].note == "in training, at 0.000"


def test_diversity_needs_two_seeds(tmp_path: Path) -> None:
    metric = DiversityMetric(MeanDifference(), "cpu")
    colours = [(0, 0, 0), (60, 60, 60), (200, 0, 0), (200, 40, 0)]
    assert metric(images_of(tmp_path, colours)).values["ratio"] is None
    values = metric(images_of(tmp_path, colours, seeds=2)).values
    assert values["num_prompts"] == 2
    assert values["same_prompt"] == pytest.approx((3 * 60 + 40) / 2 / 3 / 4 / 127.5, rel=1e-4)
    assert 0 < values["ratio"] < 1


def test_alignment_of_images_of_one_size_and_of_several(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AlignmentModel(AlignmentConfig(width=16, text_width=64))
    scorer = AlignmentScorer(model, EfficientNet(), tiny_text_encoder(tmp_path))
    shown = images_of(tmp_path, [(255, 0, 0), (0, 0, 255), (0, 160, 0)])
    alike = AlignmentMetric(scorer, "cpu")(shown).values
    assert (alike["num_images"], alike["num_prompts"]) == (3, 3)
    assert -100 <= alike["cosine"] <= 100
    with Image.open(shown[1].path) as image:
        image.resize((128, 128), Image.Resampling.NEAREST).save(shown[1].path)
    assert AlignmentMetric(scorer, "cpu")(shown).values["cosine"] == pytest.approx(alike["cosine"], abs=2)


def test_the_towers_of_the_package_know_their_prompts() -> None:
    """On the few real scenes that the tests keep."""
    folder = Path(__file__).parents[1] / "icons" / "scenes"
    prompts = {
        "background-twemoji-bus-blue": "a bus on a blue background",
        "colour-twemoji-heart-green": "a green heart",
        "colour_pair-fluent-3d-red-book-blue-star": "a red book and a blue star",
        "count-fluent-flat-strawberry-3": "three strawberries",
        "position-noto-lion-left-tree": "a lion to the left of a tree",
        "single-noto-fox": "a fox",
        "two-fluent-3d-frog-key": "a frog and a key",
    }
    scorer = AlignmentScorer.load(load_text_encoder(EMBEDDED_MODEL / "text_encoder"))
    images = []
    for name in prompts:
        with Image.open(folder / f"{name}.png") as image:
            images.append(as_tensor([np.asarray(image.convert("RGB"))]))
    texts = list(prompts.values())
    with torch.inference_mode():
        found = score_alignment(scorer.embed_images(iter(images)), scorer.embed_prompts(texts), texts)
    assert found.found == 1.0


def test_altered_towers_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "towers")
    weights = tmp_path / "towers" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="altered"):
        AlignmentScorer.load(tiny_text_encoder(tmp_path), tmp_path / "towers")
