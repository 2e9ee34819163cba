"""Keys as passwords: what A1111's clients can send, on its routes alone."""

import asyncio
import base64
import hmac
from typing import Any

import httpx
import pytest

from bitvar.serving.http.settings import ServerSettings
from tests.support.serving import running_app

KEYS = ServerSettings(api_keys=("first-key", "se:cond", "schl\u00fcssel"))


def _get(path: str, headers: dict[str, Any]) -> httpx.Response:
    async def run() -> httpx.Response:
        async with running_app(settings=KEYS) as app:
            return await app.client.get(path, headers=headers)

    return asyncio.run(run())


def _basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize("text", ["user:first-key", ":first-key", "\u00fcser:se:cond", "user:schl\u00fcssel"])
def test_a_password_that_is_a_key_is_let_in(text: str) -> None:
    assert _get("/sdapi/v1/options", _basic(text)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Basic"},
        {"authorization": "Basic !!!"},
        {"authorization": "Basic dXNlcg"},
        _basic("first-key"),
        _basic("first-key:"),
        _basic("user:first-ke"),
        _basic("user:first-key "),
        {"authorization": "Basic first-key"},
    ],
)
def test_anything_else_is_kept_out(headers: dict[str, str]) -> None:
    answer = _get("/sdapi/v1/options", headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert "password" in answer.json()["detail"]


def test_passwords_count_on_the_routes_of_a1111_alone() -> None:
    answer = _get("/v1/models", _basic("user:first-key"))
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_other_headers_work_there_too() -> None:
    for headers in (
        {"authorization": "Bearer first-key"},
        {"api-key": "se:cond"},
        {"authorization": "Bearer schl\u00fcssel".encode()},
    ):
        assert _get("/sdapi/v1/options", headers).status_code == 200


def test_a_password_is_compared_with_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def record(given: bytes, key: bytes) -> bool:
        compared.append(key)
        return compare(given, key)

    monkeypatch.setattr(hmac, "compare_digest", record)
    assert _get("/sdapi/v1/options", _basic("user:first-key")).status_code == 200
    assert len(compared) == 3
