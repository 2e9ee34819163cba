"""What every request passes first: its id, the Host and Origin checks, the key, security headers, log and counts."""

import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from bitvar.serving.http.errors import ApiError, envelope
from bitvar.serving.http.measures import HttpMeasures
from bitvar.serving.http.sending import Message, Receive, Send, json_answer
from bitvar.serving.http.settings import LOCAL_NAMES, ServerSettings

App: TypeAlias = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

ACCESS_LOG: Final = logging.getLogger("bitvar.serving.access")
_LOG: Final = logging.getLogger(__name__)

OPEN_PATHS: Final = ("/livez", "/readyz", "/")
OPEN_PREFIXES: Final = ("/page/",)
"""What needs no key: probes, which say nothing, and the page, which asks for the key. Images behind a URL are open too,
since the id in the URL can't be guessed."""

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
_UNKNOWN_ROUTE: Final = "unknown"
_METHODS: Final = "GET, POST, DELETE, OPTIONS"


class Guard:
    """ASGI middleware around the whole API.

    Args:
        app: Application with the routes.
        settings: Keys, hosts and origins.
        measures: Counts of requests.
    """

    def __init__(self, app: App, settings: ServerSettings, measures: HttpMeasures) -> None:
        self._app = app
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._hosts = _host_names((*LOCAL_NAMES, settings.host, *settings.allowed_hosts))
        self._any_host = not settings.is_local and not settings.allowed_hosts
        self._origins = frozenset(settings.allowed_origins)
        self._measures = measures

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
                message = {**message, "headers": self._with_headers(message["headers"], request_id, headers)}
            await send(message)

        try:
            error = self._refusal(scope, headers)
            if error is not None:
                await error_answer(error)(scope, receive, answer)
            elif scope["method"] == "OPTIONS" and headers.get("origin") in self._origins:
                await json_answer({}, headers=self._preflight())(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:  # a fault of ours: the client learns only that
            _LOG.error("request %s failed unexpectedly", request_id, exc_info=error)
            if not began_answer:
                fault = ApiError(500, "The request failed because of a fault in the server.", code="server_error")
                await error_answer(fault)(scope, receive, answer)
        finally:
            self._record(scope, headers, request_id, status, time.perf_counter() - began)

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> ApiError | None:
        host = _without_port(headers.get("host", ""))
        if not self._any_host and host not in self._hosts:
            message = "This server isn't served under that Host; start it with --allowed-host NAME if it should be."
            return ApiError(403, message, error_type="invalid_request_error", code="invalid_host")
        if not self._is_own_page(headers, host):
            message = "Web pages of other origins may not use this server; start it with --allow-origin ORIGIN."
            return ApiError(403, message, error_type="invalid_request_error", code="invalid_origin")
        if self._keys and not is_open(scope["path"]) and not self._has_key(headers) and scope["method"] != "OPTIONS":
            message = "This server needs a key: send it as `Authorization: Bearer KEY`."
            return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return None

    def _is_own_page(self, headers: dict[str, str], host: str) -> bool:
        """Whether a request comes from a page of this server, or from no page at all."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin", "same-site")
        return origin in self._origins or (urlsplit(origin).netloc == headers.get("host") and bool(host))

    def _has_key(self, headers: dict[str, str]) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if kind.lower() == "bearer" else headers.get("api-key", "")
        matches = [hmac.compare_digest(given.encode("utf-8", "surrogatepass"), key) for key in self._keys]
        return any(matches)  # every key is compared, so the time says nothing

    def _with_headers(
        self, pairs: Iterable[tuple[bytes, bytes]], request_id: str, request: dict[str, str]
    ) -> list[tuple[bytes, bytes]]:
        present = {name for name, _ in pairs}
        more = {**_HEADERS, "x-request-id": request_id, "cache-control": "no-store"}
        if (origin := request.get("origin")) in self._origins:
            more |= {
                "access-control-allow-origin": str(origin),
                "access-control-expose-headers": "x-request-id, retry-after",
                "vary": "Origin",
            }
        added = [(name.encode(), value.encode("latin-1")) for name, value in more.items()]
        return [*pairs, *((name, value) for name, value in added if name not in present)]

    def _preflight(self) -> dict[str, str]:
        return {
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": "authorization, content-type, api-key",
            "access-control-max-age": "600",
        }

    def _record(
        self, scope: MutableMapping[str, Any], headers: dict[str, str], request_id: str, status: int, seconds: float
    ) -> None:
        """Count and log a request: never its query, its body or its key."""
        route = getattr(scope.get("route"), "path", None) or _UNKNOWN_ROUTE
        self._measures.count(scope["method"], route, status, seconds)
        entry = {
            "id": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
            **scope["state"].get("log", {}),
        }
        if (retry := headers.get("x-stainless-retry-count", "0")) != "0":
            entry["retry"] = retry[:4]
        ACCESS_LOG.info("request", extra={"fields": entry})


def is_open(path: str) -> bool:
    """Whether a path needs no key."""
    return (
        path in OPEN_PATHS
        or path.startswith(OPEN_PREFIXES)
        or (path.startswith("/v1/images/") and path.endswith("/content"))
    )


def error_answer(error: ApiError) -> Any:
    """Answer with an error in OpenAI's envelope."""
    return json_answer(envelope(error), status=error.status, headers=error.headers)


class JsonLines(logging.Formatter):
    """Formats log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _host_names(values: Iterable[str]) -> frozenset[str]:
    names = {_without_port(value) for value in values}
    return frozenset(names | {f"[{name}]" for name in names if ":" in name and not name.startswith("[")})


def _without_port(host: str) -> str:
    """The name in a Host header, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if host.count(":") == 1 else host
