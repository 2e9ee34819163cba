"""Quality in a call: presets, what takes precedence, the record, and together with an edit."""

from typing import Any

import pytest
import torch
from PIL import Image

from bitvar.errors import UsageError
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.pipeline.record import ImageRecord
from bitvar.sampling.quality import PRESETS, QualityOptions
from tests.support.tiny import rough_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("tiny"))


def bits(pipe: InfinityPipeline, **options: Any) -> list[torch.Tensor]:
    return list(pipe("a red dog", output_type="bits", **{"seed": 1, **options}).images)


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_none_and_empty_options_change_nothing(pipe: InfinityPipeline) -> None:
    plain = bits(pipe)
    assert same(bits(pipe, quality=None), plain) and same(bits(pipe, quality={}), plain)
    assert "quality" not in pipe("a red dog", seed=1).metadata[0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_options(pipe: InfinityPipeline, name: str) -> None:
    assert same(bits(pipe, quality=name), bits(pipe, quality=PRESETS[name]))


@pytest.mark.parametrize("options", [{"confidence": 0.55}, {"spatial_guidance": 1.0}, {"temperature": (0.1, 2.0)}])
def test_options_change_images(pipe: InfinityPipeline, options: dict[str, Any]) -> None:
    temperature = {} if "temperature" in options else {"temperature": 0.1}
    assert not same(bits(pipe, quality=options, **temperature), bits(pipe, **temperature))


def test_the_call_takes_precedence_over_the_preset(pipe: InfinityPipeline) -> None:
    options = {"temperature": 0.5, "guidance_scale": (1.0, 3.0)}
    metadata = pipe("a red dog", seed=1, quality=options, guidance_scale=2.5).metadata[0]
    assert (metadata["temperature"], metadata["guidance_scale"]) == (0.5, 2.5)
    metadata = pipe("a red dog", seed=1, quality=options).metadata[0]
    assert metadata["guidance_scale"] == (1.0, 2.0, 3.0), "a curve, read at each scale"
    assert same(bits(pipe, quality={"temperature": 0.5}), bits(pipe, temperature=0.5))


def test_the_record_repeats_the_image(pipe: InfinityPipeline) -> None:
    options = {"temperature": 0.1, "confidence": (0.55, 1.0), "spatial_guidance": (1.0, 0.0)}
    metadata = pipe("a red dog", seed=1, quality=options).metadata[0]
    record = ImageRecord.model_validate_json(ImageRecord.of(metadata).json_text())
    assert record.quality == QualityOptions(**options)
    again = bits(pipe, quality=record.quality, temperature=record.temperature, guidance_scale=record.guidance_scale)
    assert same(again, bits(pipe, quality=options))


def test_a_request_with_quality_survives_json(pipe: InfinityPipeline) -> None:
    request = GenerationRequest.from_options("a dog", {"quality": "varied"}, source="a test")
    assert request.quality == PRESETS["varied"]
    assert GenerationRequest.model_validate_json(request.model_dump_json()) == request


def test_an_edit_takes_quality(pipe: InfinityPipeline) -> None:
    image = Image.new("RGB", (16, 16), "red")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (8, 0, 16, 16))
    options: dict[str, Any] = {"seed": 1, "temperature": 0.1, "output_type": "bits"}
    kept = pipe.edit("a dog", image=image, mask=mask, strength=0.0, quality={"confidence": 0.55}, **options)
    drawn = pipe.edit("a dog", image=image, mask=mask, quality={"confidence": 0.55}, **options)
    plain = pipe.edit("a dog", image=image, mask=mask, **options)
    assert kept.metadata[0]["edit"] and kept.metadata[0]["quality"] == {"confidence": 0.55}
    assert not same(list(drawn.images), list(plain.images))


@pytest.mark.parametrize("wrong", ["best", 3, {"confidence": 2}, ["sharp"]])
def test_unknown_qualities_are_refused(pipe: InfinityPipeline, wrong: Any) -> None:
    with pytest.raises(UsageError):
        pipe("a dog", quality=wrong)
