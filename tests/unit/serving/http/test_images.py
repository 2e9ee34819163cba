"""The image routes, with a backend that draws nothing and with the embedded model."""

import asyncio
import base64
import json

from tests.support.serving import CARD, ScriptedBackend, running_app

PROMPT = {"prompt": "a red apple"}


def test_an_answer_has_the_images_and_what_was_done() -> None:
    async def run() -> None:
        async with running_app() as app:
            answer = await app.client.post("/v1/images/generations", json={**PROMPT, "n": 2, "seed": 7})
            body = answer.json()
            assert answer.status_code == 200
            assert [base64.b64decode(item["b64_json"]) for item in body["data"]] == [b"image of 7", b"image of 8"]
            assert body["bitvar"]["seeds"] == [7, 8]
            assert body["usage"]["output_tokens"] == 2 * 85
            assert answer.headers["x-request-id"].startswith("req_")

    asyncio.run(run())


def test_a_stream_has_previews_in_order_and_the_image_last() -> None:
    async def run() -> None:
        async with running_app() as app:
            body = {**PROMPT, "stream": True, "partial_images": 3, "seed": 1}
            answer = await app.client.post("/v1/images/generations", json=body)
            events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
            assert [event["type"].split(".")[1] for event in events] == ["partial_image"] * 3 + ["completed"]
            assert [event.get("partial_image_index") for event in events] == [0, 1, 2, None]
            assert base64.b64decode(events[-1]["b64_json"]) == b"image of 1"

    asyncio.run(run())


def test_a_url_gives_the_image_without_a_key() -> None:
    async def run() -> None:
        async with running_app() as app:
            body = {**PROMPT, "response_format": "url", "seed": 3}
            answer = (await app.client.post("/v1/images/generations", json=body)).json()
            assert set(answer["data"][0]) == {"url"}
            image = await app.client.get(answer["data"][0]["url"])
            assert (image.content, image.headers["content-type"]) == (b"image of 3", "image/png")
            assert (await app.client.get("/v1/images/nothing/content")).status_code == 404

    asyncio.run(run())


def test_an_answer_says_whether_the_images_are_transparent() -> None:
    async def run() -> None:
        backend = ScriptedBackend(CARD.model_copy(update={"alpha": True}))
        async with running_app(backend) as app:
            url = "/v1/images/generations"
            for sent, done in (
                ({}, "transparent"),
                ({"background": "auto", "output_format": "jpeg"}, "opaque"),
                ({"background": "transparent", "output_format": "webp"}, "transparent"),
                ({"background": "opaque"}, "opaque"),
            ):
                assert (await app.client.post(url, json={**PROMPT, **sent})).json()["background"] == done
            assert [job.request.background for job in backend.submitted] == ["auto", "auto", "transparent", "opaque"]
            streamed = await app.client.post(url, json={**PROMPT, "stream": True, "partial_images": 1})
            events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
            assert [event["background"] for event in events] == ["transparent"] * 2
            refused = await app.client.post(url, json={**PROMPT, "background": "transparent", "output_format": "jpeg"})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "background")

    asyncio.run(run())
