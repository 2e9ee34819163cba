"""What every request passes first: its id, the Host and Origin checks, the key, security headers, log and counts."""

import base64
import binascii
import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

from bitvar.serving.http.errors import A1111_PREFIX, ApiError, a1111_envelope, envelope
from bitvar.serving.http.metrics import HttpMetrics
from bitvar.serving.http.sending import Message, Receive, Send, json_answer
from bitvar.serving.http.settings import LOCAL_NAMES, ServerSettings

App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

ACCESS_LOG: Final = logging.getLogger("bitvar.serving.access")
_LOG: Final = logging.getLogger(__name__)

OPEN_PATHS: Final = ("/livez", "/readyz", "/")
OPEN_PREFIXES: Final = ("/page/",)
"""What needs no key: probes, which say nothing, and the page, which asks for the key. Images behind a URL are open too,
since the id in the URL can't be guessed."""

_QUIET_PATHS: Final = ("/livez", "/readyz", "/metrics")
"""What is asked every few seconds or, with the files of the page, by dozens: counted, and logged only when it fails."""

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_UNKNOWN: Final = "unknown"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
"""Methods that have their own name in counts and logs; a client could invent any number of others."""

MAX_HEADERS: Final = 100
_SINGLE: Final = (
    b"host", b"content-length", b"content-type", b"transfer-encoding", b"authorization", b"api-key", b"origin"
)  # fmt: skip
"""Headers that decide something here. If one is given twice, a proxy before this server may have read the other."""

_HOST: Final = re.compile(r"(\[[0-9a-f:.]*\]|[^:\[\]]*)(?::[0-9]*)?")
_HEADER_NAMES: Final = re.compile("[A-Za-z0-9, _-]{1,2000}")


