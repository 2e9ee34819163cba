"""Reading bodies from a raw ASGI connection, with limits that are counted while reading, and strict JSON.

Every fault of a body is an `ApiError` of status 400, 408 or 413. The file knows nothing about the fields inside.
"""

import asyncio
import itertools
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, NoReturn, TypeAlias

from bitvar.serving.http.errors import ApiError, shown

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

MAX_DEPTH: Final = 32
"""Deepest nesting of lists and objects, the body's own object included."""

MAX_VALUES: Final = 10_000
"""Most entries of lists and objects together: parsing them blocks the event loop."""

MAX_DIGITS: Final = 100
"""Most characters of a number. Longer ones are no setting, and take Python long to read."""

_STRING: Final = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string of JSON, or what follows an opening quote that is never closed. It matches in linear time."""

_NOT_A_BRACKET: Final = re.compile(r"[^\[\]{}]+")
_STEPS: Final[Mapping[str, int]] = {"[": 1, "{": 1, "]": -1, "}": -1}


class ClientLeft(Exception):  # noqa: N818 - it is no error: the client may leave
    """The client closed the connection before its whole request had come."""


async def read_json(
    receive: Receive,
    headers: Mapping[str, str],
    *,
    max_bytes: int,
    timeout_seconds: float,
    hold: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Read and parse a body that must be a JSON object.

    Args:
        receive: The connection's ASGI callable.
        headers: Headers by name in lower case; Starlette's `Headers` fit.
        max_bytes: Longest body.
        timeout_seconds: Longest time for the whole body to come.
        hold: Told how many bytes each piece has before it is kept; it may refuse to hold more.

    Raises:
        ApiError: The body is too long (413), too slow (408), or no JSON object (400).
        ClientLeft: The client left.
    """
    check_headers(headers, media_type="application/json", max_bytes=max_bytes)
    data = bytearray()

    def take(piece: bytes) -> None:
        hold(len(piece))
        data.extend(piece)

    await read_body(receive, take, max_bytes=max_bytes, timeout_seconds=timeout_seconds)
    return parse_object(bytes(data))


async def read_body(
    receive: Receive, take: Callable[[bytes], object], *, max_bytes: int, timeout_seconds: float
) -> None:
    """Read a body piece by piece.

    Args:
        receive: The connection's ASGI callable.
        take: Takes each piece, in order. What it raises ends the reading.
        max_bytes: Longest body.
        timeout_seconds: Longest time for the whole body to come.

    Raises:
        ApiError: The body is too long (413) or too slow (408).
        ClientLeft: The client left.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            await _read(receive, take, max_bytes)
    except TimeoutError:
        message = f"The body took longer than {timeout_seconds:g} seconds to arrive."
        raise ApiError(408, message, code="timeout") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse strict JSON whose top level is an object.

    NaN and infinity, duplicate keys, half surrogate pairs, deep nesting and endless numbers are refused.

    Raises:
        ApiError: The data is something else.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"it isn't UTF-8 at byte {error.start:,}") from None
    if not text.strip():
        raise _refused('it is empty; send an object such as {"prompt": "a red apple"}')
    _check_shape(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
        if "\\u" in text:  # only an escape can write half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise _refused(f"{error.msg} at line {error.lineno:,}, column {error.colno:,}") from None
    except UnicodeEncodeError:
        raise _refused("it contains half of a surrogate pair, which is not text") from None
    except (ValueError, RecursionError):
        raise _refused("it can't be parsed") from None
    if not isinstance(value, dict):
        raise _refused(f"its top level must be an object, got {shown(value)}")
    return value


def check_headers(headers: Mapping[str, str], *, media_type: str, max_bytes: int) -> None:
    """Refuse a body by its headers.

    Args:
        headers: Headers by name in lower case.
        media_type: The only media type to accept.
        max_bytes: Longest body. A body without a declared length is counted while it is read.

    Raises:
        ApiError: Type, encoding or length don't suit.
    """
    given = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if given != media_type:  # a browser sends text/plain to any site without asking
        came = shown(given) if given else "none"
        raise ApiError(400, f"Send the body with the header Content-Type: {media_type}; the type was {came}.")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ApiError(400, f"Send the body uncompressed; its Content-Encoding was {shown(encoding)}.")
    declared = headers.get("content-length", "").strip()
    if declared and not re.fullmatch("[0-9]{1,30}", declared):
        raise ApiError(400, f"Content-Length must be a whole number, got {shown(declared)}.")
    if declared and int(declared) > max_bytes:
        raise _too_large(max_bytes)


async def _read(receive: Receive, take: Callable[[bytes], object], max_bytes: int) -> None:
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        length += len(chunk)
        if length > max_bytes:
            raise _too_large(max_bytes)
        take(chunk)
        more = message.get("more_body", False)


def _check_shape(text: str) -> None:
    """Refuse deep nesting and endless lists from the punctuation outside of strings, whether or not it is JSON."""
    outside = _STRING.sub("", text)
    if outside.count(",") >= MAX_VALUES:
        raise _refused(f"it contains more than {MAX_VALUES:,} values")
    brackets = _NOT_A_BRACKET.sub("", outside)
    if max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise _refused(f"it nests lists and objects more than {MAX_DEPTH} deep")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _refused(f"the key {shown(name)} appears twice")
            seen.add(name)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise _refused(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _refused(f"it contains a number of more than {MAX_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise _refused(f"it contains a number that is too large or has more than {MAX_DIGITS} digits")
    return value


def _too_large(max_bytes: int) -> ApiError:
    message = f"The body is longer than {max_bytes:,} bytes, the most this server reads."
    return ApiError(413, message, code="too_large")


def _refused(why: str) -> ApiError:
    return ApiError(400, f"The body isn't a JSON object: {why}.", code="invalid_json")
