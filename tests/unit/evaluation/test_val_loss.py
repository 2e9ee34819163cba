"""The validation loss: beside the training's own, by hand with flips, and the same every time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bitvar.data.views import View
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.val_loss import CLEAN, CORRECTED, ValLossSettings, measure_val_loss
from bitvar.imaging.convert import channels_first
from bitvar.imaging.open import ImageLimits
from bitvar.imaging.pixels import to_signed
from bitvar.pipeline import InfinityPipeline
from bitvar.training.engine.microbatch import Purpose, make_generator
from bitvar.training.transformer.self_correction import random_flip, teacher_forcing
from bitvar.training.transformer.task import CaptionFeatures, FeatureSet, measure_bits
from tests.support.tiny import rough_pipeline, toy_set


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("model"), max_text_tokens=32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_set(tmp_path_factory.mktemp("data") / "toy")


def encoded(pipeline: InfinityPipeline, data: Path, split: str) -> tuple[torch.Tensor, list[str]]:
    rows = [json.loads(line) for line in (data / "samples.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == split]
    files = [(data / row["image_path"]).read_bytes() for row in rows]
    pixels = [channels_first(View().see(file, ImageLimits(), (16, 16))) for file in files]
    return pipeline.tokenizer.features(to_signed(torch.stack(pixels))), [row["captions"][0] for row in rows]


def test_clean_losses_are_those_of_training(pipeline: InfinityPipeline, data: Path) -> None:
    features, captions = encoded(pipeline, data, "val")
    rows = [pipeline.encode_prompts([caption]).features[0] for caption in captions]
    ends = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    held_out = FeatureSet(features, CaptionFeatures(torch.cat(rows), ends), [[i] for i in range(len(captions))])
    schedules = pipeline.transformer.config.all_schedules()
    for reweighted, name in ((False, "loss"), (True, "reweighted_loss")):
        expected = measure_bits(pipeline.transformer, held_out, schedules, reweighted=reweighted)
        report = measure_val_loss(pipeline, data, ValLossSettings(flip_strength=0, batch_size=2))
        found = report["results"][CLEAN]
        assert found[name] == pytest.approx(expected["loss"], abs=1e-6)
        assert found["bit_accuracy"] == pytest.approx(expected["accuracy"], abs=1e-6)
        for k, scale in enumerate(found["scales"]):
            assert scale["loss"] == pytest.approx(expected[f"loss/scale_{k}"], abs=1e-6)
            assert scale["bit_accuracy"] == pytest.approx(expected[f"accuracy/scale_{k}"], abs=1e-6)
    assert list(report["results"]) == [CLEAN]


def test_flipped_losses_by_hand(pipeline: InfinityPipeline, data: Path) -> None:
    """Tokens weigh as in the official script: equally, or by the root of the last scale's area over theirs."""
    features, captions = encoded(pipeline, data, "val")
    schedule = pipeline.transformer.config.all_schedules()[0]
    losses, weighted = [], []
    for number, caption in enumerate(captions):
        generator = make_generator(7, number, Purpose.FLIP)
        flip = random_flip(max_strength=0.3, num_corrected_scales=2, generators=[generator])
        forced = teacher_forcing(features[number : number + 1], schedule, patch_size=1, flip=flip)
        logits = pipeline.transformer(pipeline.encode_prompts([caption]), forced.inputs, schedule)
        each = F.cross_entropy(logits.flatten(0, 2), forced.target_bits.flatten().long(), reduction="none")
        tokens = each.reshape(-1, pipeline.transformer.config.bits).mean(1)
        weights = torch.tensor([(16 / (h * w)) ** 0.5 for h, w in schedule for _ in range(h * w)])
        losses.append(tokens.mean().item())
        weighted.append((tokens @ (weights / weights.sum())).item())
    report = measure_val_loss(pipeline, data, ValLossSettings(flip_strength=0.3, seed=7))["results"][CORRECTED]
    assert report["loss"] == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert report["reweighted_loss"] == pytest.approx(sum(weighted) / 3, abs=1e-5)


def test_the_same_command_gives_the_same_report(pipeline: InfinityPipeline, data: Path) -> None:
    first = measure_val_loss(pipeline, data, ValLossSettings(split="train"))
    assert measure_val_loss(pipeline, data, ValLossSettings(split="train")) == first
    other = measure_val_loss(pipeline, data, ValLossSettings(split="train", seed=1))
    assert other["results"][CORRECTED] != first["results"][CORRECTED]
    assert other["results"][CLEAN] == first["results"][CLEAN]
    batched = measure_val_loss(pipeline, data, ValLossSettings(split="train", batch_size=5))
    assert batched["results"][CORRECTED]["loss"] == pytest.approx(first["results"][CORRECTED]["loss"], abs=1e-6)
    assert first["data"]["images"] == 12 and first["settings"]["sizes"] == ["16x16"]


def test_each_image_takes_the_schedule_of_its_ratio(pipeline: InfinityPipeline, data: Path, tmp_path: Path) -> None:
    from PIL import Image

    rows = []
    for i, size in enumerate([(64, 64), (80, 40), (64, 60), (90, 44)]):
        Image.new("RGB", size, (40 * i, 90, 10)).save(tmp_path / f"{i}.png")
        rows.append({"image_path": f"{i}.png", "captions": [f"a red circle {i}"], "split": "val"})
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = measure_val_loss(pipeline, tmp_path, ValLossSettings())
    assert report["settings"]["sizes"] == ["16x16", "16x8"]
    assert report["data"]["images"] == 4
    assert [scale["images"] for scale in report["results"][CLEAN]["scales"]] == [4, 4, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"split": "test"}, "no samples in the split 'test'"), ({"flip_strength": 1.5}, "is no share")],
    ids=["no such split", "no share"],
)
def test_bad_settings_are_refused(
    pipeline: InfinityPipeline, data: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        measure_val_loss(pipeline, data, ValLossSettings(**settings))


def test_bad_sets_are_refused(pipeline: InfinityPipeline, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no caption"):
        measure_val_loss(pipeline, data / "images", ValLossSettings(split=None))
    row = {"image_path": "broken.png", "captions": ["a dog"], "split": "val"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match="Can't use"):
        measure_val_loss(pipeline, tmp_path, ValLossSettings())
