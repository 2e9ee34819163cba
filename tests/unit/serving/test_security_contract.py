"""The contract with OpenAI's Python package, over a socket: images, streams, every class of error, retries, ids."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from bitvar.serving.engine.engine import EngineLimits
from bitvar.serving.http.settings import ServerSettings
from tests.support.image_files import image_file, mask_file
from tests.support.serving import ScriptedBackend, running_server
from tests.support.socket_server import SocketServer, socket_server

KEY = "a-key-that-nobody-guesses"
KEYED = ServerSettings(api_keys=(SecretStr(KEY),), aliases=("gpt-image-1",))
PROMPT = {"prompt": "a red apple", "model": "icons"}


@pytest.fixture(scope="module")
def server() -> Iterator[SocketServer]:
    with socket_server(KEYED) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: SocketServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def client_of(server: SocketServer, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", **{"api_key": KEY, "max_retries": 0, "timeout": 20, **options})


async def hold(*_: Any) -> None:
    """Draw for ever."""
    await asyncio.Event().wait()


def test_images(client: openai.OpenAI) -> None:
    answer = client.images.generate(
        **PROMPT, n=2, size="64x64", quality="auto", output_format="webp", user="me", extra_body={"seed": [5, 9]}
    )
    assert [base64.b64decode(item.b64_json) for item in answer.data] == [b"image of 5", b"image of 9"]
    assert (answer.size, answer.output_format, answer.background, answer.quality) == ("64x64", "webp", "opaque", "low")
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens == 5 + 2 * 85
    assert answer.usage.input_tokens_details.text_tokens == 5
    assert answer.safety_identifier == "me"
    assert answer.bitvar["seeds"] == [5, 9]
    assert answer._request_id.startswith("req_")


def test_images_by_url(client: openai.OpenAI) -> None:
    item = client.images.generate(**PROMPT, response_format="url", extra_body={"seed": 4}).data[0]
    assert item.b64_json is None
    assert client._client.get(item.url).content == b"image of 4"


def test_a_stream(client: openai.OpenAI) -> None:
    events = list(client.images.generate(**PROMPT, stream=True, partial_images=3, extra_body={"seed": 1}))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
    assert base64.b64decode(events[-1].b64_json) == b"image of 1"
    assert events[-1].usage.output_tokens == 85


def test_the_asynchronous_client(server: SocketServer) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
            stream = await client.images.generate(**PROMPT, stream=True, partial_images=1)
            assert [event.type.split(".")[1] async for event in stream] == ["partial_image", "completed"]

    asyncio.run(run())


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["icons", "gpt-image-1"]
    assert client.models.retrieve("gpt-image-1").owned_by == "bitvar"


BAD: list[tuple[type[openai.APIStatusError], dict[str, Any], str, str | None]] = [
    (openai.BadRequestError, {"size": "1x1"}, "invalid_value", "size"),
    (openai.BadRequestError, {"n": 11}, "invalid_value", "n"),
    (openai.BadRequestError, {"extra_body": {"guidance": 3}}, "unsupported_parameter", "guidance"),
    (openai.BadRequestError, {"extra_body": {"sede": 3}}, "unknown_parameter", "sede"),
    (openai.BadRequestError, {"prompt": " "}, "invalid_value", "prompt"),
    (openai.NotFoundError, {"model": "dall-e-2"}, "model_not_found", "model"),
]


@pytest.mark.parametrize(("kind", "values", "code", "param"), BAD)
def test_errors_of_a_request(
    client: openai.OpenAI, kind: type[openai.APIStatusError], values: dict[str, Any], code: str, param: str | None
) -> None:
    with pytest.raises(kind) as caught:
        client.images.generate(**{**PROMPT, **values})
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
    assert caught.value.request_id.startswith("req_")


def test_errors_before_a_request_is_read(server: SocketServer) -> None:
    with client_of(server, api_key="wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.images.generate(**PROMPT)
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
    headers = {"Host": "evil.example"}
    with client_of(server, default_headers=headers) as client, pytest.raises(openai.PermissionDeniedError) as denied:
        client.models.list()
    assert denied.value.code == "invalid_host"
    with client_of(server) as client, pytest.raises(openai.APIStatusError) as large:
        client.images.generate(prompt="a" * 3_000_000)  # refused while it is still being sent
    assert (large.value.status_code, large.value.code) == (413, "too_large")
    with client_of(server) as client, pytest.raises(openai.APIStatusError) as long:
        client.images.edit(image=b"\x89PNG" + bytes(70_000_000), prompt="a")
    assert (long.value.status_code, long.value.code) == (413, "too_large")


def test_edits_of_the_package(server: SocketServer) -> None:
    more = {"seed": [7, 8], "exact": True, "lora": {"name": "pixel", "scale": 0.5}, "source_prompt": "a cat"}
    with client_of(server) as client:
        answer = client.images.edit(image=image_file(), mask=mask_file(), prompt="a dog", n=2, extra_body=more)
        assert answer.data is not None and answer.usage is not None
        assert [base64.b64decode(item.b64_json or "") for item in answer.data] == [b"image of 7", b"image of 8"]
        assert answer.usage.input_tokens_details.image_tokens == 85
        events = list(client.images.edit(image=[image_file()], prompt="a dog", stream=True, partial_images=2))
        assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.edit(image=[image_file(), image_file()], prompt="a dog")
        assert (caught.value.param, caught.value.code) == ("image", "invalid_value")
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.edit(image=image_file(), mask=image_file(), prompt="a dog")
        assert (caught.value.param, "transparent" in str(caught.value)) == ("mask", True)


def test_a_full_queue_is_429_and_says_when_to_try_again() -> None:
    backend = ScriptedBackend(before_scale=hold)
    with socket_server(KEYED, backend=backend, limits=EngineLimits(max_queue=1)) as server, client_of(server) as client:
        waiting = client.images.generate(**PROMPT, stream=True)
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(**PROMPT)
        assert (caught.value.code, caught.value.type) == ("queue_full", "rate_limit_error")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        waiting.close()


def test_a_client_that_retries_waits_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    released, pause, waits = threading.Event(), threading.Event(), list[float]()

    async def wait_for_release(*_: Any) -> None:
        while not released.is_set():
            await asyncio.sleep(0.001)

    backend, limits = ScriptedBackend(before_scale=wait_for_release), EngineLimits(max_queue=1)
    with socket_server(KEYED, backend=backend, limits=limits) as server, client_of(server, max_retries=2) as client:

        def wait(seconds: float) -> None:
            waits.append(seconds)
            released.set()
            first.close()
            while server.engine.num_waiting:
                pause.wait(0.001)  # time.sleep is replaced

        first = client.images.generate(**PROMPT, stream=True)
        monkeypatch.setattr("openai._base_client.time.sleep", wait)
        assert client.images.generate(**PROMPT).data
        assert len(waits) == 1 and waits[0] >= 1


def test_a_server_that_loads_is_503_and_says_when_to_try_again() -> None:
    with socket_server(backend=ScriptedBackend(None)) as server, client_of(server) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(**PROMPT)
        assert (caught.value.status_code, caught.value.code) == (503, "loading")
        assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_request_that_takes_too_long_is_504() -> None:
    backend, limits = ScriptedBackend(before_scale=hold), EngineLimits(request_timeout=0.05)
    with socket_server(backend=backend, limits=limits) as server, client_of(server) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(**PROMPT)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError) as streamed:
            list(client.images.generate(**PROMPT, stream=True))
        assert (streamed.value.code, streamed.value.type) == ("timeout", "server_error")


@pytest.mark.slow
def test_the_embedded_model() -> None:
    with running_server() as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        same: dict[str, Any] = {"prompt": "a red circle", "extra_body": {"seed": 3}}
        whole = client.images.generate(**same)
        events = list(client.images.generate(**same, stream=True, partial_images=3))
        assert [event.type.split(".")[1] for event in events] == ["partial_image"] * 3 + ["completed"]
        assert events[-1].b64_json == whole.data[0].b64_json
        assert base64.b64decode(whole.data[0].b64_json).startswith(b"\x89PNG")
        assert json.loads(whole.model_dump_json())["usage"]["output_tokens"] > 0
