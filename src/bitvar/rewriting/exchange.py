"""One request to an endpoint and its whole reply, within a deadline that no server can stretch.

The request runs on a daemon thread, which is left behind at the deadline or when the caller is interrupted: neither a
name server nor a server that sends a byte a second can hold the process up.
"""

import contextlib
import http.client
import queue
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What a server sent.

    Attributes:
        status: Status code.
        headers: Headers.
        body: Body, or its beginning where the rest of a refusal's didn't come.
    """

    status: int
    headers: Message
    body: bytes


def exchange(request: urllib.request.Request, *, timeout: float, limit: int) -> Reply:
    """Send a request and read the reply. Redirects are not followed.

    Args:
        request: Request to send.
        timeout: Seconds for all of it.
        limit: Most bytes of the body to read.

    Raises:
        TimeoutError: The reply wasn't complete in time.
        OSError: The server can't be reached, or the connection broke.
        http.client.HTTPException: The server speaks no HTTP, or sent less than it announced.
        ValueError: The request can't be sent.
    """
    running = _Exchange(request, timeout, limit)
    threading.Thread(target=running.run, name="rewriter request", daemon=True).start()
    try:
        outcome = running.outcomes.get(timeout=timeout)
    except queue.Empty:
        if running.unfinished is not None:
            return running.unfinished
        raise TimeoutError from None
    finally:
        running.end()
    if isinstance(outcome, Reply):
        return outcome
    raise outcome


@dataclass
class _Exchange:
    request: urllib.request.Request
    timeout: float
    limit: int
    outcomes: "queue.SimpleQueue[Reply | Exception]" = field(default_factory=queue.SimpleQueue)
    unfinished: Reply | None = None
    is_over: bool = False
    _sockets: list[socket.socket] = field(default_factory=list)

    def run(self) -> None:
        """Send the request, and put what came of it into `outcomes`."""
        try:
            outcome: Reply | Exception = self._reply()
        except Exception as error:  # the caller raises it
            outcome = error
        self.outcomes.put(outcome)

    def end(self) -> None:
        """Break the connection, so that the thread ends soon."""
        self.is_over = True
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # an SSLSocket's own waits for the thread that reads

    def keep(self, one: socket.socket) -> None:
        """Remember a connection, which `end` breaks."""
        self._sockets.append(one)
        if self.is_over:
            self.end()

    def _reply(self) -> Reply:
        try:
            with _opener(self).open(self.request, timeout=self.timeout) as response:
                return Reply(response.status, response.headers, response.read(self.limit))
        except urllib.error.HTTPError as error:
            self.unfinished = Reply(error.code, error.headers, b"")
            with error:
                return Reply(error.code, error.headers, self._body_of(error))

    def _body_of(self, error: urllib.error.HTTPError) -> bytes:
        """The body of a refusal, as far as it comes: the status says enough."""
        try:
            return error.read(self.limit)
        except http.client.IncompleteRead as broken:
            return broken.partial
        except (OSError, http.client.HTTPException, ValueError):
            return b""


def _opener(running: _Exchange) -> urllib.request.OpenerDirector:
    """Make an opener that follows no redirect, and whose connections an exchange can break."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            running.keep(self.sock)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            running.keep(self.sock)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Plain, req)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Secure, req)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        PlainHandler(),
        SecureHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
