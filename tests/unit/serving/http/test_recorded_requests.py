"""What real clients send, replayed over HTTP against a backend that draws nothing: does each find what it reads?"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.settings import ServerSettings
from tests.support.image_files import image_file, mask_file
from tests.support.recorded_requests import EDITS, GENERATIONS, form_of, large_card, small_card
from tests.support.serving import ScriptedBackend, running_app

CARDS = {"small": small_card(), "large": large_card()}
HEADERS = {
    "accept": "application/json",  # sent by the packages even when they ask for a stream
    "authorization": "Bearer none",
    "user-agent": "OpenAI/Python 3.57.0",
    "x-stainless-retry-count": "0",
}

each_client = pytest.mark.parametrize("client", GENERATIONS)
each_card = pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)


def _replay(
    body: dict[str, Any], card: ModelCard, *, any_model: bool = True, then_fetch: bool = False
) -> tuple[httpx.Response, list[httpx.Response]]:
    """Send a body as clients do.

    Args:
        body: Fields of the request.
        card: Model that is served.
        any_model: Whether the server answers to every name.
        then_fetch: Whether to fetch the URLs of the answer.
    """

    async def run() -> tuple[httpx.Response, list[httpx.Response]]:
        async with running_app(ScriptedBackend(card), settings=ServerSettings(any_model=any_model)) as app:
            query = {"api-version": "2025-04-01-preview"}
            answer = await app.client.post("/v1/images/generations", json=body, headers=HEADERS, params=query)
            items = answer.json()["data"] if then_fetch else ()
            return answer, [await app.client.get(item["url"]) for item in items if "url" in item]

    return asyncio.run(run())


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    """Events of a stream, read as the packages do: a name and data, ended by an empty line."""
    events = []
    for block in answer.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if lines:
            event = json.loads(lines["data"])
            assert event["type"] == lines["event"]
            events.append(event)
    return events


def _check_echo(values: dict[str, Any], body: dict[str, Any]) -> None:
    """An answer says what was done, never "auto"."""
    width, height = map(int, values["size"].split("x"))
    assert min(width, height) >= 16
    if (body.get("size") or "auto") != "auto":
        assert values["size"] == body["size"]
    assert values["quality"] in ("low", "medium", "high")
    assert values["background"] in ("opaque", "transparent")
    usage = values["usage"]
    assert usage["input_tokens"] == sum(usage["input_tokens_details"].values()) > 0
    assert usage["output_tokens"] == sum(usage["output_tokens_details"].values()) > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@each_card
@each_client
def test_each_client_finds_what_it_reads(client: str, card: ModelCard) -> None:
    body = GENERATIONS[client]
    answer, fetched = _replay(body, card, then_fetch=not body.get("stream"))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    output_format = body.get("output_format") or "png"
    if body.get("stream"):
        assert answer.headers["content-type"].startswith("text/event-stream")
        *partial, last = _events(answer)
        assert [event["type"] for event in partial] == ["image_generation.partial_image"] * body["partial_images"]
        assert [event["partial_image_index"] for event in partial] == list(range(len(partial)))
        assert last["type"] == "image_generation.completed"
        assert all(base64.b64decode(event["b64_json"], validate=True) for event in (*partial, last))
        assert {"created_at", "size", "quality", "background", "output_format"} <= set(last)
        _check_echo(last, body)
        return
    values = answer.json()
    assert isinstance(values["created"], int)
    assert len(values["data"]) == len(values["bitvar"]["seeds"]) == (body.get("n") or 1)
    wanted = body.get("response_format") or "b64_json"
    assert all(set(item) == {wanted} for item in values["data"])  # some prefer a URL that they then can't fetch
    images = [image.content for image in fetched] or [base64.b64decode(item["b64_json"]) for item in values["data"]]
    assert images == [b"image of %d" % seed for seed in values["bitvar"]["seeds"]]
    assert {image.headers["content-type"] for image in fetched} <= {f"image/{output_format}"}
    assert values["output_format"] == output_format
    assert values["bitvar"]["model"] == card.name  # whatever name was sent
    if "user" in body:
        assert values["safety_identifier"] == body["user"]
    _check_echo(values, body)


@each_client
def test_names_that_no_user_chose_need_a_flag(client: str) -> None:
    body = GENERATIONS[client]
    answer, _ = _replay(body, small_card(), any_model=False)
    if body.get("model") in (None, "", "icons"):
        assert answer.status_code == 200
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "--any-model" in error["message"]


@pytest.mark.parametrize("client", ["AI SDK, compatible provider", "openai for Python, extra_body", "LiteLLM"])
def test_our_own_fields_reach_the_job(client: str) -> None:
    async def run() -> None:
        backend = ScriptedBackend(small_card())
        body = GENERATIONS[client]
        async with running_app(backend) as app:
            await app.client.post("/v1/images/generations", json=body, headers=HEADERS)
        (job,) = backend.submitted
        seeds = body["seed"] if isinstance(body["seed"], list) else [body["seed"] + i for i in range(body.get("n", 1))]
        assert job.request.seeds() == seeds
        assert job.request.params.guidance_scale == body.get("guidance_scale")
        assert job.request.negative_prompt == body.get("negative_prompt")

    asyncio.run(run())


@pytest.mark.parametrize("client", EDITS)
@each_card
def test_each_client_gets_its_edit(client: str, card: ModelCard) -> None:
    route, parts = EDITS[client]
    texts = {name: value for name, value in parts if isinstance(value, str)}
    body, kind = form_of(client, image_file(), mask_file())

    async def run() -> None:
        backend = ScriptedBackend(card)
        async with running_app(backend, settings=ServerSettings(any_model=True)) as app:
            headers = {**HEADERS, "content-type": kind}
            answer = await app.client.post(f"/v1/images/{route}", content=body, headers=headers)
            assert answer.status_code == 200, answer.text
            (job,) = backend.submitted
            assert job.request.edit is not None
            assert job.request.edit.image.decode() == image_file()
            assert (job.request.edit.mask is not None) == any(name == "mask" for name, _ in parts)
            assert job.request.prompts == (texts.get("prompt", ""),)
            assert job.request.num_images == int(texts.get("n", 1))
            if texts.get("stream"):
                *partial, last = _events(answer)
                assert [event["type"] for event in partial] == ["image_edit.partial_image"] * len(partial)
                assert len(partial) == int(texts.get("partial_images", 0))
                assert last["type"] == "image_edit.completed"
                values = last
            else:
                values = answer.json()
                assert len(values["data"]) == int(texts.get("n", 1))
            _check_echo(values, texts)
            assert values["output_format"] == texts.get("output_format", "png")
            assert values["usage"]["input_tokens_details"]["image_tokens"] > 0

    asyncio.run(run())


def test_bodies_of_unknown_length_are_edited() -> None:
    """The package for Node streams files, without a Content-Length."""
    body, kind = form_of("openai for npm, edit", image_file(), mask_file())

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), 100):
            yield body[begin : begin + 100]

    async def run() -> None:
        async with running_app() as app:
            answer = await app.client.post("/v1/images/edits", content=pieces(), headers={"content-type": kind})
            assert "content-length" not in answer.request.headers
            assert _events(answer)[-1]["type"] == "image_edit.completed"

    asyncio.run(run())
