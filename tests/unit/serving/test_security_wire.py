"""What a socket may send: ambiguous framing, endless headers and bodies, strange methods and targets."""

import json
import re
import socket
from collections.abc import Iterator

import pytest

from bitvar.serving.http.connections import MAX_UNREAD
from bitvar.serving.http.settings import ServerSettings
from tests.support.socket_server import SocketServer, socket_server

BODY = b'{"prompt":"a"}'
HOST = b"Host: 127.0.0.1\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"Connection: close\r\n"
LAST = b"GET /version HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
"""A request after which the server closes, and that must never be answered out of another one's body."""


@pytest.fixture(scope="module")
def server() -> Iterator[SocketServer]:
    with socket_server(ServerSettings(body_timeout=0.5, max_body_bytes=1 << 16)) as running:
        yield running


def post(headers: bytes = b"", body: bytes = BODY, *, length: bool = True) -> bytes:
    declared = b"Content-Length: %d\r\n" % len(body) if length else b""
    head = b"POST /v1/images/generations HTTP/1.1\r\nContent-Type: application/json\r\n" + HOST + declared + headers
    return head + b"\r\n" + body


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


SMUGGLING = {
    "length and chunks": post(CHUNKED, b"0\r\n\r\n" + LAST),
    "two lengths": post(b"Content-Length: 4\r\n"),
    "a list of lengths": post(b"Content-Length: 14, 4\r\n", length=False),
    "a signed length": post(b"Content-Length: +14\r\n", length=False),
    "a negative length": post(b"Content-Length: -14\r\n", length=False),
    "a hexadecimal length": post(b"Content-Length: 0xe\r\n", length=False),
    "an endless length": post(b"Content-Length: " + b"9" * 30 + b"\r\n", length=False),
    "two hosts": post(HOST),
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "an unknown encoding": post(b"Transfer-Encoding: xchunked\r\n", chunks(BODY), length=False),
    "chunked, then gzip": post(b"Transfer-Encoding: chunked, gzip\r\n", chunks(BODY), length=False),
    "chunked twice": post(CHUNKED + CHUNKED, chunks(BODY), length=False),
    "an encoding hidden by a space": post(b"Transfer-Encoding : chunked\r\n", chunks(BODY), length=False),
    "an encoding hidden by a tab": post(b"Transfer-Encoding:\tx\tchunked\r\n", chunks(BODY), length=False),
    "a header without a name": post(b": a\r\n"),
    "NUL in a header": post(b"X: a\0b\r\n"),
    "a bare CR in a header": post(b"X: a\rTransfer-Encoding: chunked\r\n"),
    "a negative chunk": post(CHUNKED, b"-1\r\n" + BODY, length=False),
    "a prefixed chunk": post(CHUNKED, b"0xe\r\n" + BODY + b"\r\n0\r\n\r\n", length=False),
    "a chunk without its end": post(CHUNKED, b"e\r\n" + BODY + b"xx0\r\n\r\n", length=False),
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,
    "letters outside ASCII in the target": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a header of 1 MB": post(b"X: " + b"a" * 1_000_000 + b"\r\n"),
    "a target of 1 MB": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "101 headers": post(b"".join(b"X%d: a\r\n" % i for i in range(98))),
    "100,000 headers": post(b"".join(b"X%d: a\r\n" % i for i in range(100_000))),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_ambiguous_or_endless_requests_are_refused_and_the_connection_closed(server: SocketServer, name: str) -> None:
    answer = server.exchange(SMUGGLING[name] + LAST, seconds=3)
    assert statuses(answer) in ([400], [403], [403, 400], []), answer[:300]  # none where the answer was lost
    assert b'"bitvar"' not in answer


@pytest.mark.parametrize("size", [b"F" * 18, b"FFFFFFFF"])
def test_an_endless_chunk_is_bounded_and_given_up(server: SocketServer, size: bytes) -> None:
    assert statuses(server.exchange(post(CHUNKED, size + b"\r\n" + BODY, length=False), 1)) == [408]
    assert statuses(server.exchange(post(CHUNKED, size + b"\r\n" + b"a" * 100_000, length=False), 1)) == [413]


@pytest.mark.parametrize(
    "data",
    [post(), post(CHUNKED, chunks(BODY), length=False), post(CHUNKED, chunks(BODY[:5], BODY[5:]), length=False),
     post(b"Content-Length: 14\r\n"), post(CHUNKED, chunks(BODY).replace(b"e\r\n", b"e;a=b\r\n"), length=False)],
)  # fmt: skip
def test_sound_bodies_are_read_whole_and_the_connection_goes_on(server: SocketServer, data: bytes) -> None:
    answer = server.exchange(data + LAST)
    assert statuses(answer) == [200, 200]
    assert answer.count(b'"bitvar":"') == 1


def test_trailers_are_not_headers(server: SocketServer) -> None:
    trailers = b"Host: evil.example\r\nOrigin: http://evil.example\r\nContent-Type: text/plain\r\n\r\n"
    assert statuses(server.exchange(post(CHUNKED + CLOSE, chunks(BODY)[:-2] + trailers, length=False))) == [200]


def test_endless_trailers_end_the_connection(server: SocketServer) -> None:
    trailers = chunks(BODY)[:-2] + b"".join(b"X%d: a\r\n" % i for i in range(100_000))
    assert statuses(server.exchange(post(CHUNKED, trailers, length=False), seconds=3)) in ([400], [])


def test_pipelined_requests_are_answered_in_order(server: SocketServer) -> None:
    probe = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
    assert statuses(server.exchange(post() + probe + post(body=b"{") + LAST)) == [200, 200, 400, 200]


def test_a_flood_of_pipelined_requests_is_answered_one_by_one(server: SocketServer) -> None:
    answer = server.exchange((b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n") * 300 + LAST)
    assert statuses(answer) == [200] * 301


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"HEAD /livez", 200), (b"HEAD /v1/images/generations", 405),
     (b"TRACE /livez", 405), (b"OPTIONS /v1/models", 405), (b"OPTIONS *", 404),
     (b"PUT /livez", 405), (b"PROPFIND /livez", 405), (b"INVENTED /livez", 405), (b"CONNECT evil.example:443", 404),
     (b"GET //livez", 404),
     (b"GET //evil.example/", 404), (b"GET /livez/", 404), (b"GET /v1/models/", 200), (b"GET /%6civez", 200),
     (b"GET /livez?a=%ff%00", 200), (b"GET /%zz%ff%00", 404), (b"GET /v1/models/%ff%00%0d%0aX:%20y", 404),
     (b"GET http://127.0.0.1/version", 404), (b"GET http://evil.example/version", 404), (b"GET /livez#x", 404),
     (b"GET /page/..%2f..%2fapp.py", 404), (b"GET /../../etc/passwd", 404)],
)  # fmt: skip
def test_methods_and_targets(server: SocketServer, line: bytes, status: int) -> None:
    data = line + b" HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n"
    answer = server.exchange(data)
    assert statuses(answer) == [status]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\nlocation:" not in head.lower() and b"evil" not in answer and b"\nx: y" not in answer.lower()
    assert not (line.startswith(b"HEAD") and body)


