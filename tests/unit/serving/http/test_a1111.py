"""A1111's routes, with a backend that draws nothing: what its clients send, and what they read."""

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.sampling.params import SamplingParams
from bitvar.serving.engine.job import Job
from bitvar.serving.http.a1111 import PREVIEWS
from bitvar.serving.http.a1111_fields import MAX_NAMED, translate
from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.settings import ServerSettings
from tests.support.recorded_requests import A1111
from tests.support.serving import ScriptedBackend, running_app

UNGUIDED = SamplingParams(guidance_scale=1.0, temperature=0.25, top_k=0, top_p=0.0)
GUIDED = SamplingParams(guidance_scale=3.0, temperature=0.25, top_k=0, top_p=0.0)


def _post(body: Any, **options: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with running_app(**options) as app:
            return await app.client.post("/sdapi/v1/txt2img", json=body)

    return asyncio.run(run())


@pytest.mark.parametrize("client", A1111)
def test_what_clients_send_gives_an_image_and_an_info_that_they_can_read(client: str) -> None:
    body = A1111[client]
    answer = _post(body).json()
    info = json.loads(answer["info"])
    assert base64.b64decode(answer["images"][0]) == b"image of %d" % info["seed"]
    assert (info["width"], info["height"]) == (body["width"], body["height"])
    assert info["prompt"] == info["all_prompts"][0] == "a red apple"
    assert 0 <= info["seed"] < 2**32  # clients in JavaScript keep 53 bits of a number
    assert info["cfg_scale"] == body.get("cfg_scale", 1.0)
    assert "steps" in info["bitvar"]["ignored"]
    assert answer["parameters"]["prompt"] == "a red apple"


def test_several_images_count_up_from_the_seed() -> None:
    answer = _post({"prompt": "a red apple", "seed": 7, "batch_size": 2, "n_iter": 2}).json()
    info = json.loads(answer["info"])
    assert [base64.b64decode(image) for image in answer["images"]] == [b"image of %d" % seed for seed in range(7, 11)]
    assert info["all_seeds"] == [7, 8, 9, 10]
    lines = info["infotexts"][1].split("\n")
    assert lines[0] == "a red apple"
    assert dict(pair.split(": ") for pair in lines[-1].split(", ")) == {
        "Steps": "4",
        "Sampler": "Next-scale",
        "CFG scale": "1.0",
        "Seed": "8",
        "Size": "64x64",
        "Model hash": "0123456789",
        "Model": "icons",
        "Version": info["version"],
    }


def test_images_can_be_left_out() -> None:
    answer = _post({"prompt": "a red apple", "send_images": False}).json()
    assert answer["images"] == []
    assert len(json.loads(answer["info"])["all_seeds"]) == 1


def test_fields_without_effect_are_named() -> None:
    many = {f"field {number}": 1 for number in range(1000)}
    ignored = json.loads(_post({"prompt": "a red apple", **many}).json()["info"])["bitvar"]["ignored"]
    assert ignored[:2] == ["field 0", "field 1"]
    assert len(ignored) == MAX_NAMED
    sent = translate(A1111["SillyTavern"], GUIDED).ignored
    assert {"sampler_name", "save_images", "override_settings.CLIP_stop_at_last_layers"} < set(sent)
    assert not {"restore_faces", "seed", "width", "hr_additional_modules"} & set(sent)


def test_prompts_choose_adapters() -> None:
    translated = translate({"prompt": "an apple <lora:pixel:0.5>, red<lora:ink>"}, UNGUIDED)
    assert translated.request.prompt == "an apple , red"
    assert [(choice.name, choice.scale) for choice in translated.request.lora or ()] == [("pixel", 0.5), ("ink", 1.0)]
    assert "no adapter" in _post({"prompt": "an apple <lora:nothing:1>"}).json()["detail"]
    assert "number" in _post({"prompt": "an apple <lora:pixel:much>"}).json()["detail"]


def test_a_negative_prompt_without_guidance_is_left_out_with_a_warning() -> None:
    body = {"prompt": "an apple", "negative_prompt": "blue"}
    assert translate(body, GUIDED).request.negative_prompt == "blue"
    assert translate({**body, "cfg_scale": 2}, UNGUIDED).request.negative_prompt == "blue"
    for values, defaults in ((body, UNGUIDED), ({**body, "cfg_scale": 1}, GUIDED)):
        translated = translate(values, defaults)
        assert translated.request.negative_prompt is None
        assert "guidance" in translated.warnings[0]
    assert translate({**body, "negative_prompt": " "}, UNGUIDED).warnings == ()


def test_sides_are_rounded_down_and_a_missing_one_is_the_usual_one() -> None:
    translated = translate({"prompt": "an apple", "width": 1080, "height": "1920"}, UNGUIDED)
    assert (translated.request.width, translated.request.height) == (1072, 1920)
    assert "1080x1920 became 1072x1920" in translated.warnings[0]
    alone = translate({"prompt": "an apple", "height": 768, "width": None}, UNGUIDED)
    assert (alone.request.width, alone.request.height, alone.warnings) == (512, 768, ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": ""}, "prompt is blank"),
        ({"prompt": 5}, "prompt must be text"),
        ({"negative_prompt": "secret" * 9000}, "54,000 characters"),
        ({"seed": -2}, "seed must be"),
        ({"width": 8}, "width must be"),
        ({"batch_size": 5, "n_iter": 5}, "25 were asked for"),
        ({"cfg_scale": "much"}, 'cfg_scale must be a number from 0 to 100, got "much"'),
        ({"override_settings": []}, "override_settings must be an object"),
        ({"width": 64, "height": 640}, "ratio"),
    ],
)
def test_wrong_values_are_refused_in_the_form_of_a1111(change: dict[str, Any], said: str) -> None:
    answer = _post({"prompt": "an apple", **change})
    body = answer.json()
    assert answer.status_code == 422
    assert set(body) == {"error", "detail", "body", "errors"}
    assert said in body["detail"]
    assert body["body"] == ""
    assert "secret" not in answer.text


