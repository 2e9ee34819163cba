"""Backgrounds of images: a model that draws opacity, and one that doesn't, as images, arrays, records and files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.errors import UsageError
from bitvar.imaging.alpha import flatten, take_off_white
from bitvar.imaging.convert import channels_last
from bitvar.imaging.pixels import to_uint8
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.pipeline.image_files import encode_image, resize_as_recorded
from bitvar.pipeline.record import ImageRecord, read_record
from tests.support.tiny import tiny_pipeline

PROMPT = "a red dog"


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    """A model that draws opacity."""
    return tiny_pipeline(tmp_path_factory.mktemp("clear"), image_channels=4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("plain"))


def test_images_are_drawn_as_the_model_draws_them(clear: InfinityPipeline, plain: InfinityPipeline) -> None:
    assert plain(PROMPT, seed=1).images[0].mode == plain(PROMPT, seed=1, background="opaque").images[0].mode == "RGB"
    (image,) = clear(PROMPT, seed=1).images
    assert image.mode == "RGBA" and len(set(image.getchannel("A").get_flattened_data())) > 1
    assert clear(PROMPT, seed=1, background="transparent").images[0].tobytes() == image.tobytes()


def test_an_opaque_image_is_the_one_on_white(clear: InfinityPipeline) -> None:
    drawn = clear([PROMPT, "a cat"], seed=1, output_type="pt", background="opaque")
    assert drawn.images.shape == (2, 4, 16, 16)  # the model's own channels, whatever the background
    expected = channels_last(to_uint8(drawn.images))[..., :3]
    opaque = {form: clear([PROMPT, "a cat"], seed=1, output_type=form, background="opaque") for form in ("pil", "np")}
    assert (opaque["np"].images == expected).all()
    assert [(image.mode, image.tobytes()) for image in opaque["pil"].images] == [
        ("RGB", one.tobytes()) for one in expected
    ]


def test_the_forms_agree(clear: InfinityPipeline) -> None:
    pil, array, tensor = (clear(PROMPT, seed=1, output_type=form).images for form in ("pil", "np", "pt"))
    assert (tensor.shape, array.shape, pil[0].mode) == ((1, 4, 16, 16), (1, 16, 16, 4), "RGBA")
    assert (np.asarray(pil[0]) == array[0]).all()
    assert (array == take_off_white(channels_last(to_uint8(tensor)))).all()


def test_previews_lie_on_the_background(clear: InfinityPipeline) -> None:
    for background, mode in (("auto", "RGBA"), ("transparent", "RGBA"), ("opaque", "RGB")):
        request = GenerationRequest(prompts=(PROMPT,), seed=1, background=background)
        for event in clear.stream_request(request):
            assert [(one.mode, one.size) for one in (*event.preview(), *event.preview(8))] == [
                (mode, (16, 16)),
                (mode, (8, 8)),
            ]


def test_a_model_without_opacity_draws_nothing_transparent(
    plain: InfinityPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain.transformer, "forward", None)
    with pytest.raises(UsageError, match=r"no transparent images(?s:.*)no opacity(?s:.*)do: .*opaque"):
        plain(PROMPT, background="transparent")
    unknown: Any = "green"
    with pytest.raises(UsageError, match="background"):
        plain(PROMPT, background=unknown)


def test_only_a_choice_is_recorded(clear: InfinityPipeline) -> None:
    assert "background" not in clear(PROMPT, seed=1).metadata[0]
    output = clear(PROMPT, seed=1, background="opaque")
    assert output.metadata[0]["background"] == "opaque"
    record = ImageRecord.of(output.metadata[0])
    assert json.loads(record.json_text())["background"] == "opaque"
    assert "background" not in ImageRecord.of(clear(PROMPT, seed=1).metadata[0]).json_text()
    with pytest.raises(UsageError, match="background"):
        ImageRecord.of(output.metadata[0], background="green")
    with pytest.raises(UsageError, match="never transparent"):
        ImageRecord.of(output.metadata[0], background="transparent", grid=True, seeds=(1,))


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("form", ["pil", "np", "pt"])
def test_files_keep_transparency(clear: InfinityPipeline, tmp_path: Path, suffix: str, form: Any) -> None:
    transparent = clear(PROMPT, seed=1).images[0]
    for background, expected in (("transparent", transparent), ("opaque", None)):
        output = clear(PROMPT, seed=1, output_type=form, background=background)
        (path,) = output.save(tmp_path / f"{background}.{suffix}")
        with Image.open(path) as image:
            assert image.mode == ("RGB" if expected is None else "RGBA")
            if expected is not None:
                seen, wanted = np.asarray(image), np.asarray(expected)
                shown = wanted[..., 3] > 0
                assert (seen[..., 3] == wanted[..., 3]).all() and (seen[shown] == wanted[shown]).all()
        assert read_record(path).background == background


def test_jpeg_lies_on_white_unless_transparency_was_asked_for(clear: InfinityPipeline, tmp_path: Path) -> None:
    drawn = clear(PROMPT, seed=1)
    (path,) = drawn.save(tmp_path / "a.jpg")
    expected = encode_image(flatten(drawn.images[0]), read_record(path), "JPEG")
    assert path.read_bytes() == expected
    asked = clear([PROMPT, "a cat"], seed=1, background="transparent")
    with pytest.raises(UsageError, match=r"transparent image as JPEG(?s:.*)PNG and WebP(?s:.*)do: "):
        asked.save(tmp_path / "b-{index}.jpg")
    record = ImageRecord.of(asked.metadata[0])
    with pytest.raises(UsageError, match="JPEG"):
        encode_image(asked.images[0], record, "JPEG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jpg"]


def test_hidden_colours_never_bleed_when_resizing(clear: InfinityPipeline) -> None:
    metadata = clear(PROMPT, seed=1).metadata[0]
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 9, 16))
    exact = {"requested_width": 40, "requested_height": 30, "exact_size": True}
    for record in (ImageRecord.of(metadata, **exact), ImageRecord.of(metadata, enlarge=3)):
        resized = resize_as_recorded(image, record)
        assert (resized.mode, resized.size) == ("RGBA", record.image_size)
        values = np.asarray(flatten(resized)).astype(int)
        assert np.abs(values[..., 0] - 255).max() <= 2  # both red and white have all of it


def test_a_request_has_a_background() -> None:
    request = GenerationRequest.from_options(PROMPT, {"background": "opaque"}, source="a test")
    assert GenerationRequest.parse(json.loads(request.model_dump_json()), source="a test") == request
    assert GenerationRequest.from_options(PROMPT, {}, source="a test").background == "auto"


def test_a_folder_keeps_opacity(clear: InfinityPipeline, tmp_path: Path) -> None:
    clear.save_pretrained(tmp_path / "model")
    again = InfinityPipeline.from_pretrained(tmp_path / "model", device="cpu")
    pixels = again(PROMPT, seed=1, output_type="pt").images
    assert torch.allclose(pixels, clear(PROMPT, seed=1, output_type="pt").images, atol=1e-5)
