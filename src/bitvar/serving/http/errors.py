"""Errors of the HTTP API in OpenAI's envelope. They never echo long input, and a body stays under 4 KiB.

This file knows no web framework: a route turns an `ApiError` into a response.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from bitvar.errors import UsageError
from bitvar.serving.engine.events import Failed

MAX_MESSAGE: Final = 1800
"""Longest message and parameter name, in bytes of JSON: the envelope around it stays under 4 KiB."""

A1111_PREFIX: Final = "/sdapi/"
"""What the paths of A1111's API begin with; its clients read errors in another form."""

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "authentication_error",
    429: "rate_limit_error",
}

ERROR_TYPES: Final = ("invalid_request_error", "authentication_error", "rate_limit_error", "server_error")
"""Kinds of errors in OpenAI's terms."""

_FAILURES: Final[Mapping[str, int]] = {
    "invalid_value": 400,
    "moderation_blocked": 400,
    "out_of_memory": 503,
    "worker_died": 503,
    "timeout": 504,
}
"""Status for each code of a failed job; 500 for any other."""


class ApiError(Exception):
    """A refusal or failure that a client is told about.

    Args:
        status: HTTP status.
        message: A sentence or two for the client. Text longer than `MAX_MESSAGE` is cut.
        error_type: Kind of error in OpenAI's terms; None derives it from the status.
        param: Field of the request that is at fault.
        code: Machine-readable reason, such as "invalid_value".
        headers: Headers to send with it, such as `Retry-After`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error_type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.message = _bounded(message)
        self.type = error_type or type_of(status)
        self.param = None if param is None else _bounded(shortened(param))
        self.code = code
        self.headers: Mapping[str, str] = MappingProxyType(dict(headers or {}))
        super().__init__(self.message)


def type_of(status: int) -> str:
    """Name the kind of error that a status stands for, in OpenAI's terms."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def envelope(error: ApiError) -> dict[str, Any]:
    """Build the body of an error response."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def a1111_envelope(error: ApiError) -> dict[str, Any]:
    """Build the body of an error response in A1111's form. `body`, where that echoes the request, stays empty."""
    return {"error": error.code or error.type, "detail": error.message, "body": "", "errors": error.message}


def invalid_value(message: str, param: str | None) -> ApiError:
    """Refuse the value of a field."""
    return ApiError(400, message, param=param, code="invalid_value")


def from_usage(error: UsageError, *, param: str | None) -> ApiError:
    """Join what happened, why, and what to do into one or two sentences."""
    what, *rest = [line.strip() for line in str(error).splitlines() if line.strip()] or ["The request is wrong."]
    reasons = [line.removeprefix("why:").removeprefix("do:").strip() for line in rest]
    message = what if what.endswith((".", "!", "?")) else f"{what}."
    if reasons:
        second = "; ".join(reason.rstrip(".") for reason in reasons)
        message = f"{message} {_capitalised(second)}."
    return invalid_value(message, param)


def from_failure(failed: Failed) -> ApiError:
    """Turn the failure of a job into the error that its client is told."""
    status = _FAILURES.get(failed.code, 500)
    headers = {"x-should-retry": "false"} if failed.code == "out_of_memory" else None  # it would run out again
    return ApiError(status, failed.message, param=failed.param, code=failed.code, headers=headers)


def shown(value: Any) -> str:
    """Format a value of a request for a message: short, on one line, as JSON writes it."""
    if isinstance(value, list | tuple):
        return f"a list of {len(value):,}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    if isinstance(value, str):
        value = shortened(value)
    return json.dumps(value)


def shortened(text: str, *, limit: int = 60) -> str:
    """Cut a text to a length that a message may echo."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def _capitalised(sentence: str) -> str:
    """The sentence with a capital letter, unless it begins with a name such as `top_p`."""
    return sentence if "_" in sentence.split(" ", 1)[0] else sentence[:1].upper() + sentence[1:]


def _bounded(text: str) -> str:
    """The text, encodable as UTF-8 and at most `MAX_MESSAGE` bytes long as JSON."""
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(json.dumps(plain)) <= MAX_MESSAGE:
        return plain
    return plain[: MAX_MESSAGE // 12 - 3] + "..."  # a character takes at most 12 bytes: two escapes
