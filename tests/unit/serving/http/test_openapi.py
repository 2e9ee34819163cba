"""The OpenAPI document is true: it has every route, and what routes answer is what it says."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from bitvar.serving.engine.engine import EngineLimits
from bitvar.serving.http.errors import A1111_PREFIX, ERROR_TYPES, type_of
from bitvar.serving.http.openapi import openapi_document
from bitvar.serving.http.schema import json_schema
from bitvar.serving.http.settings import ServerSettings
from tests.support.image_files import image_file
from tests.support.openapi_checks import fault_of
from tests.support.serving import CARD, App, ScriptedBackend, running_app

PAGES = {("get", "/"), ("get", "/page/{name}")}
PROMPT = {"prompt": "a red apple"}
GENERATE = ("POST", "/v1/images/generations")
KEYED = ServerSettings(api_keys=(SecretStr("a-key-that-nobody-guesses"),))


def test_it_has_every_route_but_the_page() -> None:
    async def run() -> None:
        async with running_app() as app:
            inner: Any = app.app._app
            routes = {(method.lower(), route.path) for route in inner.routes for method in route.methods}
            routes = {(method, path.replace(":path", "")) for method, path in routes}
            document = (await app.client.get("/openapi.json")).json()
            documented = {(method, path) for path, item in document["paths"].items() for method in item}
            others = {(method, path) for method, path in routes if path.startswith(A1111_PREFIX)}
            assert documented == routes - PAGES - others

    asyncio.run(run())


def test_it_describes_requests_of_the_loaded_model() -> None:
    async def served(backend: ScriptedBackend) -> dict[str, Any]:
        async with running_app(backend) as app:
            return (await app.client.get("/openapi.json")).json()

    def schema(document: dict[str, Any]) -> Any:
        return document["components"]["schemas"]["ImagesRequest"]

    assert schema(asyncio.run(served(ScriptedBackend()))) == json.loads(json.dumps(json_schema(CARD)))
    assert schema(asyncio.run(served(ScriptedBackend(None)))) == json.loads(json.dumps(json_schema()))
    assert json_schema(CARD) != json_schema()


def test_it_is_sound_openapi() -> None:
    document = openapi_document(CARD)
    assert document["openapi"].startswith("3.1.")
    for path, item in document["paths"].items():
        for operation in item.values():
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert operation["summary"] and operation["responses"]
            for response in operation["responses"].values():
                assert response["description"] and response["content"]
    text = json.dumps(document)
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])
    assert {type_of(status) for status in (400, 401, 403, 404, 429, 500, 503)} <= set(ERROR_TYPES)


async def full(app: App) -> Any:
    """Fill the queue, then ask once more."""
    waiting = asyncio.create_task(app.client.post("/v1/images/generations", json=PROMPT))
    while not app.engine.num_waiting:
        await asyncio.sleep(0)
    try:
        return await app.client.post("/v1/images/generations", json=PROMPT)
    finally:
        app.engine.cancel(next(iter(app.engine._tickets)))
        await waiting


async def cancel(app: App) -> Any:
    """Cancel a request that is being drawn."""
    waiting = asyncio.create_task(app.client.post("/v1/images/generations", json=PROMPT))
    while not app.engine._tickets:
        await asyncio.sleep(0)
    try:
        return await app.client.delete(f"/v1/requests/{next(iter(app.engine._tickets))}")
    finally:
        await waiting


async def content(app: App) -> Any:
    answer = await app.client.post("/v1/images/generations", json={**PROMPT, "response_format": "url"})
    return await app.client.get(answer.json()["data"][0]["url"])


async def drain(app: App) -> Any:
    await app.engine.drain()
    return await app.client.get("/readyz")


def post(body: Any, **headers: str) -> Callable[[App], Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json", **headers}
    return lambda app: app.client.post("/v1/images/generations", content=data, headers=named)


def request(method: str, path: str, **headers: str) -> Callable[[App], Any]:
    return lambda app: app.client.request(method, path, headers=headers)


async def hold(*_: Any) -> None:
    """Draw for ever."""
    await asyncio.Event().wait()


def form(path: str, texts: dict[str, str] | None = None, image: bytes = b"") -> Callable[[App], Any]:
    files = {"image": image or image_file()}
    return lambda app: app.client.post(path, files=files, data=texts)


async def full_for(app: App, path: str) -> Any:
    """Fill the queue, then send a form."""
    waiting = asyncio.create_task(app.client.post("/v1/images/generations", json=PROMPT))
    while not app.engine.num_waiting:
        await asyncio.sleep(0)
    try:
        return await form(path)(app)
    finally:
        app.engine.cancel(next(iter(app.engine._tickets)))
        await waiting


FORMS: list[tuple[str, int, Callable[[str], Callable[[App], Any]], dict[str, Any]]] = [
    ("POST", 200, form, {}),
    ("POST", 200, lambda path: form(path, {"n": "2", "response_format": "url", "user": "me"}), {}),
    ("POST", 400, lambda path: request("POST", path), {}),
    ("POST", 400, lambda path: form(path, image=b"nothing"), {}),
    ("POST", 401, form, {"settings": KEYED}),
    ("POST", 404, lambda path: form(path, {"model": "x"}), {}),
    ("POST", 413, lambda path: form(path, image=bytes(3000)), {"settings": ServerSettings(max_file_bytes=2000)}),
    ("POST", 429, lambda path: lambda app: full_for(app, path), {"limits": EngineLimits(max_queue=1),
                                            "backend": lambda: ScriptedBackend(before_scale=hold)}),
    ("POST", 503, form, {"backend": lambda: ScriptedBackend(None)}),
    ("POST", 504, form, {"limits": EngineLimits(request_timeout=0.5),
                         "backend": lambda: ScriptedBackend(before_scale=hold)}),
]  # fmt: skip


CASES: list[tuple[str, str, int, Callable[[App], Any], dict[str, Any]]] = [
    (*GENERATE, 200, post(PROMPT), {}),
    (*GENERATE, 200, post({**PROMPT, "n": 3, "user": "me", "output_format": "webp", "size": "128x64"}), {}),
    (*GENERATE, 200, post({**PROMPT, "response_format": "url"}), {}),
    (*GENERATE, 200, post({**PROMPT, "stream": True, "partial_images": 2}), {}),
    (*GENERATE, 400, post(b"{"), {}),
    (*GENERATE, 400, post({}), {}),
    (*GENERATE, 400, post({**PROMPT, "size": "1x1"}), {}),
    (*GENERATE, 401, post(PROMPT), {"settings": KEYED}),
    (*GENERATE, 403, post(PROMPT, host="evil.example"), {}),
    (*GENERATE, 403, post(PROMPT, origin="http://evil.example"), {}),
    (*GENERATE, 404, post({**PROMPT, "model": "x"}), {}),
    (*GENERATE, 413, post(b"x" * 2000), {"settings": ServerSettings(max_body_bytes=1024)}),
    (*GENERATE, 429, full, {"limits": EngineLimits(max_queue=1),
                           "backend": lambda: ScriptedBackend(before_scale=hold)}),
    (*GENERATE, 503, post(PROMPT), {"backend": lambda: ScriptedBackend(None)}),
    (*GENERATE, 504, post(PROMPT), {"limits": EngineLimits(request_timeout=0.05),
                                    "backend": lambda: ScriptedBackend(before_scale=hold)}),
    *((method, path, status, act(path), options) for path in ("/v1/images/edits", "/v1/images/variations")
      for method, status, act, options in FORMS),
    ("POST", "/v1/images/edits", 200, form("/v1/images/edits", {"stream": "true", "partial_images": "2"}), {}),
    ("GET", "/v1/images/{image_id}/content", 200, content, {}),
    ("GET", "/v1/images/{image_id}/content", 404, request("GET", "/v1/images/x/content"), {}),
    ("DELETE", "/v1/requests/{request_id}", 200, cancel, {"backend": lambda: ScriptedBackend(before_scale=hold)}),
    ("DELETE", "/v1/requests/{request_id}", 404, request("DELETE", "/v1/requests/x"), {}),
    ("GET", "/v1/models", 200, request("GET", "/v1/models"), {"settings": ServerSettings(aliases=("dall-e-3",))}),
    ("GET", "/v1/models", 503, request("GET", "/v1/models"), {"backend": lambda: ScriptedBackend(None)}),
    ("GET", "/v1/models/{name}", 200, request("GET", "/v1/models/icons"), {}),
    ("GET", "/v1/models/{name}", 404, request("GET", "/v1/models/x"), {}),
    ("GET", "/v1/models/{name}", 503, request("GET", "/v1/models/x"), {"backend": lambda: ScriptedBackend(None)}),
    ("GET", "/livez", 200, request("GET", "/livez"), {"settings": KEYED}),
    ("GET", "/livez", 400, request("GET", "/livez", **{f"x-{i}": "a" for i in range(200)}), {}),
    ("GET", "/readyz", 200, request("GET", "/readyz"), {}),
    ("GET", "/readyz", 503, request("GET", "/readyz"), {"backend": lambda: ScriptedBackend(None)}),
    ("GET", "/readyz", 503, drain, {}),
    ("GET", "/metrics", 200, request("GET", "/metrics"), {}),
    ("GET", "/metrics", 401, request("GET", "/metrics"), {"settings": KEYED}),
    ("GET", "/version", 200, request("GET", "/version"), {}),
    ("GET", "/version", 200, request("GET", "/version"), {"backend": lambda: ScriptedBackend(None)}),
    ("GET", "/openapi.json", 200, request("GET", "/openapi.json"), {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "status", "act", "options"), CASES)
def test_answers_are_what_it_says(
    method: str, path: str, status: int, act: Callable[[App], Any], options: dict[str, Any]
) -> None:
    async def run() -> None:
        backend = options.get("backend", ScriptedBackend)()
        others = {name: value for name, value in options.items() if name != "backend"}
        async with running_app(backend, **others) as app:
            answer = await act(app)
            assert answer.status_code == status
            assert fault_of(openapi_document(app.engine.card), method.lower(), path, answer) is None

    asyncio.run(run())


def test_it_says_no_status_that_is_never_answered() -> None:
    """Apart from those that any route may answer, and those of a slow client and a failing server."""
    common = {"400", "401", "403", "408", "500"}
    answered = {(method.lower(), path, str(status)) for method, path, status, *_ in CASES}
    for path, item in openapi_document()["paths"].items():
        for method, operation in item.items():
            for status in set(operation["responses"]) - common:
                assert (method, path, status) in answered