def test_another_checkpoint_is_refused_unless_every_name_is_served() -> None:
    body = {"prompt": "an apple", "override_settings": {"sd_model_checkpoint": "sd15.safetensors [0123]"}}
    refused = _post(body)
    assert refused.status_code == 404
    assert "--any-model" in refused.json()["detail"]
    assert _post(body, settings=ServerSettings(any_model=True)).status_code == 200
    body["override_settings"] = {"sd_model_checkpoint": "icons@0123456789ab"}
    assert _post(body).status_code == 200


def test_options_and_lists_have_what_menus_show() -> None:
    async def run() -> None:
        async with running_app() as app:

            async def get(name: str) -> Any:
                answer = await app.client.get(f"/sdapi/v1/{name}")
                assert answer.status_code == 200, name
                return answer.json()

            options = await get("options")
            assert options["sd_model_checkpoint"] == "icons"
            model = (await get("sd-models"))[0]
            assert (model["title"], model["model_name"], model["hash"]) == ("icons", "icons", "0123456789")
            assert [adapter["name"] for adapter in await get("loras")] == ["pixel", "ink"]
            for name in ("samplers", "schedulers", "upscalers"):
                assert (await get(name))[0]["name"]
            assert await get("sd-vae") == []
            assert (await app.client.get("/sdapi/v1/nothing")).json()["detail"] == "There is no such route."
            same = await app.client.post("/sdapi/v1/options", json={**options, "clip_skip": 2})
            assert (same.status_code, same.json()) == (200, {"ignored": ["clip_skip"]})
            for name, status in (("other", 404), (5, 422)):
                answer = await app.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": name})
                assert answer.status_code == status

    asyncio.run(run())


