"""Edits through the pipeline: what every method keeps, and what it refuses."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.editing.masks import box_mask
from bitvar.editing.probe import prompt_logits
from bitvar.editing.spec import EditSpec, EncodedImage
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline, steered
from bitvar.pipeline.record import ImageRecord, read_record
from bitvar.pipeline.request import GenerationRequest
from bitvar.sampling.constraint import PrefixBits
from tests.support.tiny import rough_pipeline

SIZE = (16, 16)
HALF = box_mask(SIZE, (8, 0, 8, 16))
METHODS: dict[str, dict[str, Any]] = {
    "redraw": {"strength": 1.0},
    "localized": {"source_prompt": "a red dog", "threshold": 0.0},
    "inversion": {"source_prompt": "a red dog"},
    "bit-test": {"source_prompt": "a red dog"},
    "difference": {"source_prompt": "a red dog"},
    "tilt": {"source_prompt": "a red dog"},
}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("tiny"))


def photo(size: tuple[int, int] = SIZE, *, seed: int = 0, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, len(mode)), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)


def edited(pipe: InfinityPipeline, prompt: str = "a blue cat", **options: Any) -> Image.Image:
    return pipe.edit(prompt, **{"image": photo(), "seed": 1, **options}).images[0]


def reconstruction(pipe: InfinityPipeline, image: Image.Image) -> bytes:
    from bitvar.imaging.convert import from_pil, to_pil

    grids = pipe.schedule_for(None, None).latent_grids(1)
    with torch.inference_mode():
        _, latent = pipe.tokenizer.encode(from_pil([image]), grids)
        return to_pil(pipe.tokenizer.decode(latent))[0].tobytes()


def latents(pipe: InfinityPipeline, **options: Any) -> list[torch.Tensor]:
    spec = {name: options.pop(name) for name in (*EditSpec.model_fields,) if name in options}
    events = pipe.stream("a blue cat", edit={"image": photo(), **spec}, seed=1, **options)
    return [event._latent for event in events]


# What is kept


def test_all_scales_kept_are_the_reconstruction(pipe: InfinityPipeline) -> None:
    for kept in ({"strength": 0.0}, {"keep_scales": 3}, {"keep_scales": 64}):
        assert edited(pipe, **kept).tobytes() == reconstruction(pipe, photo())


def test_strength_1_is_a_fresh_image(pipe: InfinityPipeline) -> None:
    assert edited(pipe, strength=1.0).tobytes() == pipe("a blue cat", seed=1).images[0].tobytes()


@pytest.mark.parametrize(("strength", "kept"), [(0.0, 3), (0.01, 2), (0.3, 2), (0.5, 2), (0.7, 1), (0.99, 1), (1.0, 0)])
def test_strength_is_a_share_of_the_scales(pipe: InfinityPipeline, strength: float, kept: int) -> None:
    out = pipe.edit("a blue cat", image=photo(), seed=1, strength=strength, output_type="bits")
    own = pipe.edit("a blue cat", image=photo(), strength=0.0, output_type="bits").images
    assert [torch.equal(a, b) for a, b in zip(out.images, own, strict=True)][:kept] == [True] * kept
    assert kept == 3 or not torch.equal(out.images[kept], own[kept])
    assert out.metadata[0]["edit"]["kept_scales"] == kept


@pytest.mark.parametrize("method", ["localized", "inversion", "bit-test", "difference"])
def test_the_same_prompt_twice_is_the_reconstruction(pipe: InfinityPipeline, method: str) -> None:
    for seed in range(3):
        made = edited(pipe, "a red dog", method=method, source_prompt="a red dog", seed=seed)
        assert made.tobytes() == reconstruction(pipe, photo())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("invariant", [True, False])
def test_the_latent_outside_the_mask_is_the_sources_at_every_scale(
    pipe: InfinityPipeline, method: str, invariant: bool
) -> None:
    options = {"mask": EncodedImage.of(HALF), "feather": 0.0, "grow": 0.0, "method": method, **METHODS[method]}
    own = latents(pipe, strength=0.0)
    made = latents(pipe, batch_invariant=invariant, **options)
    for ours, theirs in zip(made, own, strict=True):
        assert torch.equal(ours[..., :2], theirs[..., :2])
    assert not torch.equal(made[-1][..., 2:], own[-1][..., 2:])


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_draws_the_same_bytes(pipe: InfinityPipeline, method: str) -> None:
    options = {"method": method, "mask": HALF, **METHODS[method]}
    assert edited(pipe, **options).tobytes() == edited(pipe, **options).tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_several_images_are_those_of_their_seeds(pipe: InfinityPipeline, method: str) -> None:
    options = {"method": method, "mask": HALF, **METHODS[method]}
    together = pipe.edit("a blue cat", image=photo(), seed=1, num_images_per_prompt=3, **options)
    alone = [edited(pipe, seed=seed, **options) for seed in (1, 2, 3)]
    assert [image.tobytes() for image in together.images] == [image.tobytes() for image in alone]


def test_an_empty_prompt_is_no_text(pipe: InfinityPipeline) -> None:
    made = edited(pipe, "", strength=0.7)
    assert made.tobytes() != reconstruction(pipe, photo())
    assert made.tobytes() == edited(pipe, "  ", strength=0.7).tobytes()
    with pytest.raises(UsageError, match="The prompt is empty"):
        pipe("")


def test_the_second_pass_of_two_prompts_is_guided_like_the_first(pipe: InfinityPipeline) -> None:
    options = {"method": "inversion", "source_prompt": "a red dog", "guidance_scale": 3.0, "negative_prompt": "two"}
    assert edited(pipe, "a red dog", **options).tobytes() == reconstruction(pipe, photo())
    assert edited(pipe, "a blue cat", **options).tobytes() != reconstruction(pipe, photo())


# Exact edits and sizes


@pytest.mark.parametrize("size", [(16, 16), (40, 24), (10, 30)], ids=str)
@pytest.mark.parametrize("fit", ["cover", "pad"])
def test_exact_edits_keep_the_pixels_and_the_size(pipe: InfinityPipeline, size: Any, fit: Any) -> None:
    image, mask = photo(size), box_mask(size, (size[0] // 2, 2, 4, 12))
    made = edited(pipe, image=image, mask=mask, exact=True, fit=fit)
    outside = np.asarray(mask) == 0
    assert made.size == size and made.mode == "RGB"
    assert np.array_equal(np.asarray(made)[outside], np.asarray(image)[outside])
    assert not np.array_equal(np.asarray(made)[~outside], np.asarray(image)[~outside])


@pytest.mark.parametrize("left", [0, 70])
def test_a_mask_beside_the_middle_is_edited(pipe: InfinityPipeline, left: int) -> None:
    image, mask = photo((90, 20)), box_mask((90, 20), (left, 2, 14, 14))
    made = edited(pipe, image=image, mask=mask, exact=True, height=16, width=16)
    inside = np.asarray(mask) > 0
    assert (np.asarray(made)[inside] != np.asarray(image)[inside]).any(axis=-1).mean() > 0.5


def test_exact_edits_have_one_mode_and_no_tensor(pipe: InfinityPipeline) -> None:
    clear = photo(mode="RGBA")
    options: dict[str, Any] = {"image": clear, "mask": HALF, "exact": True}
    assert edited(pipe, background="opaque", **options).mode == "RGB"
    both = pipe.edit(["a dog", "two"], seed=1, output_type="np", **options).images
    assert both.shape == (2, 16, 16, 4)
    with pytest.raises(UsageError, match="An exact edit has no tensor"):
        pipe.edit("a dog", output_type="pt", **options)


def test_exact_edits_keep_transparency(pipe: InfinityPipeline) -> None:
    image = photo(mode="RGBA")
    made = edited(pipe, image=image, mask=HALF, exact=True)
    assert made.mode == "RGBA"
    assert np.array_equal(np.asarray(made)[:, :8], np.asarray(image)[:, :8])


def test_exact_edits_keep_the_pixels_outside_what_is_found(pipe: InfinityPipeline) -> None:
    options: dict[str, Any] = {"image": photo((40, 24)), "source_prompt": "a red dog", "threshold": 0.6}
    options |= {"height": 16, "width": 16}
    out = pipe.edit(["a blue cat", "two"], seed=1, exact=True, **options)
    original = np.asarray(photo((40, 24)))
    changed = [(np.asarray(image) != original).any(axis=-1) for image in out.images]
    for share in changed:
        assert 0 < share.mean() < 1
        assert not share[:, :8].any(), "the canvas covers the middle of the image only"
    assert not np.array_equal(*changed), "each prompt disagrees somewhere else"
    same = pipe.edit("a red dog", seed=1, exact=True, **options).images[0]
    assert same.tobytes() == photo((40, 24)).tobytes()
    narrow = edited(pipe, exact=True, mask=box_mask((40, 24), (16, 8, 4, 4)), **{**options, "method": "localized"})
    assert not (np.asarray(narrow) != original)[:8].any()


def test_images_of_one_prompt_share_its_measurement(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return prompt_logits(*arguments, **options)

    monkeypatch.setattr(steered, "prompt_logits", counted)
    pipe.edit(["a blue cat", "two"], image=photo(), source_prompt="a red dog", num_images_per_prompt=3, seed=1)
    assert len(calls) == 3, "the source prompt, and each prompt once"


def test_filling_hides_what_was_there(pipe: InfinityPipeline) -> None:
    plain = Image.new("RGB", SIZE, (200, 180, 160))
    spoilt = plain.copy()
    spoilt.paste("black", (10, 4, 14, 12))
    mask = box_mask(SIZE, (9, 3, 6, 10))
    options: dict[str, Any] = {"mask": mask, "strength": 0.0}
    clean = edited(pipe, image=spoilt, fill="surroundings", **options)
    assert clean.tobytes() == reconstruction(pipe, plain)
    assert edited(pipe, image=spoilt, **options).tobytes() != reconstruction(pipe, plain)


def test_arrays_of_exact_edits_are_the_images(pipe: InfinityPipeline) -> None:
    options: dict[str, Any] = {"image": photo((40, 24)), "mask": box_mask((40, 24), (8, 8, 16, 8)), "exact": True}
    array = pipe.edit("a dog", seed=1, output_type="np", **options).images
    assert np.array_equal(array[0], np.asarray(edited(pipe, "a dog", **options)))


def test_the_nearest_size_is_chosen(pipe: InfinityPipeline) -> None:
    assert edited(pipe, image=photo((200, 100))).size == (16, 8)
    assert edited(pipe, image=photo((1000, 900))).size == (16, 16)
    assert edited(pipe, image=photo((200, 100)), height=16, width=16).size == (16, 16)


def test_a_model_with_opacity_edits_it(tmp_path: Path) -> None:
    pipe = rough_pipeline(tmp_path, image_channels=4)
    made = pipe.edit("a dog", image=photo(mode="RGBA"), mask=HALF, seed=1).images[0]
    assert made.mode == "RGBA" and made.size == SIZE


# Records


def test_the_record_names_the_edit(pipe: InfinityPipeline, tmp_path: Path) -> None:
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    photo((40, 24)).save(image)
    box_mask((40, 24), (8, 8, 16, 8)).save(mask)
    out = pipe.edit("", image=image, mask=mask, exact=True, seed=1)
    record = read_record(out.save(tmp_path / "b.png")[0])
    assert record.edit is not None and record.prompt == ""
    assert record.edit.image_sha256 == EncodedImage.of(image).sha256
    assert (record.edit.method, record.edit.kept_scales, record.edit.exact) == ("redraw", 0, True)
    assert record.image_size == (40, 24)


def test_texts_from_elsewhere_open_no_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    photo().save(secret)
    for values in (
        {"prompts": ["a"], "edit": {"image": str(secret)}},
        {"prompts": ["a"], "edit": {"image": EncodedImage.of(secret).model_dump(), "mask": str(secret)}},
        {"prompts": ["a"], "mix": [{"prompt": "b", "mask": str(secret)}]},
    ):
        with pytest.raises(ValueError, match="a text is no image"):
            GenerationRequest.model_validate_json(json.dumps(values))
    record = {"prompt": "a", "seed": 1, "width": 8, "height": 8, "guidance_scale": 1.0, "temperature": 1.0}
    record |= {"top_k": 0, "top_p": 0.0, "mix": [{"prompt": "b", "mask": str(secret)}]}
    with pytest.raises(UsageError, match="a text is no image"):
        ImageRecord.parse(record, source="a test")


def test_requests_with_edits_cross_processes(pipe: InfinityPipeline) -> None:
    spec = EditSpec.parse({"image": photo(), "mask": HALF}, source="a test")
    request = GenerationRequest(prompts=("a dog",), seed=1, edit=spec)
    again = GenerationRequest.model_validate_json(request.model_dump_json())
    assert again == request
    *_, last = pipe.stream_request(again)
    assert last.preview()[0].tobytes() == edited(pipe, "a dog", mask=HALF).tobytes()


# Refusals


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "mask size": ({"mask": box_mask((8, 8), (0, 0, 4, 4))}, r"mask doesn't fit[\s\S]*8x8[\s\S]*16x16"),
    "empty mask": ({"mask": Image.new("L", SIZE, 0)}, "selects nothing"),
    "animated": (
        {"image": encoded(photo(), "GIF", save_all=True, append_images=[photo(seed=1)])},
        r"image to edit can't be used[\s\S]*animated",
    ),
    "not an image": ({"image": b"hello"}, r"image to edit can't be used[\s\S]*not-an-image"),
    "no bytes": ({"image": b""}, r"image is empty[\s\S]*no bytes"),
    "no pixels": ({"image": Image.new("RGB", (0, 5))}, r"image is empty[\s\S]*0x5"),
    "no such file": ({"image": "no/such.png"}, r"no/such.png[\s\S]*missing-image"),
    "strength and scales": ({"strength": 0.5, "keep_scales": 1}, "strength, keep_scales and upscale"),
    "strength range": ({"strength": 1.5}, "strength"),
    "method": ({"method": "magic"}, "method"),
    "no source": ({"method": "inversion"}, "source_prompt"),
    "no mask": ({"method": "tilt", "source_prompt": "a dog"}, "give a mask"),
    "exact without mask": ({"exact": True}, "give a mask"),
    "fill without mask": ({"fill": "surroundings"}, "give a mask"),
    "foreign setting": ({"threshold": 0.1}, "threshold belongs to bit-test and localized"),
    "constraint": ({"constraint": PrefixBits([])}, "takes no constraint"),
    "unknown": ({"steps": 5}, "steps"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_edits_are_refused(pipe: InfinityPipeline, name: str) -> None:
    options, expected = BAD[name]
    with pytest.raises(UsageError, match=expected):
        edited(pipe, **options)


def test_a_full_mask_changes_everything(pipe: InfinityPipeline) -> None:
    assert edited(pipe, mask=Image.new("L", SIZE, 255)).tobytes() == edited(pipe, strength=1.0).tobytes()


def test_rotated_images_are_turned(pipe: InfinityPipeline) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    turned = encoded(photo((24, 16)), "PNG", exif=exif)
    upright = photo((24, 16)).transpose(Image.Transpose.ROTATE_270)
    assert edited(pipe, image=turned, strength=0.0).tobytes() == edited(pipe, image=upright, strength=0.0).tobytes()
