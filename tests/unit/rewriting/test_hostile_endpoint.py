"""Endpoints that hang, drip, break off or repeat the key: each ends in time, in a clear error without the key."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bitvar.errors import UsageError
from bitvar.rewriting import EndpointRewriter, RewriteCache, RewriteError, read_rewrites, rewrite_prompts
from bitvar.rewriting.address import redacted, shown_url
from tests.support.chat_server import Answer, chat_server, completion

ROOT = Path(__file__).parents[3]
KEY = "sk-1234567890"

INTERRUPTED = """
import sys
from pathlib import Path
import typer
from bitvar.cli.exit_codes import exit_codes
from bitvar.rewriting import EndpointRewriter, RewriteCache, rewrite_prompts
url, folder, threads = sys.argv[1:]
try:
    with exit_codes():
        rewrite_prompts(["a", "b", "c"], EndpointRewriter(url, "m"), RewriteCache(Path(folder)), threads=int(threads))
except typer.Exit as stop:
    sys.exit(stop.exit_code)
"""


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve connections with `talk`, which gets each after its request was read; the address of an API."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            talk(connection)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()


def rewriter(url: str, **changes: Any) -> EndpointRewriter:
    return EndpointRewriter(**{"url": url, "model": "m", "tries": 1, "sleep": lambda seconds: None, **changes})


@pytest.mark.parametrize("status", [400, 401, 503])
@pytest.mark.parametrize("padding", [0, 190], ids=["short", "cut"])
def test_an_echoed_key_is_redacted(status: int, padding: int) -> None:
    with chat_server() as server:
        server.script = [Answer({"error": {"message": "x" * padding + f" bad key {KEY}\x1b[31m \ud800"}}, status)]
        with pytest.raises(RewriteError, match=f"HTTP {status}") as caught:
            rewriter(server.url, key=KEY).rewrite("a cat")
    text = str(caught.value)
    assert "sk-1" not in text and "\x1b" not in text
    text.encode()
    assert "1 times in a row" in text or status != 503


def test_an_answer_with_the_key_is_neither_used_nor_kept(tmp_path: Path) -> None:
    with chat_server() as server:
        server.script = [completion(f"a cat with {KEY}"), completion("x")]
        with pytest.raises(RewriteError, match="holds the key") as caught:
            rewrite_prompts([f"a {KEY} cat"], rewriter(server.url, key=KEY), RewriteCache(tmp_path))
        assert KEY not in str(caught.value)
        assert not list(tmp_path.rglob("*.json"))
        assert rewriter(server.url, key="x").rewrite("a cat") == "x"  # a key that fills a blank


def test_redaction_comes_before_the_cut() -> None:
    assert redacted("x" * 195 + KEY, KEY) == "x" * 195 + "[key]"
    assert redacted("EMPTY", "EMPTY") == "EMPTY"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://u:PW@h/v1", "ftp://h/v1"),
        ("http://h/v1?key=PW", "http://h/v1"),
        ("http://h/v1#PW", "http://h/v1"),
        ("http://u:P/W@h/v1", "http://h/v1"),
        ("http://u:P?W@h/v1", "http://..."),
        ("http://u:PW@[::1/v1", "http://[::1/v1"),
        ("u:PW@h", "h"),
    ],
)
def test_a_refused_url_shows_no_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    with pytest.raises(UsageError, match="Can't use the rewriter's URL") as caught:
        rewriter(url)
    assert repr(shown) in str(caught.value)
    assert "PW" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/v1",
        "http://h:99999/v1",
        "http://h:0/v1",
        "http://h:x/v1",
        "http://h/v 1",
        "http://h/v1\n",
        "http://h\r\n/v1",
        "http://h/\u00fc",
        f"http://{'a' * 64}/v1",
        "http://a..b/v1",
        "http://:80/v1",
    ],
)
def test_a_url_that_can_not_work_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match="Can't use the rewriter's URL"):
        rewriter(url)


@pytest.mark.parametrize("proxy", [f"http://{'a' * 64}:80", "http:///u:PW@h", "http://u:PW@h:x"])
def test_a_proxy_that_can_not_work_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(RewriteError, match=r"The rewriter at http://example\.invalid/v1") as caught:
        rewriter("http://example.invalid/v1").rewrite("a cat")
    assert "PW" not in str(caught.value)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
        b"HTTP/1.1 400 No\r\nContent-Length: 99\r\n\r\nabc",
    ],
    ids=["chunked", "length"],
)
@pytest.mark.parametrize("hangs", [False, True])
def test_a_refusal_whose_body_breaks_off_or_hangs(start: bytes, hangs: bool) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        time.sleep(5 if hangs else 0)

    with raw_server(talk) as url, pytest.raises(RewriteError, match=f"The rewriter at {url} refuses(.|\n)*HTTP 400"):
        rewriter(url, timeout=0.5).rewrite("a cat")


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"])
def test_an_endpoint_that_drips_ends_in_time(start: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    began = time.monotonic()
    with raw_server(talk) as url, pytest.raises(RewriteError, match=r"no answer within 0\.3 s"):
        rewriter(url, timeout=0.3).rewrite("a cat")
    assert time.monotonic() - began < 2
    left = [thread for thread in threading.enumerate() if thread.name == "rewriter request"]
    for thread in left:
        thread.join(3)
    assert not any(thread.is_alive() for thread in left)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupt_ends_a_run_whose_rewriter_hangs(tmp_path: Path, threads: int) -> None:
    asked = threading.Event()

    def talk(connection: socket.socket) -> None:
        asked.set()
        time.sleep(30)

    with raw_server(talk) as url:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", INTERRUPTED, url, str(tmp_path), str(threads)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=5)
        finally:
            process.kill()
    assert (process.returncode, b"Traceback" in err) == (130, False), err


def test_an_error_waits_for_no_other_request(tmp_path: Path) -> None:
    class Slow:
        name, settings, asked = "m", dict[str, Any](), list[str]()

        def rewrite(self, prompt: str) -> str:
            self.asked.append(prompt)
            if prompt == "bad":
                raise RewriteError("No.", "so", "try", is_general=True)
            time.sleep(1)
            return "fine"

    slow, began = Slow(), time.monotonic()
    with pytest.raises(RewriteError, match=r"No\."):
        rewrite_prompts(["a", "bad", *"cdefgh"], slow, RewriteCache(tmp_path), threads=2)
    assert time.monotonic() - began < 0.8
    time.sleep(1.2)
    assert len(slow.asked) <= 3  # no thread begins with another


def test_half_a_character_is_no_answer(tmp_path: Path) -> None:
    with chat_server() as server:
        server.script = [completion("a cat \ud800 x")]
        with pytest.raises(RewriteError, match="half a character"):
            rewrite_prompts(["a cat"], rewriter(server.url), RewriteCache(tmp_path))
    path = tmp_path / "rewrites.jsonl"
    for line in (
        '{"prompt": "b", "rewritten": "a \\ud800 x", "model": "m"}',
        '{"prompt": "b \\udc00", "rewritten": "x", "model": "m"}',
        '{"prompt": "b", "rewritten": "x", "model": "\\ud800"}',
    ):
        path.write_text('{"prompt": "a", "rewritten": "b", "model": "m"}\n' + line)
        with pytest.raises(UsageError, match=rf"{path}(.|\n)*line 2"):
            read_rewrites(path)
