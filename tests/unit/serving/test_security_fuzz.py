"""Any request is answered as documented: no body, field, path or header makes the server fail."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitvar.serving.http.a1111_fields import TextToImageRequest
from bitvar.serving.http.errors import A1111_PREFIX, ERROR_TYPES
from bitvar.serving.http.fields import ImagesRequest
from bitvar.serving.http.openapi import openapi_document
from tests.support.openapi_checks import MAX_ERROR, fault_of
from tests.support.serving import CARD, App, running_app

DOCUMENT = openapi_document(CARD)
GENERATE = "/v1/images/generations"
JSON = {"content-type": "application/json"}

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Send a request to one application in this process, and check that it is over then."""
    running = running_app()
    with asyncio.Runner() as runner:
        app: App = runner.run(running.__aenter__())

        def send(method: str, path: str, **options: Any) -> httpx.Response:
            answer = runner.run(app.client.request(method, path, **options))
            assert not app.engine.num_waiting + app.engine.num_running
            assert "x-request-id" in answer.headers
            return answer

        yield send
        runner.run(running.__aexit__(None, None, None))


TEXTS = st.text(max_size=30) | st.text(st.characters(categories=["Cs", "Cc", "Cn", "Co"]), max_size=5)
NUMBERS = (
    st.integers(-3, 12)
    | st.sampled_from([0.5, 1.0, 1e308, -0.0, math.nan, math.inf, -math.inf, 2**31, 2**63 - 1, 2**63, 10**300, True])
    | st.floats()
    | st.integers()
)
WORDS = st.sampled_from(
    ["auto", "64x64", "128x64", "1024x1024", "0x0", "png", "webp", "jpeg", "url", "b64_json", "low", "hd", "icons",
     "pixel", "ink", "", " ", "\0", "\ud800", "http://127.0.0.1:1/x.png", "../../etc/passwd", "x" * 300, "a red apple",
     "{{7*7}}", "${jndi:ldap://x}", "'; DROP TABLE images; --", "<script>", "%s%n",
     "\u202e\u0000\uffff", "\U0001f34e" * 20]
)  # fmt: skip
LORA = st.fixed_dictionaries({"name": WORDS}, optional={"scale": NUMBERS, "weight": NUMBERS})
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | TEXTS
ANY = st.recursive(
    SCALARS | LORA, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
SOUND: dict[str, st.SearchStrategy[Any]] = {
    "n": st.integers(1, 3),
    "size": st.sampled_from(["auto", "64x64", "128x64", "256x256"]),
    "output_format": st.sampled_from(["png", "webp", "jpeg"]),
    "stream": st.booleans(),
    "partial_images": st.integers(0, 3),
    "response_format": st.sampled_from(["url", "b64_json"]),
    "seed": st.integers(0, 2**63 - 1) | st.lists(st.integers(0, 9), min_size=1, max_size=3),
    "guidance_scale": st.floats(0, 100) | st.lists(st.floats(0, 9), min_size=4, max_size=4),
    "temperature": st.floats(0, 100),
    "user": TEXTS,
    "lora": LORA | st.lists(LORA, max_size=2),
}
NAMES = st.sampled_from(list(ImagesRequest.model_fields))
BODIES = st.builds(
    lambda prompt, sound, wild, unknown: {"prompt": prompt, **sound, **wild, **unknown},
    st.just("a red apple") | ANY,
    st.fixed_dictionaries({}, optional=SOUND),
    st.dictionaries(NAMES, ANY, max_size=2),
    st.just({}) | st.dictionaries(TEXTS, ANY, max_size=1),
)
DEEP = st.builds(
    lambda opening, closing, count, name: (
        b'{"prompt":"a","%s":' % name + opening * count + b"1" + closing * count + b"}"
    ),
    st.just(b"["),
    st.sampled_from([b"]", b"", b"}"]),
    st.sampled_from([1, 31, 33, 1000, 100_000]),
    st.sampled_from([b"size", b"seed", b"x", b"lora"]),
) | st.integers(1, 100_000).map(lambda count: b'{"a":' * count + b"1" + b"}" * count)
DATA = (
    st.binary(max_size=100)
    | DEEP
    | BODIES.map(lambda body: json.dumps(body).encode())
    | st.builds(
        lambda body, at, junk: body[: at % len(body)] + junk + body[at % len(body) :],
        BODIES.map(lambda body: json.dumps(body).encode()),
        st.integers(0, 10_000),
        st.sampled_from([b"\0", b"\xff", b"\xed\xa0\x80", b"NaN", b"1e999", b"\\ud800", b'"', b"}", b",", b"\\",
                         b"0" * 400]),
    )
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(
        ["host", "origin", "authorization", "content-type", "content-encoding", "content-length", "accept", "cookie",
         "sec-fetch-site", "x-forwarded-host", "x-stainless-retry-count", "api-key", "expect", "range", "if-none-match",
         "access-control-request-method", "transfer-encoding", "x-http-method-override"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40).map(lambda text: text.encode("latin-1"))
    | st.sampled_from([b"application/json", b"text/plain", b"gzip", b"127.0.0.1:8000", b"[::1]", b"http://[", b"null",
                       b"-1"]),
    max_size=4,
)  # fmt: skip
PATHS = st.sampled_from([*DOCUMENT["paths"], "/", "/page/x", "/nothing"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=30
).map(lambda text: f"/{text}")
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X"])


def few(count: int) -> Any:
    """Hypothesis's settings for a number of examples."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check_body(ask: Ask, data: bytes) -> None:
    answer = ask("POST", GENERATE, content=data, headers=JSON)
    assert answer.status_code in (200, 400, 404), answer.text
    assert fault_of(DOCUMENT, "post", GENERATE, answer) is None


def check_request(ask: Ask, method: str, path: str, headers: dict[str, bytes], query: str, data: bytes) -> None:
    try:
        url = httpx.URL(f"http://127.0.0.1:8000{path}", params={"q": query})
    except httpx.InvalidURL:  # the client refuses it itself
        return
    answer = ask(method, url, headers=list(headers.items()), content=data)
    if method.lower() in DOCUMENT["paths"].get(path, {}):
        assert fault_of(DOCUMENT, method.lower(), path, answer) is None
        return
    assert answer.status_code < 500
    if answer.status_code >= 400 and method != "HEAD":
        assert len(answer.content) <= MAX_ERROR
        assert answer.json()["error"]["type"] in ERROR_TYPES


@few(150)
@given(st.data())
def test_any_body_is_answered_as_documented(ask: Ask, data: st.DataObject) -> None:
    check_body(ask, data.draw(DATA))


@few(150)
@given(METHODS, PATHS, HEADERS, TEXTS.map(ascii), st.binary(max_size=20))
def test_any_request_is_answered_as_documented(
    ask: Ask, method: str, path: str, headers: dict[str, bytes], query: str, data: bytes
) -> None:
    check_request(ask, method, path, headers, query, data)


@pytest.mark.slow
@few(3000)
@given(st.data())
def test_many_bodies_are_answered_as_documented(ask: Ask, data: st.DataObject) -> None:
    check_body(ask, data.draw(DATA))


@pytest.mark.slow
@few(1500)
@given(METHODS, PATHS, HEADERS, TEXTS.map(ascii), st.binary(max_size=20))
def test_many_requests_are_answered_as_documented(
    ask: Ask, method: str, path: str, headers: dict[str, bytes], query: str, data: bytes
) -> None:
    check_request(ask, method, path, headers, query, data)


A1111_NAMES = st.sampled_from(
    [
        *TextToImageRequest.model_fields,
        "steps",
        "sampler_name",
        "styles",
        "init_images",
        "script_args",
        "alwayson_scripts",
    ]
)
A1111_PROMPTS = st.sampled_from(
    [
        "a",
        "<lora:ink>",
        "<lora:ink:0.5>",
        "<lora:",
        "<lora:ink:NaN>",
        "<lora:../../x:1>",
        "<lora:ink:1e999>" * 20,
        "<" * 9999,
    ]
)
A1111_BODIES = st.builds(
    lambda prompt, wild: {"prompt": prompt, **wild}, A1111_PROMPTS | ANY, st.dictionaries(A1111_NAMES, ANY, max_size=3)
)


@few(100)
@given(A1111_BODIES)
def test_any_body_of_a1111_is_drawn_or_refused(ask: Ask, body: dict[str, Any]) -> None:
    for route in ("txt2img", "img2img", "options"):
        answer = ask("POST", f"{A1111_PREFIX}v1/{route}", content=json.dumps(body).encode(), headers=JSON)
        assert answer.status_code in (200, 404, 422), answer.text
        assert answer.status_code == 200 or len(answer.content) <= MAX_ERROR


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("value", ["canary" * 6000, ["canary"], {"canary": "canary"}])
def test_what_people_write_to_a1111_is_never_in_an_error(ask: Ask, name: str, value: Any) -> None:
    body = json.dumps({"prompt": "a", name: value}).encode()
    answer = ask("POST", f"{A1111_PREFIX}v1/txt2img", content=body, headers=JSON)
    assert answer.status_code == 422
    assert "canary" not in answer.text


NASTY = {
    "NaN": b'{"prompt":"a","temperature":NaN}',
    "infinity": b'{"prompt":Infinity}',
    "a large exponent": b'{"prompt":"a","temperature":1e999}',
    "half a surrogate pair": b'{"prompt":"\\ud800"}',
    "half a pair in a name": b'{"prompt":"a","\\udfff":1}',
    "100,000 lists": b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "100,000 open lists": b"[" * 100_000,
    "a number of 100,000 digits": b'{"prompt":"a","seed":' + b"9" * 100_000 + b"}",
    "100,000 keys": b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}",
    "100,000 seeds": b'{"prompt":"a","seed":[' + b"1," * 100_000 + b"1]}",
    "100,000 escapes": b'{"prompt":"' + b"\\u0041" * 100_000 + b'"}',
    "UTF-16": '{"prompt":"a"}'.encode("utf-16"),
    "UTF-32": '{"prompt":"a"}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"prompt":"a"}',
    "latin-1": '{"prompt":"\xe9"}'.encode("latin-1"),
    "a prompt of a list": b'{"prompt":["a"]}',
    "the name of another class": b'{"prompt":"a","__class__":"x","__proto__":{"n":2}}',
    "two prompts": b'{"prompt":"a","prompt":"b"}',
    "a comment": b'{"prompt":"a"}//',
    "1 MiB of spaces": b" " * (1 << 20),
    "nothing": b"",
}


@pytest.mark.parametrize("name", NASTY)
def test_what_naive_servers_fail_at_is_a_short_400(ask: Ask, name: str) -> None:
    answer = ask("POST", GENERATE, content=NASTY[name], headers=JSON)
    assert answer.status_code == 400
    assert fault_of(DOCUMENT, "post", GENERATE, answer) is None
    assert len(answer.content) < 1000


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "user", "safety_identifier"])
@pytest.mark.parametrize("value", ["canary" * 6000, ["canary"], {"canary": "canary"}])
def test_what_people_write_is_never_in_an_error(ask: Ask, name: str, value: Any) -> None:
    answer = ask("POST", GENERATE, content=json.dumps({"prompt": "a", name: value}).encode(), headers=JSON)
    assert answer.status_code == 400
    assert "canary" not in answer.text


@pytest.mark.parametrize("field", [field for field in ImagesRequest.model_fields if field != "prompt"])
def test_long_values_and_names_are_not_echoed(ask: Ask, field: str) -> None:
    for body in ({field: "canary" * 1000}, {field: ["canary" * 1000] * 100}, {"canary" * 1000: 1}):
        answer = ask("POST", GENERATE, content=json.dumps({"prompt": "a", **body}).encode(), headers=JSON)
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 1500 and answer.text.count("canary") <= 20