class _Gate:
    """Holds the drawing before the last scale of a job's second image."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        self._scales = 0

    async def __call__(self, job: Job, scale: int) -> None:
        self._scales += 1
        if self._scales == 8:
            self.reached.set()
            await self.open.wait()


async def _progress(client: httpx.AsyncClient, **options: Any) -> dict[str, Any]:
    return (await client.get("/sdapi/v1/progress", **options)).json()


def test_progress_counts_tokens_and_shows_previews() -> None:
    async def run() -> None:
        gate = _Gate()
        async with running_app(ScriptedBackend(before_scale=gate)) as app:
            idle = await _progress(app.client)
            assert (idle["progress"], idle["state"]["job_count"], idle["current_image"]) == (0, 0, None)
            body = {"prompt": "an apple", "batch_size": 2, "width": 512, "height": 512}
            drawing = asyncio.create_task(app.client.post("/sdapi/v1/txt2img", json=body))
            await gate.reached.wait()
            busy = await _progress(app.client)
            assert busy["progress"] == (85 + 21) / 170
            assert busy["eta_relative"] >= 0
            assert base64.b64decode(busy["current_image"]).startswith(b"preview")
            state = {"job_count": 2, "job_no": 1, "sampling_step": 3, "sampling_steps": 4}
            assert busy["state"].items() >= state.items()
            without = await _progress(app.client, params={"skip_current_image": "true"})
            assert without["current_image"] is None
            gate.open.set()
            assert (await drawing).status_code == 200
            assert (await _progress(app.client))["state"]["job_count"] == 0

    asyncio.run(run())


def test_previews_are_drawn_only_once_somebody_watches() -> None:
    async def run() -> None:
        backend = ScriptedBackend()
        async with running_app(backend) as app:
            for _ in range(2):
                await app.client.post("/sdapi/v1/txt2img", json={"prompt": "an apple"})
                await _progress(app.client)
            assert [job.previews.count for job in backend.submitted] == [0, PREVIEWS]

    asyncio.run(run())


@pytest.mark.parametrize("verb", ["interrupt", "skip"])
def test_an_interrupted_request_is_answered_with_what_there_is(verb: str) -> None:
    async def run() -> None:
        gate = _Gate()
        async with running_app(ScriptedBackend(before_scale=gate)) as app:
            assert (await app.client.post(f"/sdapi/v1/{verb}")).json() == {}  # nothing to stop
            body = {"prompt": "an apple", "batch_size": 2, "seed": 3}
            drawing = asyncio.create_task(app.client.post("/sdapi/v1/txt2img", json=body))
            ours = asyncio.create_task(app.client.post("/v1/images/generations", json={"prompt": "an apple"}))
            await gate.reached.wait()
            await app.client.post(f"/sdapi/v1/{verb}")
            answer = await drawing
            gate.open.set()
            assert answer.status_code == 200
            assert [base64.b64decode(image) for image in answer.json()["images"]] == [b"image of 3"]
            info = json.loads(answer.json()["info"])
            assert info["all_seeds"] == [3]
            assert "Interrupted after 1 of 2 images." in info["bitvar"]["warnings"]
            assert (await ours).status_code == 200

    asyncio.run(run())


def test_the_holder_of_another_key_neither_sees_nor_stops_a_job() -> None:
    async def run() -> None:
        gate = _Gate()
        settings = ServerSettings(api_keys=("first", "second"))
        async with running_app(ScriptedBackend(before_scale=gate), settings=settings) as app:
            first, second = httpx.BasicAuth("any", "first"), httpx.BasicAuth("any", "second")
            body = {"prompt": "an apple", "batch_size": 2}
            drawing = asyncio.create_task(app.client.post("/sdapi/v1/txt2img", json=body, auth=first))
            await gate.reached.wait()
            seen = await _progress(app.client, auth=second)
            assert (seen["state"]["job"], seen["current_image"]) == ("", None)
            await app.client.post("/sdapi/v1/interrupt", auth=second)
            assert (await _progress(app.client, auth=first))["state"]["interrupted"] is False
            gate.open.set()
            assert len((await drawing).json()["images"]) == 2

    asyncio.run(run())


def test_a_client_that_leaves_ends_its_job() -> None:
    async def run() -> None:
        gate = _Gate()
        async with running_app(ScriptedBackend(before_scale=gate)) as app:
            body = json.dumps({"prompt": "an apple", "batch_size": 2}).encode()
            leaving = asyncio.Event()
            messages = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def receive() -> dict[str, Any]:
                if (message := next(messages, None)) is not None:
                    return message
                await leaving.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                pass

            headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/sdapi/v1/txt2img", "headers": headers}
            scope |= {"query_string": b"", "raw_path": b"/sdapi/v1/txt2img", "root_path": "", "scheme": "http"}
            request = asyncio.create_task(app.app(scope, receive, send))
            await gate.reached.wait()
            leaving.set()
            await request
            assert app.engine.counts["cancelled"] == 1
            assert (await _progress(app.client))["state"]["job_count"] == 0
            gate.open.set()

    asyncio.run(run())


def test_a_server_that_still_loads_says_so_in_the_form_of_a1111() -> None:
    answer = _post({"prompt": "an apple"}, backend=ScriptedBackend(card=None))
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (503, "loading", "2")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from([*A1111["SillyTavern"], "batch_size", "n_iter", "styles"]) | st.text(max_size=10)


@given(st.dictionaries(_NAMES, _VALUES, max_size=6))
@settings(max_examples=50, deadline=None)
def test_any_object_is_translated_or_refused(values: dict[str, Any]) -> None:
    try:
        translated = translate({"prompt": "an apple", **values}, GUIDED)
    except ApiError as error:
        assert error.status == 400
    else:
        assert 1 <= (translated.request.n or 1) <= 10
