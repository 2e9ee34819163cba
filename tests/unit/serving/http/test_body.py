"""Reading a body: limits counted while reading, strict JSON, and a client that leaves. Every fault is a 4xx."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.serving.http.body import MAX_DEPTH, ClientLeft, parse_object, read_json
from bitvar.serving.http.errors import ApiError, envelope

JSON = {"content-type": "application/json"}


class Connection:
    """A connection that delivers chunks, and then either waits forever or says that the client left.

    Args:
        chunks: Chunks in order.
        ends: Whether the last chunk ends the body.
        leaves: Whether the client leaves after the chunks of a body that doesn't end.
    """

    def __init__(self, chunks: Sequence[bytes], *, ends: bool = True, leaves: bool = False) -> None:
        self.chunks, self.ends, self.leaves, self.read = chunks, ends, leaves, 0

    async def receive(self) -> dict[str, Any]:
        if self.read < len(self.chunks):
            self.read += 1
            more = not self.ends or self.read < len(self.chunks)
            return {"type": "http.request", "body": self.chunks[self.read - 1], "more_body": more}
        if not self.leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


def read(
    connection: Connection, headers: Mapping[str, str] = JSON, *, max_bytes: int = 1000, timeout_seconds: float = 30
) -> dict[str, Any]:
    return asyncio.run(read_json(connection.receive, headers, max_bytes=max_bytes, timeout_seconds=timeout_seconds))


def refused(data: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_object(data)
    assert caught.value.status == 400
    assert len(json.dumps(envelope(caught.value)).encode()) < 4096
    return caught.value


def test_a_body_comes_in_one_piece_or_in_many() -> None:
    data = b'{"prompt": "\xc3\xa9t\xc3\xa9", "n": 2}'
    expected = {"prompt": "\u00e9t\u00e9", "n": 2}
    assert read(Connection([data])) == expected
    assert read(Connection([data[i : i + 1] for i in range(len(data))])) == expected
    assert read(Connection([b"", data, b""])) == expected


def test_a_body_of_exactly_the_limit_is_read() -> None:
    data = b'{"prompt": "a"}'
    assert read(Connection([data]), max_bytes=len(data)) == {"prompt": "a"}
    with pytest.raises(ApiError) as caught:
        read(Connection([data]), max_bytes=len(data) - 1)
    assert (caught.value.status, caught.value.code) == (413, "too_large")


def test_a_long_chunked_body_is_not_read_beyond_the_limit() -> None:
    connection = Connection([b"x" * 100] * 1000)
    with pytest.raises(ApiError) as caught:
        read(connection, max_bytes=1000)
    assert (caught.value.status, connection.read) == (413, 11)


def test_a_long_declared_body_is_not_read_at_all() -> None:
    connection = Connection([b"{}"])
    with pytest.raises(ApiError) as caught:
        read(connection, {**JSON, "content-length": "1001"}, max_bytes=1000)
    assert (caught.value.status, connection.read) == (413, 0)


def test_a_declared_length_is_not_believed() -> None:
    with pytest.raises(ApiError) as caught:
        read(Connection([b"x" * 2000]), {**JSON, "content-length": "10"}, max_bytes=1000)
    assert caught.value.status == 413


@pytest.mark.parametrize("length", ["-1", "ten", "1e3", "9" * 5000], ids=lambda length: length[:4])
def test_a_declared_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(ApiError) as caught:
        read(Connection([b"{}"]), {**JSON, "content-length": length})
    assert caught.value.status == 400


@pytest.mark.parametrize("chunks", [[], [b'{"prompt":'], [b""]])
def test_a_slow_body_is_given_up(chunks: list[bytes]) -> None:
    with pytest.raises(ApiError) as caught:
        read(Connection(chunks, ends=False), timeout_seconds=0.01)
    assert (caught.value.status, caught.value.code) == (408, "timeout")


def test_a_client_that_leaves_is_not_an_error_of_the_server() -> None:
    with pytest.raises(ClientLeft):
        read(Connection([b'{"prompt":'], ends=False, leaves=True))
    with pytest.raises(ClientLeft):
        read(Connection([], ends=False, leaves=True))


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8", " application/json ;x"]
)
def test_json_may_have_parameters_and_any_case(content_type: str) -> None:
    assert read(Connection([b"{}"]), {"content-type": content_type}) == {}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "text/plain; application/json"},
        {"content-type": "application/json+x"},
        {"content-type": "x" * 5000},
        {**JSON, "content-encoding": "gzip"},
    ],
)
def test_what_a_form_of_another_site_can_send_is_refused_unread(headers: dict[str, str]) -> None:
    connection = Connection([b"{}"])
    with pytest.raises(ApiError) as caught:
        read(connection, headers)
    assert (caught.value.status, connection.read) == (400, 0)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  \n",
        b"{",
        b"[]",
        b"null",
        b'"prompt"',
        b"1",
        b"{'prompt': 1}",
        b'{"a": 1,}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": [-Infinity]}',
        b'{"a": 1e400}',
        b'{"a": -1e400}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b'{"a": 1.' + b"0" * 5000 + b"}",
        b'{"a": 1e' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": [{"b": "x\\uD83Dx"}]}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xff"}',
        b'{"a": "\x01"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1, "a": 1}',
        b'{"b": {"a": 1, "c": 2, "a": null}}',
        b'{"a": 1} {"b": 2}',
        b"[" * 100_000,
        b"{" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": "' + b'\\"' * 200_000,
        b'"' * 200_001,
        b"\\" * 100_001,
    ],
    ids=lambda data: repr(data[:16]),
)
def test_what_is_no_strict_json_object_is_refused(data: bytes) -> None:
    assert len(refused(data).message) < 300


def test_the_message_says_which_fault_it_is() -> None:
    assert "appears twice" in refused(b'{"a": 1, "a": 2}').message
    assert "NaN" in refused(b'{"a": NaN}').message
    assert "surrogate" in refused(b'{"a": "\\ud800"}').message
    assert "deep" in refused(b"[" * 100_000).message
    assert "line 2, column 6" in refused(b'{"a": 1,\n "b" 1x}').message


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_object(b'{"a": "\\ud83c\\udf4e"}') == {"a": "\U0001f34e"}


def test_nesting_is_counted_outside_of_strings() -> None:
    inner = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert parse_object(f'{{"a": {inner}}}'.encode())
    refused(f'{{"a": [{inner}]}}'.encode())
    text = "[{" * 100 + '\\"' + "[" * 100
    assert parse_object(f'{{"a": "{text}"}}'.encode()) == {"a": text.replace('\\"', '"')}


def test_values_are_counted_outside_of_strings() -> None:
    assert parse_object(b'{"a": [' + b"1," * 9_000 + b'1], "b": "' + b"," * 20_000 + b'"}')
    assert "10,000 values" in refused(b'{"a": [' + b"1," * 10_000 + b"1]}").message


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(data: bytes) -> None:
    try:
        assert isinstance(parse_object(data), dict)
    except ApiError as error:
        assert error.status == 400


@settings(deadline=None)
@given(st.text(alphabet='{}[]":,\\u0d8e1.-tfn \n', max_size=60))
def test_any_text_of_jsons_own_characters_is_an_object_or_refused(text: str) -> None:
    try:
        assert parse_object(text.encode()) == json.loads(text)
    except ApiError as error:
        assert error.status == 400


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.booleans())
def test_sound_json_comes_back(values: dict[str, Any], ascii_only: bool) -> None:
    assert parse_object(json.dumps(values, ensure_ascii=ascii_only).encode()) == values