def test_http_1_0_is_served_and_closed(server: SocketServer) -> None:
    assert server.exchange(b"GET /livez HTTP/1.0\r\n" + HOST + b"\r\n").endswith(b'{"status":"alive"}')
    assert statuses(server.exchange(b"GET /livez HTTP/1.0\r\n\r\n")) == [403]


def test_a_client_that_expects_to_be_told_to_go_on(server: SocketServer) -> None:
    expecting = b"Expect: 100-continue\r\n"
    assert statuses(server.exchange(post(expecting + CLOSE))) == [100, 200]
    refused = server.exchange(post(expecting + b"Content-Length: 100000\r\n", b"", length=False))
    assert statuses(refused) == [413]  # at once, without the body
    assert b"connection: close" in refused


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_an_offer_of_another_protocol_is_not_taken_and_loses_no_body(server: SocketServer, protocol: bytes) -> None:
    """Java's client offers HTTP/2 with every request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    assert statuses(server.exchange(post(offer) + LAST)) == [200, 200]


@pytest.mark.parametrize("path", [b"/v1/images/generations", b"/v1/images/edits", b"/nothing"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_long_body_is_refused_in_words_and_not_kept(server: SocketServer, path: bytes, is_chunked: bool) -> None:
    """The client is still sending when the answer comes: it must get to read it all the same."""
    body = b"a" * 8_000_000
    media_type = b"application/json" if path.endswith(b"generations") else b"multipart/form-data; boundary=x"
    kind = b"Content-Type: " + media_type + b"\r\n"
    framing = CHUNKED if is_chunked else b"Content-Length: %d\r\n" % len(body)
    head = b"POST " + path + b" HTTP/1.1\r\n" + HOST + kind + framing + b"\r\n"
    answer = server.exchange(head + (chunks(body) if is_chunked else body), 1)
    expected = {b"/v1/images/generations": 413, b"/nothing": 404}.get(path, 400)  # it is no form
    assert statuses(answer) == [expected]
    assert len(answer) < 4096 + 1000 and b"aaaa" not in answer


@pytest.mark.parametrize("path", [b"/v1/images/generations", b"/v1/images/edits", b"/livez"])
def test_a_client_that_never_stops_sending_is_cut_off(server: SocketServer, path: bytes) -> None:
    piece, sent = chunks(b"a" * (1 << 16)).removesuffix(b"0\r\n\r\n"), 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        headers = b"Content-Type: application/json\r\n" + HOST + CHUNKED
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\n" + headers + b"\r\n")
        with pytest.raises(ConnectionError):
            while sent < 4 * MAX_UNREAD:
                connection.sendall(piece)
                sent += len(piece)
    assert MAX_UNREAD / 2 < sent < 2 * MAX_UNREAD


@pytest.mark.parametrize(
    "forwarded",
    [b"X-Forwarded-Proto: https\r\n", b"X-Forwarded-Host: evil.example\r\n", b"X-Forwarded-For: 1.2.3.4\r\n",
     b"Forwarded: host=evil.example;proto=https\r\n", b"X-Forwarded-Prefix: /evil\r\n", b"X-Original-URL: /version\r\n",
     b"X-HTTP-Method-Override: DELETE\r\n", b"X-Real-IP: 1.2.3.4\r\n"],
)  # fmt: skip
def test_no_header_of_a_proxy_is_believed(server: SocketServer, forwarded: bytes) -> None:
    answer = server.exchange(post(forwarded + CLOSE, b'{"prompt":"a","response_format":"url"}'))
    (item,) = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
    assert re.fullmatch(r"http://127\.0\.0\.1/v1/images/[\w-]{32}/content", item["url"])


def test_a_public_url_begins_the_urls_of_images() -> None:
    with socket_server(ServerSettings(public_url="https://images.example.org/api")) as server:
        answer = server.exchange(post(CLOSE, b'{"prompt":"a","response_format":"url"}'))
        (item,) = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
        assert item["url"].startswith("https://images.example.org/api/v1/images/")
