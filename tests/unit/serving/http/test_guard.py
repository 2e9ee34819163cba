"""Who is let in: open routes, keys, hosts, origins, and headers that two servers could read differently."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from pydantic import SecretStr
from starlette.routing import Route

from bitvar.serving.http import guard
from bitvar.serving.http.app import create_app
from bitvar.serving.http.errors import A1111_PREFIX
from bitvar.serving.http.guard import MAX_HEADERS, OPEN_PATHS, OPEN_PREFIXES, authority_of
from bitvar.serving.http.settings import ServerSettings
from tests.support.serving import App, running_app

KEY = "a-key-that-nobody-guesses"
OTHER = "another-key-nobody-guesses"
KEYED = ServerSettings(api_keys=(SecretStr(OTHER), SecretStr(KEY)))
PROMPT = {"prompt": "a red apple"}
JSON = "application/json"

OPEN = {
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/"),
    ("GET", "/page/{name}"),
    ("GET", "/v1/images/{image_id}/content"),
}
"""Everything that is answered without a key."""


def ask(
    *requests: tuple[str, str, Sequence[tuple[str, str]]], settings: ServerSettings = KEYED, body: Any = None
) -> list[httpx.Response]:
    """Send requests (method, path, headers) to one application."""

    async def run() -> list[httpx.Response]:
        async with running_app(settings=settings) as app:
            return [await send(app, *request, body=body) for request in requests]

    return asyncio.run(run())


async def send(app: App, method: str, path: str, headers: Sequence[tuple[str, str]], *, body: Any) -> httpx.Response:
    content = None if body is None else json.dumps(body).encode()
    typed = [] if body is None or any(name == "content-type" for name, _ in headers) else [("content-type", JSON)]
    return await app.client.request(method, path, headers=[*headers, *typed], content=content)


def ask_raw(method: str, path: str, headers: Sequence[tuple[str, str]], *, settings: ServerSettings) -> list[Any]:
    """Send a request that httpx would tidy up first, such as one with `..` in its path; return the ASGI messages."""
    plain, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": unquote(plain), "query_string": query.encode(), "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def note(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        async with running_app(settings=settings) as app:
            await app.app(scope, receive, note)

    asyncio.run(run())
    return sent


def ask_plainly(method: str, path: str) -> int:
    """The status of a request without a key."""
    return ask_raw(method, path, [("host", "127.0.0.1")], settings=KEYED)[0]["status"]


def routes() -> list[tuple[str, str]]:
    """Method and path of every route."""

    async def run() -> list[tuple[str, str]]:
        async with running_app() as app:
            inner: Any = app.app._app
            found = inner.routes
            assert all(isinstance(route, Route) for route in found)
            return [(method, route.path) for route in found for method in route.methods]

    return asyncio.run(run())


def test_the_list_of_what_is_open_is_exact() -> None:
    assert (OPEN_PATHS, OPEN_PREFIXES) == (("/livez", "/readyz", "/"), ("/page/",))
    assert set(routes()) >= OPEN


def test_every_other_route_needs_a_key() -> None:
    every = routes()
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
    pairs = sorted({*every, *((method, path) for _, path in every for method in methods)})
    filled = [(method, path.replace("{", "").replace("}", "").replace(":path", ""), ()) for method, path in pairs]
    for pair, answer in zip(pairs, ask(*filled), strict=True):
        is_open = pair in OPEN or pair[1] in {path for _, path in OPEN}
        assert (answer.status_code != 401) == is_open, pair
        if not is_open and pair[0] != "HEAD":
            is_a1111 = pair[1].startswith(A1111_PREFIX)
            error = answer.json()["error"]
            assert (error if is_a1111 else error["code"]) == "invalid_api_key"
            assert answer.headers["www-authenticate"].split()[0] == ("Basic" if is_a1111 else "Bearer")
        if is_open and pair not in OPEN:
            assert answer.status_code in ((200, 404, 503) if pair[0] == "HEAD" else (405,)), pair


@pytest.mark.parametrize(
    "path",
    ["/docs", "/redoc", "/nothing", "/v1", "/v1/", "/livez/", "/readyz/x", "//livez", "//v1/models",
     "/livez/../v1/models", "/v1/models/", "/v1/models/../livez", "/V1/models", "/page", "/pages/x",
     "/v1/images/x/contents", "/%2e%2e/v1/models", "/livez%2f..%2fv1/models", "/v1/models?x=/livez",
     "/openapi.json", "/metrics", "/version"],
)  # fmt: skip
def test_no_other_path_is_answered_without_a_key(path: str) -> None:
    assert ask_plainly("GET", path) == 401


@pytest.mark.parametrize(
    "path",
    ["/page/../v1/models", "/page/%2e%2e/v1/models", "/page/..%2fv1%2fmodels", "/v1/images/../models/content",
     "/v1/images/x/../../models/content", "/v1/images/content", "/v1/images/x/y/content", "/v1/images//content",
     "/page//v1/models"],
)  # fmt: skip
def test_paths_that_look_open_lead_nowhere(path: str) -> None:
    assert ask_plainly("GET", path) == 404


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


@pytest.mark.parametrize("path", ["/livez", "/", "/v1/models", "/page/main.js", "/nowhere"])
def test_a_head_is_answered_like_a_get_without_its_body(path: str) -> None:
    key = (("authorization", f"Bearer {KEY}"),)
    get, head = ask(("GET", path, key), ("HEAD", path, key))
    volatile = {"x-request-id", "date"}
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert {*head.headers} == {*get.headers}
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in get.headers.items() if k not in volatile
    }


@pytest.mark.parametrize(
    "headers",
    [bearer(KEY), bearer(OTHER), [("Authorization", f"bearer  {KEY} ")], [("api-key", KEY)],
     [("authorization", "Basic eDp5"), ("api-key", KEY)]],
)  # fmt: skip
def test_a_key_opens(headers: list[tuple[str, str]]) -> None:
    assert ask(("GET", "/v1/models", headers))[0].status_code == 200


@pytest.mark.parametrize(
    "headers",
    [[], bearer(""), bearer(KEY[:-1]), bearer(KEY + "x"), bearer(KEY.upper()), bearer(f"{KEY} {KEY}"),
     bearer("\xe9" * 25), [("authorization", KEY)], [("authorization", f"Basic {KEY}")],
     [("authorization", f"Bearer{KEY}")], [("authorization", "Bearer wrong"), ("api-key", KEY)],
     [("x-api-key", KEY)], [("cookie", f"api-key={KEY}")]],
)  # fmt: skip
def test_nothing_else_opens(headers: list[tuple[str, str]]) -> None:
    latin = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    answers = ask(("GET", "/v1/models", latin), ("GET", f"/v1/models?api-key={KEY}", latin))  # type: ignore[arg-type]
    for answer in answers:
        assert answer.status_code == 401
        assert KEY not in answer.text


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = guard.hmac.compare_digest

    def count(given: bytes, key: bytes) -> bool:
        compared.append(key)
        return compare(given, key)

    monkeypatch.setattr(guard.hmac, "compare_digest", count)
    for given in (OTHER, KEY, "wrong"):
        compared.clear()
        ask(("GET", "/v1/models", bearer(given)))
        assert compared == [OTHER.encode(), KEY.encode()], given


def test_a_server_without_keys_answers_all() -> None:
    assert ask(("GET", "/v1/models", ()), settings=ServerSettings())[0].status_code == 200


# Hosts: a name that an attacker points at 127.0.0.1 must not reach the server

PUBLIC = ServerSettings(host="0.0.0.0", api_keys=(SecretStr(KEY),))
NAMED = ServerSettings(host="0.0.0.0", api_keys=(SecretStr(KEY),), allowed_hosts=("images.example.org",))
V6 = ServerSettings(host="::1")


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        (ServerSettings(), "127.0.0.1:8000", 200),
        (ServerSettings(), "127.0.0.1", 200),
        (ServerSettings(), "localhost:1234", 200),
        (ServerSettings(), "LOCALHOST:8000", 200),
        (ServerSettings(), "[::1]:8000", 200),
        (ServerSettings(), "evil.example", 403),
        (ServerSettings(), "evil.example:8000", 403),
        (ServerSettings(), "127.0.0.1.evil.example", 403),
        (ServerSettings(), "127.0.0.1:8000.evil.example", 403),
        (ServerSettings(), "127.0.0.1@evil.example", 403),
        (ServerSettings(), "evil.example#127.0.0.1", 403),
        (ServerSettings(), "localhost.evil.example:8000", 403),
        (ServerSettings(), "2130706433", 403),
        (ServerSettings(), "[::1].evil.example", 403),
        (ServerSettings(), "", 403),
        (V6, "[::1]:8000", 200),
        (V6, "evil.example", 403),
        (NAMED, "images.example.org", 200),
        (NAMED, "images.example.org:443", 200),
        (NAMED, "evil.example", 403),
        (PUBLIC, "whatever.example", 200),
        (ServerSettings(public_url="https://images.example.org/api"), "images.example.org", 200),
        (ServerSettings(public_url="https://images.example.org/api"), "evil.example", 403),
    ],
)
def test_only_own_names_are_served(settings: ServerSettings, host: str, status: int) -> None:
    answer = ask(("GET", "/v1/models", [("host", host), *bearer(KEY)]), settings=settings)[0]
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "invalid_host"
        assert host not in answer.text or not host


# Origins: a page of another site must not use the server of whoever looks at it

ALLOWED = ServerSettings(allowed_origins=("https://app.example.org",), api_keys=(SecretStr(KEY),))
PROXIED = ServerSettings(public_url="https://images.example.org")


@pytest.mark.parametrize(
    ("settings", "method", "headers", "status"),
    [
        (ServerSettings(), "POST", {}, 200),
        (ServerSettings(), "POST", {"origin": "http://127.0.0.1:8000"}, 200),
        (ServerSettings(), "POST", {"origin": "HTTP://127.0.0.1:8000"}, 200),
        (ServerSettings(), "POST", {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        (ServerSettings(), "POST", {"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-site"}, 403),
        (ServerSettings(), "POST", {"origin": "http://localhost:8000"}, 403),
        (ServerSettings(), "POST", {"origin": "http://evil.example"}, 403),
        (ServerSettings(), "POST", {"origin": "http://127.0.0.1:8000@evil.example"}, 403),
        (ServerSettings(), "POST", {"origin": "http://127.0.0.1:8000.evil.example"}, 403),
        (ServerSettings(), "POST", {"origin": "file://127.0.0.1:8000"}, 403),
        (ServerSettings(), "POST", {"origin": "null"}, 403),
        (ServerSettings(), "POST", {"origin": ""}, 403),
        (ServerSettings(), "POST", {"origin": "*"}, 403),
        (ServerSettings(), "POST", {"origin": "http://["}, 403),
        (ServerSettings(), "POST", {"origin": "http://"}, 403),
        (ServerSettings(), "POST", {"sec-fetch-site": "cross-site"}, 403),
        (ServerSettings(), "GET", {"sec-fetch-site": "cross-site"}, 403),
        (ServerSettings(), "POST", {"origin": "http://evil.example", "content-type": "text/plain"}, 403),
        (ServerSettings(), "POST", {"content-type": "text/plain"}, 400),
        (ServerSettings(), "POST", {"content-type": "application/x-www-form-urlencoded"}, 400),
        (ServerSettings(), "POST", {"content-type": "multipart/form-data; boundary=x"}, 400),
        (ALLOWED, "POST", {"origin": "https://app.example.org", "authorization": f"Bearer {KEY}"}, 200),
        (ALLOWED, "POST", {"origin": "https://app.example.org"}, 401),
        (ALLOWED, "POST", {"origin": "http://app.example.org", "authorization": f"Bearer {KEY}"}, 403),
        (ALLOWED, "POST", {"origin": "https://app.example.org.evil.example"}, 403),
        (ALLOWED, "POST", {"origin": "https://evil.example", "authorization": f"Bearer {KEY}"}, 403),
        (PROXIED, "POST", {"origin": "https://images.example.org"}, 200),
        (PROXIED, "POST", {"origin": "https://evil.example"}, 403),
    ],
)
def test_only_own_pages_may_use_the_server(
    settings: ServerSettings, method: str, headers: dict[str, str], status: int
) -> None:
    path = "/v1/images/generations" if method == "POST" else "/v1/models"
    body = PROMPT if method == "POST" else None
    answer = ask((method, path, list(headers.items())), settings=settings, body=body)[0]
    assert answer.status_code == status
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (headers["origin"] if headers.get("origin") in settings.allowed_origins else None)


@pytest.mark.parametrize("path", ["/", "/livez", "/v1/images/x/content"])
def test_a_link_or_an_image_on_another_page_works(path: str) -> None:
    answer = ask(("GET", path, [("sec-fetch-site", "cross-site")]), settings=ServerSettings())[0]
    assert answer.status_code in (200, 404)
    assert answer.headers["x-frame-options"] == "DENY"
    assert ask(("POST", path, [("sec-fetch-site", "cross-site")]), settings=ServerSettings())[0].status_code == 403


@pytest.mark.parametrize(
    ("settings", "origin", "asks", "status"),
    [
        (ALLOWED, "https://app.example.org", True, 200),
        (ALLOWED, "https://app.example.org", False, 401),  # no preflight without its question
        (ALLOWED, "https://evil.example", True, 403),
        (ALLOWED, "http://127.0.0.1:8000", True, 401),
        (ServerSettings(), "https://app.example.org", True, 403),
        (ServerSettings(), "http://127.0.0.1:8000", True, 405),
    ],
)
def test_preflights_are_for_allowed_origins(settings: ServerSettings, origin: str, asks: bool, status: int) -> None:
    headers = [("origin", origin), ("access-control-request-headers", "authorization,x-stainless-lang")]
    headers += [("access-control-request-method", "POST")] if asks else []
    answer = ask(("OPTIONS", "/v1/images/generations", headers), settings=settings)[0]
    assert answer.status_code == status
    if status == 200:
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-headers"] == "authorization,x-stainless-lang"
        assert answer.headers["vary"] == "Origin"
    else:
        assert "access-control-allow-methods" not in answer.headers
    assert "access-control-allow-credentials" not in answer.headers


def test_a_preflight_lets_no_strange_header_names_into_the_answer() -> None:
    headers = [("origin", "https://app.example.org"), ("access-control-request-method", "POST")]
    answer = ask(
        ("OPTIONS", "/", [*headers, ("access-control-request-headers", "x: y\tz; <b>")]), settings=ALLOWED
    )[0]  # fmt: skip
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"


@pytest.mark.parametrize(
    ("origin", "authority"),
    [("https://A.example:1", "a.example:1"), ("http://a/b/c", "a"), ("ftp://a", None), ("null", None),
     ("http://", None), ("", None), ("http:a", None), ("http://[::1]:5", "[::1]:5"), ("https://u@a", "u@a")],
)  # fmt: skip
def test_an_authority_is_name_and_port(origin: str, authority: str | None) -> None:
    assert authority_of(origin) == authority


# Headers


@pytest.mark.parametrize(
    "pairs",
    [[("host", "127.0.0.1"), ("host", "127.0.0.1")], [("authorization", f"Bearer {KEY}")] * 2, [("api-key", "x")] * 2,
     [("origin", "http://127.0.0.1:8000")] * 2, [("content-type", JSON), ("Content-Type", "text/plain")],
     [("content-length", "2")] * 2, [("content-length", "2"), ("transfer-encoding", "chunked")],
     [("transfer-encoding", "chunked")] * 2, [(f"x-{i}", "a") for i in range(MAX_HEADERS + 1)]],
)  # fmt: skip
def test_headers_that_two_servers_could_read_differently_are_refused(pairs: list[tuple[str, str]]) -> None:
    head = [] if any(name == "host" for name, _ in pairs) else [("host", "127.0.0.1")]
    sent = ask_raw("GET", "/v1/models", [*head, *pairs], settings=ServerSettings())
    assert sent[0]["status"] == 400
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["code"] == "invalid_headers"


@pytest.mark.parametrize("path", ["/", "/livez", "/v1/models", "/nothing", "/v1/images/x/content", "/metrics"])
def test_every_answer_has_an_id_and_the_security_headers(path: str) -> None:
    (answer,) = ask(("GET", path, ()), settings=ServerSettings())
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy and "http" not in policy
    assert "server" not in answer.headers
    assert "*" not in answer.headers.values()


def test_routine_requests_are_counted_but_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bitvar.serving.access")
    routine = [("GET", path, ()) for path in ("/livez", "/metrics", "/page/main.js")]
    *_, metrics = ask(*routine, ("GET", "/page/none", ()), ("GET", "/v1/models", ()), ("GET", "/metrics", ()),
                      settings=ServerSettings())  # fmt: skip
    logged = [
        (record.fields["route"], record.fields["status"]) for record in caplog.records if hasattr(record, "fields")
    ]
    assert logged == [("/page/{name}", 404), ("/v1/models", 200)]
    assert 'route="/livez",status="200"} 1.0' in metrics.text


def test_a_request_chooses_neither_its_id_nor_names_in_metrics(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bitvar.serving.access")
    requests = [(f"METHOD{i}", f"/{i}", [("x-request-id", "chosen"), ("x-stainless-retry-count", "1 <b>")])
                for i in range(20)]  # fmt: skip
    *answers, metrics = ask(*requests, ("GET", "/metrics", ()), settings=ServerSettings())
    assert all(answer.headers["x-request-id"] != "chosen" for answer in answers)
    lines = [line for line in metrics.text.splitlines() if line.startswith("bitvar_http_requests_total")]
    assert lines == ['bitvar_http_requests_total{method="unknown",route="unknown",status="404"} 20.0']
    logged = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert {(fields["method"], fields["route"]) for fields in logged} >= {("unknown", "unknown")}
    assert all("retry" not in fields for fields in logged)


def test_a_fault_of_the_server_is_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with running_app() as app:

            async def break_down(scope: Any, receive: Any, send: Any) -> None:
                raise ValueError("a secret prompt")

            app.app._app = break_down
            answer = await app.client.get("/v1/models")
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "server_error"
            assert "secret" not in answer.text

    asyncio.run(run())
    assert any("failed unexpectedly" in record.message for record in caplog.records)


def test_the_application_is_behind_the_guard() -> None:
    async def run() -> None:
        async with running_app() as app:
            assert isinstance(create_app(app.engine, ServerSettings()), guard.Guard)

    asyncio.run(run())
