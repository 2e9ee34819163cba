"""Edits and variations over HTTP, with a backend that draws nothing: what the engine is asked, and what is refused."""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bitvar.editing.images import open_rgba
from bitvar.pipeline.image_files import encode_image
from bitvar.pipeline.record import ImageRecord
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http import edit_input
from bitvar.serving.http.settings import ServerSettings
from tests.support.image_files import encoded, image_file, mask_file, mask_image, smooth_image
from tests.support.recorded_requests import IMG2IMG, large_card, small_card
from tests.support.serving import ScriptedBackend, running_app

Files = Mapping[str, Any] | Sequence[tuple[str, Any]]
RECORD = ImageRecord.of(
    {"prompt": "a red apple", "seed": 3, "width": 64, "height": 64, "guidance_scale": 1.0, "temperature": 0.25,
     "top_k": 0, "top_p": 0.0}
)  # fmt: skip
OWN = encode_image(smooth_image(), RECORD)
"""An image that bitvar wrote."""


def post(
    files: Files,
    data: Mapping[str, Any] | None = None,
    *,
    route: str = "edits",
    card: ModelCard | None = None,
    settings: ServerSettings | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[httpx.Response, list[Job]]:
    """Send a form. Returns the answer, and what was submitted."""

    async def run() -> tuple[httpx.Response, list[Job]]:
        backend = ScriptedBackend(card or small_card())
        async with running_app(backend, settings=settings or ServerSettings()) as app:
            url = f"/v1/images/{route}"
            answer = await app.client.post(url, files=files, data=data, headers=headers)  # type: ignore[arg-type]
            metrics = (await app.client.get("/metrics")).text
            assert "bitvar_uploads_held_bytes 0.0" in metrics
            return answer, backend.submitted

    return asyncio.run(run())


def job_of(files: Files, data: Mapping[str, Any] | None = None, **options: Any) -> Job:
    answer, jobs = post(files, data, **options)
    assert answer.status_code == 200, answer.text
    return jobs[0]


def error_of(files: Files, data: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    answer, jobs = post(files, data, **options)
    assert answer.status_code in (400, 413), answer.text
    assert jobs == []
    return answer.json()["error"]


def masked(job: Job) -> Any:
    """The mask of a job, True where the image may change."""
    assert job.request.edit is not None and job.request.edit.mask is not None
    return np.asarray(open_rgba(job.request.edit.mask.decode(), "the mask").convert("L")) > 127


# What is asked of the engine


def test_every_field_reaches_the_job() -> None:
    texts = {
        "prompt": "a green pear",
        "model": "icons",
        "n": "2",
        "seed[]": ["7", "9223372036854775807"],
        "guidance_scale": "[1, 2, 3, 4]",
        "negative_prompt": "blue",
        "temperature": "0.5",
        "top_k": "1",
        "lora[name]": "pixel",
        "lora[scale]": "0.5",
        "method": "tilt",
        "source_prompt": "a red apple",
        "keep_scales": "1",
        "push": "2.5",
        "trust": "0.5",
        "grow": "0.1",
        "feather": "0.05",
        "exact": "True",
        "fit": "pad",
        "output_format": "webp",
        "output_compression": "70",
    }
    job = job_of({"image": image_file(), "mask": mask_file()}, texts, card=small_card(adapters=("pixel",)))
    request, edit = job.request, job.request.edit
    assert edit is not None
    assert (request.prompts, request.negative_prompt, request.seed) == (("a green pear",), "blue", (7, 2**63 - 1))
    assert (request.params.guidance_scale, request.params.temperature) == ((1, 2, 3, 4), 0.5)
    assert (edit.method, edit.source_prompt, edit.keep_scales, edit.push, edit.trust) == (
        *("tilt", "a red apple", 1, 2.5, 0.5),
    )
    assert (edit.grow, edit.feather, edit.exact, edit.fit) == (0.1, 0.05, True, "pad")
    assert (job.output.format, job.output.quality, job.output.size) == ("webp", 70, None)
    assert job.source_pixels == 64 * 64
    assert [(one.name, one.scale) for one in job.adapters] == [("pixel", 0.5)]
    assert np.array_equal(masked(job), np.arange(64)[None] >= 32 * np.ones((64, 1)))


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]"])
def test_an_image_may_be_spelled_as_clients_do(name: str) -> None:
    job = job_of([(name, ("blob", image_file(), "application/octet-stream"))])
    assert job.request.edit is not None and job.request.edit.image.decode() == image_file()


@pytest.mark.parametrize(
    ("convention", "inverted", "mask"),
    [
        ("", False, mask_image()),
        ("alpha", False, mask_image()),
        ("auto", False, mask_image()),
        ("white", False, mask_image().getchannel("A").point(lambda value: 255 - value)),
        ("auto", False, mask_image().getchannel("A").point(lambda value: 255 - value)),
        ("white", True, mask_image().getchannel("A")),
    ],
)
def test_masks_mark_by_alpha_unless_something_else_is_said(convention: str, inverted: bool, mask: Image.Image) -> None:
    texts = {"mask_convention": convention, "mask_invert": str(inverted).lower()}
    job = job_of({"image": image_file(), "mask": encoded(mask)}, texts)
    assert np.array_equal(masked(job), np.arange(64)[None] >= 32 * np.ones((64, 1)))


def test_the_colour_of_a_mask_means_nothing() -> None:
    mask = np.asarray(mask_image()).copy()
    mask[..., :3] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    job = job_of({"image": image_file(), "mask": encoded(Image.fromarray(mask))})
    assert np.array_equal(masked(job), np.arange(64)[None] >= 32 * np.ones((64, 1)))


def test_a_mask_may_select_everything() -> None:
    assert masked(job_of({"image": image_file(), "mask": mask_file(box=(0, 0, 64, 64))})).all()


def test_rotated_images_are_edited_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    turned = encoded(smooth_image((96, 32)), "JPEG", exif=exif)
    texts = {"exact": "true"}
    answer, _ = post({"image": turned, "mask": mask_file((32, 96), (0, 0, 16, 96))}, texts)
    assert answer.json()["size"] == "64x64"  # the backend draws nothing larger
    assert "doesn't fit" in error_of({"image": turned, "mask": mask_file((96, 32), (0, 0, 16, 32))}, texts)["message"]


@pytest.mark.parametrize(
    ("size", "quality", "native"),
    [
        ((4000, 2250), "", (1344, 768)),
        ((300, 300), "", (256, 256)),
        ((300, 300), "high", (1024, 1024)),
        ((3, 100), "", (144, 432)),
    ],
)
def test_an_image_is_edited_at_the_nearest_size(size: tuple[int, int], quality: str, native: tuple[int, int]) -> None:
    job = job_of({"image": image_file(size)}, {"quality": quality, "size": "auto"}, card=large_card())
    assert (job.request.width, job.request.height, job.output.size) == (*native, None)


def test_an_asked_size_is_made_exactly() -> None:
    job = job_of({"image": image_file((300, 200))}, {"size": "1536x1024"}, card=large_card())
    assert job.output.size == (1536, 1024)
    assert (job.request.width, job.request.height) == (1248, 832)


def test_what_does_not_fit_the_ratio_is_said() -> None:
    answer, _ = post({"image": image_file((128, 64))})
    assert "50 % of it is cropped away; fit pad" in answer.json()["bitvar"]["warnings"][0]
    answer, _ = post({"image": image_file((128, 64)), "mask": mask_file((128, 64))}, {"exact": "true", "fit": "cover"})
    assert "50 % of it stays as it is" in answer.json()["bitvar"]["warnings"][0]
    answer, _ = post({"image": image_file((128, 64))}, {"fit": "pad", "prompt": "a pear"})
    assert answer.json()["bitvar"]["warnings"] == []


@pytest.mark.parametrize(
    ("fidelity", "has_mask", "preset"),
    [("high", False, "preserve"), ("low", False, "text"), ("high", True, "preserve"), ("low", True, None)],
)
def test_fidelity_chooses_how_many_scales_are_kept(fidelity: str, has_mask: bool, preset: str | None) -> None:
    files = {"image": image_file(), **({"mask": mask_file()} if has_mask else {})}
    job = job_of(files, {"input_fidelity": fidelity})
    assert job.request.edit is not None and job.request.edit.preset == preset


@pytest.mark.parametrize("route", ["edits", "variations"])
def test_the_prompt_of_the_image_stands_in_for_a_missing_one(route: str) -> None:
    assert job_of({"image": OWN}, route=route).request.prompts == ("a red apple",)
    assert job_of({"image": image_file()}, route=route).request.prompts == ("",)
    for kind in ("WEBP", "JPEG"):
        assert job_of({"image": encode_image(smooth_image(), RECORD, kind)}, route=route).request.prompts == (
            "a red apple",
        )


def test_a_given_prompt_goes_first_and_the_own_one_may_be_the_source() -> None:
    job = job_of({"image": OWN}, {"prompt": "a green pear", "method": "inversion"})
    assert job.request.edit is not None
    assert (job.request.prompts, job.request.edit.source_prompt) == (("a green pear",), "a red apple")
    job = job_of({"image": OWN}, {"prompt": "a green pear", "method": "inversion", "source_prompt": "fruit"})
    assert job.request.edit is not None and job.request.edit.source_prompt == "fruit"


@pytest.mark.parametrize(
    ("texts", "method"),
    [
        ({"prompt": "a green pear"}, "localized"),
        ({"prompt": "a green pear", "input_fidelity": "high", "threshold": "0.5"}, "localized"),
        ({"prompt": "a red apple"}, "redraw"),
        ({}, "redraw"),
        ({"prompt": "a green pear", "strength": "0.5"}, "redraw"),
        ({"prompt": "a green pear", "keep_scales": "1"}, "redraw"),
        ({"prompt": "a green pear", "method": "redraw"}, "redraw"),
    ],
)
def test_what_two_prompts_disagree_on_changes_where_nothing_else_is_said(texts: dict[str, str], method: str) -> None:
    edit = job_of({"image": OWN}, texts).request.edit
    assert edit is not None and edit.chosen_method == method
    assert edit.source_prompt == ("a red apple" if method == "localized" else None)
    edit = job_of({"image": OWN, "mask": mask_file()}, {"prompt": "a pear"}).request.edit
    assert edit is not None and (edit.chosen_method, edit.source_prompt) == ("redraw", None)


def test_what_is_taken_out_may_be_filled_from_its_surroundings() -> None:
    job = job_of({"image": image_file(), "mask": mask_file()}, {"fill": "surroundings", "strength": "0.25"})
    assert job.request.edit is not None and job.request.edit.fill == "surroundings"
    assert job.source_pixels == 64 * 64
    assert error_of({"image": image_file()}, {"fill": "surroundings"})["param"] == "fill"


def test_a_damaged_record_is_none() -> None:
    for text in ("{", "[]", '{"prompt": 5}', "x" * 300_000):
        info = PngInfo()
        info.add_text("bitvar", text)
        assert job_of({"image": encoded(smooth_image(), pnginfo=info)}).request.prompts == ("",)


def test_exact_edits_keep_transparency_unless_the_background_is_opaque() -> None:
    files = {"image": encoded(smooth_image(mode="RGBA")), "mask": mask_file()}
    for texts, expected in (
        ({}, "transparent"),
        ({"background": "opaque"}, "opaque"),
        ({"output_format": "jpeg"}, "opaque"),
    ):
        answer, jobs = post(files, {"exact": "true", **texts})
        assert answer.json()["background"] == expected
        assert jobs[0].request.background == texts.get("background", "auto")
    assert post(files)[0].json()["background"] == "opaque"


def test_variations_answer_urls() -> None:
    answer, jobs = post({"image": image_file()}, {"n": "2", "response_format": "url"}, route="variations")
    assert [set(item) for item in answer.json()["data"]] == [{"url"}] * 2
    assert jobs[0].request.edit is not None and jobs[0].request.edit.chosen_method == "redraw"


def test_edits_are_counted() -> None:
    async def run() -> None:
        async with running_app() as app:
            await app.client.post("/v1/images/edits", files={"image": image_file()})
            await app.client.post("/v1/images/variations", files={"image": image_file()})
            await app.client.post("/v1/images/variations", files={"image": b"nothing"})
            text = (await app.client.get("/metrics")).text
            assert 'bitvar_edits_total{kind="edit"} 1.0' in text
            assert 'bitvar_edits_total{kind="variation"} 1.0' in text

    asyncio.run(run())


# Refusals

GIF = encoded(smooth_image(), "GIF", save_all=True, append_images=[smooth_image(seed=1)])
BAD: dict[str, tuple[Files, dict[str, Any], str, str]] = {
    "no image": ({"mask": mask_file()}, {"prompt": "a"}, "image", "image is missing"),
    "no image at all": ([("prompt", (None, b"a"))], {}, "image", "image is missing"),
    "a URL": ([("image", (None, b"http://x/y.png"))], {}, "image", "fetches no URL"),
    "two images": ([("image[]", image_file())] * 2, {}, "image", "given 2 times"),
    "two plain images": ([("image", image_file())] * 2, {}, "image", "given twice"),
    "no pixels": ({"image": b""}, {}, "image", "can't be used"),
    "noise": ({"image": b"hello" * 50}, {}, "image", "it is not PNG"),
    "cut off": ({"image": image_file()[:200]}, {}, "image", "can't be used"),
    "animated": ({"image": GIF}, {}, "image", "Animated: it has 2 frames"),
    "too narrow": ({"image": image_file((1, 90))}, {}, "image", "more elongated"),
    "mask of another size": ({"image": image_file(), "mask": mask_file((32, 32), (0, 0, 9, 9))}, {}, "mask",
                             "32x32 pixels, and the image 64x64"),
    "mask without alpha": ({"image": image_file(), "mask": image_file()}, {}, "mask", "mask_convention white"),
    "opaque mask": ({"image": image_file(), "mask": mask_file(box=(0, 0, 0, 0))}, {}, "mask", "no transparent part"),
    "black mask": ({"image": image_file(), "mask": encoded(Image.new("L", (64, 64), 0))}, {"mask_convention": "white"},
                   "mask", "selects nothing"),
    "full mask, inverted": ({"image": image_file(), "mask": mask_file(box=(0, 0, 64, 64))}, {"mask_invert": "true"},
                            "mask", "selects nothing once it is inverted"),
    "animated mask": ({"image": image_file(), "mask": GIF}, {}, "mask", "Animated: it has 2 frames"),
    "two masks": ([("image", image_file()), ("mask[]", mask_file()), ("mask[]", mask_file())], {}, "mask", "twice"),
    "a convention without a mask": ({"image": image_file()}, {"mask_convention": "white"}, "mask_convention", "none"),
    "markup": ({"image": image_file(), "markup": image_file()}, {}, "markup", "must be text"),
    "markup as text": ({"image": image_file()}, {"markup": "x"}, "markup", "paint the part to change into mask"),
    "steps": ({"image": image_file()}, {"num_inference_steps": "5"}, "num_inference_steps", "scales"),
    "denoising": ({"image": image_file()}, {"denoising_strength": "0.5"}, "denoising_strength", "send strength"),
    "unknown": ({"image": image_file()}, {"strenght": "0.5"}, "strenght", "did you mean strength?"),
    "strange name": ({"image": image_file()}, {"a b": "1"}, "a b", "Unknown field"),
    "deep name": ({"image": image_file()}, {"lora[0][name]": "1"}, "lora[0][name]", "Unknown field"),
    "a prompt as a file": ({"image": image_file(), "prompt": b"a pear"}, {}, "prompt", "came as a file"),
    "a prompt that is no text": ([("image", image_file()), ("prompt", (None, b"\xff"))], {}, "prompt", "UTF-8"),
    "a prompt that is too long": ({"image": image_file()}, {"prompt": "x" * 32_001}, "prompt", "32,001 characters"),
    "twice": ([("image", image_file()), ("n", (None, b"1")), ("n", (None, b"2"))], {}, "n", "given twice"),
    "twice in two ways": ([("image", image_file()), ("n", (None, b"1")), ("n[]", (None, b"2"))], {}, "n", "twice"),
    "no number": ({"image": image_file()}, {"n": "many"}, "n", 'a whole number from 1 to 10, got "many"'),
    "a number with more behind it": ({"image": image_file()}, {"n": '1, "n": 2'}, "n", "whole number"),
    "neither true nor false": ({"image": image_file()}, {"exact": "maybe"}, "exact", "true or false"),
    "strength": ({"image": image_file()}, {"strength": "1.5"}, "strength", "from 0 to 1, got 1.5"),
    "both": ({"image": image_file()}, {"strength": "0.5", "keep_scales": "1"}, "strength", "say the same"),
    "fidelity and strength": ({"image": image_file()}, {"strength": "0.5", "input_fidelity": "low"}, "input_fidelity",
                              "one of them"),
    "method": ({"image": image_file()}, {"method": "magic"}, "method", "redraw, localized"),
    "method without a source": ({"image": image_file()}, {"method": "inversion"}, "method", "give source_prompt"),
    "tilt without a mask": ({"image": image_file()}, {"method": "tilt", "source_prompt": "a"}, "method", "a mask"),
    "exact without a mask": ({"image": image_file()}, {"exact": "true"}, "exact", "give a mask"),
    "exact and a size": ({"image": image_file(), "mask": mask_file()}, {"exact": "true", "size": "128x128"}, "size",
                         "64x64: leave size out"),
    "size": ({"image": image_file()}, {"size": "100x100"}, "size", "multiples of 16"),
    "several in a stream": ({"image": image_file()}, {"stream": "true", "n": "2"}, "n", "one image"),
    "transparent": ({"image": image_file()}, {"background": "transparent"}, "background", "no transparent images"),
    "a negative prompt for nothing": ({"image": image_file()}, {"negative_prompt": "a"}, "negative_prompt", "guidance"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_edits_are_refused_with_their_field(name: str) -> None:
    files, texts, param, said = BAD[name]
    error = error_of(files, texts)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert said in error["message"]


@pytest.mark.parametrize("name", ["prompt", "mask", "stream", "exact", "method"])
def test_variations_take_nothing_but_the_image_and_what_draws_it(name: str) -> None:
    files = {"image": image_file(), **({"mask": mask_file()} if name == "mask" else {})}
    error = error_of(files, {} if name == "mask" else {name: "a"}, route="variations")
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert "/v1/images/edits" in error["message"]


def test_a_large_image_is_not_pasted_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_input, "MAX_EXACT_PIXELS", 5000)
    files = {"image": image_file((100, 64)), "mask": mask_file((100, 64))}
    assert error_of(files, {"exact": "true"})["param"] == "exact"
    assert error_of(files, {"fill": "surroundings"})["param"] == "fill"
    assert job_of(files).source_pixels == 0


def test_long_uploads_are_refused_while_they_arrive() -> None:
    settings = ServerSettings(max_file_bytes=2000, max_upload_bytes=5000)
    answer, _ = post({"image": bytes(3000)}, settings=settings)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (413, "too_large", "image")
    answer, _ = post({"image": bytes(1500), "image[]": bytes(1500), "mask": bytes(1900)}, settings=settings)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_more_uploads_than_fit_are_tried_again() -> None:
    answer, _ = post({"image": bytes(3000)}, settings=ServerSettings(upload_memory=2000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"] == "2"


def test_forms_of_other_sites_are_refused() -> None:
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer, jobs = post({"image": image_file()}, headers=headers)
        assert (answer.status_code, jobs) == (403, [])


def test_names_that_are_not_served_are_404() -> None:
    answer, _ = post({"image": image_file()}, {"model": "gpt-image-1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


# img2img


def img2img(body: Mapping[str, Any], image: bytes = OWN, mask: bytes | None = None) -> tuple[httpx.Response, list[Job]]:
    """Send a body in which IMAGE and MASK stand for files."""
    replaced = json.dumps(body).replace("IMAGE", base64.b64encode(image).decode())
    replaced = replaced.replace("MASK", base64.b64encode(mask or b"").decode())

    async def run() -> tuple[httpx.Response, list[Job]]:
        backend = ScriptedBackend(small_card())
        async with running_app(backend) as app:
            headers = {"content-type": "application/json"}
            answer = await app.client.post("/sdapi/v1/img2img", content=replaced, headers=headers)
            return answer, backend.submitted

    return asyncio.run(run())


WHITE = encoded(mask_image().getchannel("A").point(lambda value: 255 - value))


@pytest.mark.parametrize("client", IMG2IMG)
def test_clients_of_a1111_get_their_image_changed(client: str) -> None:
    body = IMG2IMG[client]
    answer, (job,) = img2img(body, mask=WHITE)
    assert answer.status_code == 200, answer.text
    values, edit = answer.json(), job.request.edit
    assert edit is not None and edit.image.decode() == OWN
    assert edit.strength == body.get("denoising_strength", 0.75)
    assert len(values["images"]) == body.get("batch_size", 1)
    assert (values["parameters"]["init_images"], values["parameters"]["mask"]) == (None, None)
    info = json.loads(values["info"])
    assert info["denoising_strength"] == edit.strength
    assert "init_images" not in info["bitvar"]["ignored"]
    assert job.request.prompts == (body["prompt"] or "a red apple",)
    assert edit.exact == (body.get("mask") is not None)
    if edit.exact:
        assert (masked(job) == (np.arange(64)[None] >= 32)).all()
        assert edit.feather == 4 / 64
    else:
        assert (info["width"], info["height"]) == (512, 512)


def test_a_mask_of_a1111_may_be_inverted() -> None:
    body = {"init_images": ["IMAGE"], "mask": "MASK", "inpainting_mask_invert": 1, "resize_mode": 2}
    _, (job,) = img2img(body, mask=WHITE)
    assert (masked(job) == (np.arange(64)[None] < 32)).all()
    assert job.request.edit is not None and job.request.edit.fit == "pad"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init_images": None}, "init_images is missing"),
        ({"init_images": []}, "one image, got 0"),
        ({"init_images": ["IMAGE", "IMAGE"]}, "one image, got 2"),
        ({"init_images": "IMAGE"}, "a list with one image"),
        ({"init_images": [5]}, "base64"),
        ({"init_images": ["%%%"]}, "no base64"),
        ({"init_images": ["https://example.org/a.png"]}, "fetches no URL"),
        ({"init_images": ["aGVsbG8="]}, "it is not PNG"),
        ({"mask": "aGVsbG8="}, "The mask can't be used"),
        ({"mask": base64.b64encode(encoded(Image.new("L", (64, 64), 0))).decode()}, "selects nothing"),
        ({"mask": base64.b64encode(encoded(Image.new("L", (32, 32), 255))).decode()}, "32x32"),
        ({"denoising_strength": 2}, "denoising_strength must be a number from 0 to 1"),
        ({"mask_blur": -1}, "mask_blur must be"),
        ({"width": 8}, "width must be"),
    ],
)
def test_wrong_requests_of_a1111_are_refused(change: dict[str, Any], said: str) -> None:
    answer, jobs = img2img({"init_images": ["IMAGE"], "prompt": "a pear", **change})
    assert (answer.status_code, jobs) == (422, [])
    assert said in answer.json()["detail"]
