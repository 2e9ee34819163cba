"""`bitvar serve --replicas 2` as a whole, on a real Ray: a replica is killed under load, and no client notices."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.serving import ServerProcess, running_server

_LOG = logging.getLogger(__name__)

pytestmark = pytest.mark.slow

NUM_REQUESTS = 200
NUM_CLIENTS = 8
PROMPTS = ("a red apple", "a blue cube", "a yellow star", "a green leaf")


def body(number: int) -> dict[str, Any]:
    return {
        "prompt": PROMPTS[number % len(PROMPTS)],
        "seed": 1000 + number % 20,  # so that 20 images are known from the single process
        "stream": True,
        "partial_images": 2,
    }


@dataclass
class Answer:
    """What a client saw.

    Attributes:
        number: Number of the request.
        status: HTTP status.
        partials: Index and image of each partial.
        completed: Finished images.
        errors: Error events.
    """

    number: int
    status: int
    partials: list[tuple[int, str]] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def ask(client: httpx.Client, number: int) -> Answer:
    with client.stream("POST", "/v1/images/generations", json=body(number)) as response:
        answer = Answer(number, response.status_code)
        for event in events(response):
            match event["type"]:
                case "image_generation.partial_image":
                    answer.partials.append((event["partial_image_index"], event["b64_json"]))
                case "image_generation.completed":
                    answer.completed.append(event["b64_json"])
                case _:
                    answer.errors.append(json.dumps(event)[:300])
    return answer


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def ask_all(server: ServerProcess, numbers: range, done: list[Answer], clients: int = NUM_CLIENTS) -> None:
    with (
        httpx.Client(base_url=server.url, timeout=300) as client,
        ThreadPoolExecutor(clients) as threads,
    ):
        for answer in threads.map(lambda number: ask(client, number), numbers):
            done.append(answer)


def replica_pids(server: ServerProcess) -> list[int]:
    """Processes under the server that Ray has named after the model's replicas."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == server.process.pid:
                return True
            pid = parents.get(pid, 0)
        return False

    return sorted(pid for pid, name in names.items() if name.startswith(b"ray::ServeReplica:") and is_ours(pid))


def wait_for_replicas(server: ServerProcess, times: int, seconds: float = 180) -> list[int]:
    """Wait until the log has said this many times that two replicas run."""
    end = time.monotonic() + seconds
    while "".join(server.log).count("2 replicas run") < times:
        assert time.monotonic() < end, "".join(server.log)
        time.sleep(0.1)
    return replica_pids(server)


def test_a_killed_replica_loses_no_request_and_repeats_none() -> None:
    with running_server() as single:
        known: list[Answer] = []
        ask_all(single, range(20), known, clients=1)
    expected = {answer.number: answer for answer in known}
    assert all(len(answer.completed) == 1 and len(answer.partials) == 2 for answer in known)

    with running_server("--replicas", "2", wait=False) as server:
        server.wait_until("ready", 300)
        pids = wait_for_replicas(server, 1)
        assert len(pids) == 2, pids
        done: list[Answer] = []
        began = time.monotonic()
        asking = threading.Thread(target=ask_all, args=(server, range(NUM_REQUESTS), done))
        asking.start()
        while len(done) < NUM_REQUESTS // 4:
            assert asking.is_alive()
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)
        asking.join(600)
        seconds = time.monotonic() - began
        assert set(pids) & set(wait_for_replicas(server, 2)) == {pids[1]}
        metrics = httpx.get(f"{server.url}/metrics").text
        log = "".join(server.log)

    assert [answer.number for answer in done] == list(range(NUM_REQUESTS))
    for answer in done:
        reference = expected[answer.number % 20]
        assert (answer.status, answer.errors) == (200, []), answer
        assert [index for index, _ in answer.partials] == [0, 1]  # each once, in order
        assert answer.partials == reference.partials
        assert answer.completed == reference.completed  # byte for byte the single process's
    lost = log.count("lost replica")
    assert lost >= 1, "the replica was killed when it had nothing to draw, so this shows nothing"
    _LOG.info(f"{NUM_REQUESTS} requests in {seconds:.1f} s, {lost} jobs drawn again")
    _LOG.info(
        "%s", "\n".join(line for line in metrics.splitlines() if "bitvar" in line and "jobs" in line and line[0] != "#")
    )