class Guard:
    """ASGI middleware around the whole API.

    Args:
        app: Application with the routes.
        settings: Keys, hosts and origins.
        metrics: Counts of requests.
    """

    def __init__(self, app: App, settings: ServerSettings, metrics: HttpMetrics) -> None:
        self._app = app
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        public = None if settings.public_url is None else authority_of(settings.public_url)
        self._authorities = frozenset(() if public is None else (public,))
        self._hosts = _host_names((*LOCAL_NAMES, settings.host, *settings.allowed_hosts, *self._authorities))
        self._any_host = not settings.is_local and not settings.allowed_hosts
        self._origins = frozenset(settings.allowed_origins)
        self._metrics = metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        began, status, began_answer = time.perf_counter(), 0, False

        async def answer(message: Message) -> None:
            nonlocal status, began_answer
            if message["type"] == "http.response.start":
                status, began_answer = message["status"], True
                pairs = self._with_headers(message["headers"], status, request_id, headers)
                message = {**message, "headers": pairs}
            await send(message)

        try:
            error = self._check_access(scope, headers)
            if error is not None:
                await error_answer(error, scope["path"])(scope, receive, answer)
            elif self._is_preflight(scope["method"], headers):
                await json_answer({}, headers=_preflight(headers))(scope, receive, answer)
            elif scope["method"] == "HEAD":
                await self._answer_head(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:  # a fault of ours: the client learns only that
            _LOG.error("request %s failed unexpectedly", request_id, exc_info=error)
            if not began_answer:
                fault = ApiError(500, "The request failed because of a fault in the server.", code="server_error")
                await error_answer(fault, scope["path"])(scope, receive, answer)
        finally:
            self._record(scope, headers, request_id, status, time.perf_counter() - began)

    async def _answer_head(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer as to GET, without the body."""

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        as_get = {**scope, "method": "GET"}
        await self._app(as_get, receive, send_head)
        if "route" in as_get:
            scope["route"] = as_get["route"]

    def _check_access(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> ApiError | None:
        if (fault := _ambiguity(scope["headers"])) is not None:
            return ApiError(400, fault, code="invalid_headers", headers={"connection": "close"})
        host, method, path = headers.get("host", ""), scope["method"], scope["path"]
        if not self._any_host and _without_port(host) not in self._hosts:
            message = "This server isn't served under that Host; start it with --allowed-host NAME if it should be."
            return ApiError(403, message, error_type="invalid_request_error", code="invalid_host")
        if not self._is_own_page(headers, host) and not _is_harmless(method, path, headers):
            message = "Web pages of other origins may not use this server; start it with --allow-origin ORIGIN."
            return ApiError(403, message, error_type="invalid_request_error", code="invalid_origin")
        is_preflight = self._is_preflight(method, headers)
        if self._keys and not is_open(path) and not is_preflight and not self._has_key(headers, path):
            message, scheme = "This server needs a key: send it as `Authorization: Bearer KEY`.", "Bearer"
            if path.startswith(A1111_PREFIX):
                message = "This server needs a key: send it as the password, after any user name."
                scheme = 'Basic realm="bitvar", charset="UTF-8"'
            return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": scheme})
        return None

    def _is_own_page(self, headers: dict[str, str], host: str) -> bool:
        """Whether a request comes from a page of this server or of an allowed origin, or from no page at all."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin", "same-site")
        authority = authority_of(origin)
        return origin in self._origins or (authority is not None and authority in (host.lower(), *self._authorities))

    def _is_preflight(self, method: str, headers: dict[str, str]) -> bool:
        """Whether a browser asks what an allowed origin may send; it asks without a key."""
        asks = method == "OPTIONS" and "access-control-request-method" in headers
        return asks and headers.get("origin") in self._origins

    def _has_key(self, headers: dict[str, str], path: str) -> bool:
        given = _given_key(headers, basic=path.startswith(A1111_PREFIX))
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        return any(matches)  # every key is compared, so the time says nothing

    def _with_headers(
        self, pairs: Iterable[tuple[bytes, bytes]], status: int, request_id: str, request: dict[str, str]
    ) -> list[tuple[bytes, bytes]]:
        present = {name for name, _ in pairs}
        more = {**_HEADERS, "x-request-id": request_id, "cache-control": "no-store"}
        if self._origins:
            more["vary"] = "Origin"
        if (origin := request.get("origin")) in self._origins:
            more["access-control-allow-origin"] = str(origin)
            more["access-control-expose-headers"] = "x-request-id, retry-after"
        if "expect" in request and status >= 400:  # the client may send its body, or leave it out and go on
            more["connection"] = "close"
        added = [(name.encode(), value.encode("latin-1")) for name, value in more.items()]
        return [*pairs, *((name, value) for name, value in added if name not in present)]

    def _record(
        self, scope: MutableMapping[str, Any], headers: dict[str, str], request_id: str, status: int, seconds: float
    ) -> None:
        """Count a request, and log it unless it is routine: never its query, its body or its key."""
        route = getattr(scope.get("route"), "path", None) or _UNKNOWN
        method = scope["method"] if scope["method"] in _METHODS else _UNKNOWN
        self._metrics.count(method, route, status, seconds)
        entry = {
            "id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
            **scope["state"].get("log", {}),
        }
        if re.fullmatch("[1-9][0-9]{0,3}", retry := headers.get("x-stainless-retry-count", "")):
            entry["retry"] = retry
        if status >= 400 or not (route in _QUIET_PATHS or route.startswith(OPEN_PREFIXES)):
            ACCESS_LOG.info("request", extra={"fields": entry})


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return (
        path in OPEN_PATHS
        or path.startswith(OPEN_PREFIXES)
        or (path.startswith("/v1/images/") and path.endswith("/content"))
    )


def authority_of(origin: str) -> str | None:
    """Name and port in an origin or a URL, in lower case; None where it is neither of http nor of https."""
    scheme, separator, rest = origin.partition("://")
    authority = rest.partition("/")[0].lower()
    return authority if separator and scheme.lower() in ("http", "https") and authority else None


def _ambiguity(pairs: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What two servers could read differently in the headers; None where there is nothing."""
    names = [name.lower() for name, _ in pairs]
    if len(names) > MAX_HEADERS:
        return f"A request may have at most {MAX_HEADERS} headers."
    for name in _SINGLE:
        if names.count(name) > 1:
            return f"The header {name.decode()} may be given once only."
    if b"content-length" in names and b"transfer-encoding" in names:
        return "A request has a Content-Length or a Transfer-Encoding, not both."
    return None


def _is_harmless(method: str, path: str, headers: dict[str, str]) -> bool:
    """Whether any web page may cause such a request, since it changes nothing: a link to the page, an image by URL."""
    return method in ("GET", "HEAD") and "origin" not in headers and is_open(path)


def _preflight(headers: dict[str, str]) -> dict[str, str]:
    asked = headers.get("access-control-request-headers", "")
    return {
        "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
        "access-control-allow-headers": asked if _HEADER_NAMES.fullmatch(asked) else "authorization, content-type",
        "access-control-max-age": "600",
    }


def error_answer(error: ApiError, path: str) -> Any:
    """Answer with an error in the form that the clients of a path read: OpenAI's, or that of A1111."""
    if path.startswith(A1111_PREFIX):
        status = 422 if error.status == 400 else error.status  # what its framework says of wrong values
        return json_answer(a1111_envelope(error), status=status, headers=error.headers)
    return json_answer(envelope(error), status=error.status, headers=error.headers)


def _given_key(headers: Mapping[str, str], *, basic: bool) -> bytes:
    """The key that a request carries; empty if it carries none.

    Args:
        headers: Headers by name in lower case, decoded as Latin-1.
        basic: Whether the password of `Authorization: Basic` is a key. Browsers send those on their own, so they count
            only where clients have nothing better.
    """
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip().encode("latin-1")
    if basic and kind.lower() == "basic":
        try:
            return base64.b64decode(token.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return headers.get("api-key", "").encode("latin-1")


def _host_names(values: Iterable[str]) -> frozenset[str]:
    names = {_without_port(value) for value in values}
    return frozenset(names | {f"[{name}]" for name in names if ":" in name and not name.startswith("[")})


def _without_port(host: str) -> str:
    """The name in a Host header, in lower case; the whole of it where it isn't a name and a port."""
    host = host.strip().lower()
    match = _HOST.fullmatch(host)
    return host if match is None else match[1]
