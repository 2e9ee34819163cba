"""The package `openai` for Python against a real server: every call and every class of errors.

It is installed with the tests (`pip install -e ".[test]"`, which has `openai`).
"""

import base64
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.support.image_files import mask_file
from tests.support.load import worker_of
from tests.support.serving import ServerProcess, running_server

PROMPT = "a red apple"
KEY = "a-key-of-the-tests"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a key, a queue of one, and little patience."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"{KEY}\n")
    with running_server("--api-key-file", str(keys), "--max-queue", "1", "--request-timeout", "20") as server:
        yield server


@pytest.fixture
def keyed(strict: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{strict.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def _image(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_generate(client: OpenAI) -> None:
    answer = client.images.generate(
        model="icons", prompt=PROMPT, n=2, size="1536x1024", output_format="webp", output_compression=80, user="me"
    )
    assert answer.data is not None and answer.usage is not None
    assert [_image(item.b64_json).size for item in answer.data] == [(1536, 1024)] * 2
    assert (answer.size, answer.output_format, answer.background) == ("1536x1024", "webp", "opaque")
    assert answer.usage.output_tokens == 170
    assert answer.created > 1_700_000_000
    assert answer._request_id is not None and answer._request_id.startswith("req_")


def test_extra_body_reaches_the_model(client: OpenAI) -> None:
    def draw(**extra: object) -> str | None:
        answer = client.images.generate(prompt=PROMPT, extra_body=extra)
        assert answer.data is not None
        return answer.data[0].b64_json

    plain = draw(seed=7)
    assert draw(seed=7) == plain
    assert draw(seed=8) != plain
    assert draw(seed=7, guidance_scale=4, negative_prompt="green") != plain


def test_a_url_gives_the_image(client: OpenAI) -> None:
    answer = client.images.generate(prompt=PROMPT, response_format="url", style="vivid", quality="standard")
    assert answer.data is not None and answer.data[0].url is not None
    assert answer.data[0].b64_json is None
    fetched = httpx.get(answer.data[0].url)
    assert Image.open(io.BytesIO(fetched.content)).format == "PNG"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_streams_have_previews_and_end_with_the_image(client: OpenAI, count: int) -> None:
    with client.images.generate(
        prompt=PROMPT, size="512x512", stream=True, partial_images=count, extra_body={"seed": 7}
    ) as stream:
        events = list(stream)
    assert [event.type.partition(".")[2] for event in events] == [*["partial_image"] * count, "completed"]
    images = [_image(event.b64_json) for event in events]
    assert {image.size for image in images} == {(512, 512)}
    assert len({image.convert("RGB").tobytes() for image in images}) == count + 1
    last = events[-1]
    assert last.type == "image_generation.completed"
    assert last.usage.total_tokens == last.usage.input_tokens + 85
    whole = client.images.generate(prompt=PROMPT, size="512x512", extra_body={"seed": 7})
    assert whole.data is not None and whole.data[0].b64_json == last.b64_json


def test_a_stream_of_a_cancelled_request_raises(client: OpenAI) -> None:
    answer = client.images.with_raw_response.generate(prompt=PROMPT, stream=True, partial_images=3)
    cancelled = client.delete(f"/requests/{answer.headers['x-request-id']}", cast_to=httpx.Response)
    assert cancelled.status_code == 200
    with pytest.raises(openai.APIError) as caught:
        list(answer.parse())
    assert caught.value.code == "cancelled"


def test_a_client_that_leaves_a_stream_leaves_the_server_free(client: OpenAI, server: ServerProcess) -> None:
    for _ in range(3):
        with client.images.generate(prompt=PROMPT, stream=True, partial_images=3) as stream:
            next(iter(stream))
    end = time.monotonic() + 20
    while "bitvar_jobs_running 0.0" not in httpx.get(f"{server.url}/metrics").text:
        assert time.monotonic() < end, "a request that was left is still drawn"
        time.sleep(0.05)


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("icons", "model", "bitvar")
    assert client.models.retrieve("icons").id == "icons"


def test_wrong_values(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=PROMPT, size="100x100")
    error = caught.value
    assert (error.status_code, error.param, error.code, error.type) == (
        400,
        "size",
        "invalid_value",
        "invalid_request_error",
    )
    assert error.request_id is not None
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=PROMPT, extra_body={"num_inference_steps": 20})
    assert (caught.value.param, caught.value.code) == ("num_inference_steps", "unsupported_parameter")


def test_edits_and_variations(client: OpenAI, tmp_path: Path) -> None:
    upload, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.effect_noise((1000, 1000), 90).save(upload)  # larger than the buffers on the way
    mask.write_bytes(mask_file((1000, 1000), (500, 0, 1000, 1000)))
    more = {"exact": True, "seed": [7, 8], "feather": 0.01}
    answer = client.images.edit(image=upload, prompt=PROMPT, mask=mask, n=2, output_format="webp", extra_body=more)
    assert answer.data is not None and answer.usage is not None
    made = [_image(item.b64_json) for item in answer.data]
    assert [(image.size, image.format) for image in made] == [((1000, 1000), "WEBP")] * 2
    assert (
        made[0].crop((0, 0, 500, 1000)).tobytes() == Image.open(upload).convert("RGB").crop((0, 0, 500, 1000)).tobytes()
    )
    assert answer.usage.input_tokens_details.image_tokens == 85

    events = list(client.images.edit(image=[upload], prompt=PROMPT, stream=True, partial_images=3))
    assert [event.type for event in events] == ["image_edit.partial_image"] * 3 + ["image_edit.completed"]
    form: Any = {"headers": {"Content-Type": "multipart/form-data"}}
    files = {"image": upload.read_bytes()}
    varied = client.post("/images/variations", cast_to=httpx.Response, files=files, options=form)
    assert varied.json()["size"] == "64x64"
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=upload, prompt=PROMPT, mask=upload)
    assert (caught.value.param, caught.value.code) == ("mask", "invalid_value")


def test_a_body_that_is_too_long(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.images.generate(prompt="x" * (3 << 20))
    assert (caught.value.status_code, caught.value.code) == (413, "too_large")


def test_a_web_page_of_another_origin(client: OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.images.generate(prompt=PROMPT, extra_headers={"Origin": "http://example.com"})
    assert caught.value.code == "invalid_origin"


def test_keys(strict: ServerProcess, keyed: OpenAI) -> None:
    with OpenAI(base_url=f"{strict.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
    assert keyed.models.list().data[0].id == "icons"
    habits = {"Authorization": openai.Omit(), "api-key": KEY}  # of Azure
    answer = keyed.images.generate(prompt=PROMPT, extra_headers=habits, extra_query={"api-version": "2025-04-01"})
    assert answer.data


def test_names_that_are_not_served(keyed: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        keyed.images.generate(prompt=PROMPT, model="dall-e-3")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        keyed.models.retrieve("dall-e-3")


def test_a_full_queue_is_tried_again_when_the_server_says(strict: ServerProcess, keyed: OpenAI) -> None:
    def occupy() -> None:
        keyed.images.generate(prompt=PROMPT, n=10)

    busy = []
    for waiting in (0, 1):  # one that is drawn, and one that waits
        thread = threading.Thread(target=occupy, daemon=True)
        thread.start()
        busy.append(thread)
        _wait_for(strict, f"bitvar_jobs_waiting {waiting}.0", "bitvar_jobs_running 1.0")
    with pytest.raises(openai.RateLimitError) as caught:
        keyed.images.generate(prompt=PROMPT)
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    with OpenAI(base_url=f"{strict.url}/v1", api_key=KEY, max_retries=6) as patient:
        assert patient.images.generate(prompt=PROMPT).data
    for thread in busy:
        thread.join(60)


def test_requests_that_take_too_long() -> None:
    with (
        running_server("--request-timeout", "1") as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        worker = worker_of(server.process.pid)
        os.kill(worker, signal.SIGSTOP)  # however fast the machine is, nothing is drawn
        try:
            with pytest.raises(openai.InternalServerError) as caught:
                client.images.generate(prompt=PROMPT)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")


def test_a_server_that_loads_is_tried_again() -> None:
    with running_server(wait=False) as server:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            end = time.monotonic() + 20
            while server.state() == "gone":
                assert time.monotonic() < end
                time.sleep(0.02)
            with pytest.raises(openai.InternalServerError) as caught:
                client.images.generate(prompt=PROMPT)
            assert (caught.value.status_code, caught.value.code) == (503, "loading")
            assert caught.value.response.headers["retry-after"] == "2"
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=40) as patient:
            assert patient.images.generate(prompt=PROMPT).data


def _wait_for(server: ServerProcess, *lines: str) -> None:
    end = time.monotonic() + 30
    headers = {"Authorization": f"Bearer {KEY}"}
    while not set(lines) <= set(httpx.get(f"{server.url}/metrics", headers=headers).text.splitlines()):
        assert time.monotonic() < end, f"the server never says {lines}"
        time.sleep(0.02)
