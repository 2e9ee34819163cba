"""Clients of a running server: many at once, impatient ones, and what the server says of itself."""

import asyncio
import contextlib
import json
import random
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROUTE = "/v1/images/generations"
PROMPT = "a red apple"


@dataclass(frozen=True)
class Answer:
    """The answer to a request for images.

    Attributes:
        status: HTTP status; for a stream that ended with an error, that of the error's kind.
        seconds: Time from the request to the end of the answer.
        headers: Headers by name in lower case.
        body: The JSON object; for a stream, its last event.
        previews: Number of previews.
        first_seconds: Time to the first preview; None if there was none.
    """

    status: int
    seconds: float
    headers: Mapping[str, str]
    body: dict[str, Any] = field(repr=False)
    previews: int = 0
    first_seconds: float | None = None


def client(url: str, *, connections: int = 1000) -> httpx.AsyncClient:
    """A client that waits as long as a loaded machine may take."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(300.0), limits=limits)


async def ask(asking: httpx.AsyncClient, **fields: Any) -> Answer:
    """Ask for images, and wait for the whole answer.

    Args:
        asking: Client.
        fields: Fields of the request.
    """
    began = time.perf_counter()
    if not fields.get("stream"):
        answer = await asking.post(ROUTE, json={"prompt": PROMPT, **fields})
        return Answer(answer.status_code, time.perf_counter() - began, answer.headers, answer.json())
    previews, first, last = 0, None, {}
    async with asking.stream("POST", ROUTE, json={"prompt": PROMPT, **fields}) as answer:
        if answer.status_code != 200:
            body = json.loads(await answer.aread())
            return Answer(answer.status_code, time.perf_counter() - began, answer.headers, body)
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                last = json.loads(line[6:])
                if last["type"].endswith("partial_image"):
                    previews += 1
                    first = first or time.perf_counter() - began
    seconds = time.perf_counter() - began
    status = 200 if last.get("type", "").endswith("completed") else 500
    return Answer(status, seconds, answer.headers, last, previews, first)


async def ask_until_served(asking: httpx.AsyncClient, statuses: Counter[int], **fields: Any) -> Answer:
    """Ask again, after the time that the server names, as long as the queue is full.

    Args:
        asking: Client.
        statuses: Counts the answers.
        fields: Fields of the request.
    """
    while True:
        answer = await ask(asking, **fields)
        statuses[answer.status] += 1
        if answer.status not in (429, 503):
            return answer
        await asyncio.sleep(min(float(answer.headers["retry-after"]), 2.0) * random.uniform(0.5, 1.0))


async def leave(url: str, *, events: int | None = None, seconds: float = 0.0, **request: Any) -> None:
    """Ask for images and close the connection before the answer is complete.

    Args:
        url: Server.
        events: Number of events of the stream to wait for; None waits for none.
        seconds: Time to wait after that.
        request: Fields of the request.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(http_request(url, json.dumps({"prompt": PROMPT, **request}).encode()))
    await writer.drain()
    seen = 0
    while events is not None and seen < events and (line := await reader.readline()):
        seen += line.startswith(b"event:")
    if seconds:
        await asyncio.sleep(seconds)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def time_to_status(url: str, **request: Any) -> tuple[int, float]:
    """Ask for images on a new connection, and leave at the status. Returns it, and its seconds without connecting.

    Args:
        url: Server.
        request: Fields of the request.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    began = time.perf_counter()
    writer.write(http_request(url, json.dumps({"prompt": PROMPT, **request}).encode()))
    status = int((await reader.readline()).split()[1])
    seconds = time.perf_counter() - began
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return status, seconds


def http_request(url: str, body: bytes) -> bytes:
    """Bytes of a request for images."""
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def small_buffer_socket(url: str) -> socket.socket:
    """Connect with a receive buffer so small that an answer doesn't fit."""
    parts = urlsplit(url)
    connected = socket.socket()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connected.connect((str(parts.hostname), int(parts.port or 80)))
    return connected


def counts(url: str) -> Counter[str]:
    """What `/metrics` says: samples by name and the values of labels, such as `bitvar_jobs_total.finished`."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[".".join([sample.name, *sample.labels.values()])] += int(sample.value)
    return found


async def settled(url: str, seconds: float = 120) -> Counter[str]:
    """Wait until no job is open, and return `counts`."""
    end = time.monotonic() + seconds
    while True:
        found = await asyncio.to_thread(counts, url)
        if not found["bitvar_jobs_waiting"] and not found["bitvar_jobs_running"]:
            return found
        assert time.monotonic() < end, "jobs are still open"
        await asyncio.sleep(0.05)


def worker_of(process_id: int) -> int:
    """Process id of the worker of a front process."""
    (worker,) = Path(f"/proc/{process_id}/task/{process_id}/children").read_text(encoding="ascii").split()
    return int(worker)


@dataclass(frozen=True)
class Resources:
    """What a process holds: resident memory in MiB, open files, threads."""

    memory: float
    files: int
    threads: int


def resources(process_id: int) -> Resources:
    """Read what a process holds."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in status)
    files = len(list(Path(f"/proc/{process_id}/fd").iterdir()))
    return Resources(int(values["VmRSS"].split()[0]) / 1024, files, int(values["Threads"]))


def percentile(values: list[float], share: float) -> float:
    """The value that a share of the values is not above."""
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]
