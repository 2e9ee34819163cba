"""What the real server survives. The long versions are in `test_reliability_at_length.py`."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.load import ask, ask_until_served, client, counts, leave, settled, worker_of
from tests.support.serving import ServerProcess, running_server

QUEUE = 4
SCALES = 4
"""Scales of an image of the embedded model."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server("--max-queue", str(QUEUE)) as running:
        yield running


def test_the_front_process_has_no_torch(server: ServerProcess) -> None:
    """Else it would take seconds to start, and hundreds of MB."""
    loaded = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
    assert "libtorch" not in loaded
    assert "libtorch" in Path(f"/proc/{worker_of(server.process.pid)}/maps").read_text(encoding="utf-8")


def test_a_full_queue_refuses_the_rest_and_the_accounts_are_exact(server: ServerProcess) -> None:
    """F1."""

    async def run() -> None:
        before = counts(server.url)
        async with client(server.url) as asking:
            answers = await asyncio.gather(*(ask(asking, seed=seed) for seed in range(24)))
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) == {200, 429} and statuses[200] >= QUEUE
        for answer in answers:
            if answer.status == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 120
                assert answer.body["error"]["code"] == "queue_full"
        change = await settled(server.url)
        change.subtract(before)
        assert change["bitvar_jobs_total.accepted"] == change["bitvar_jobs_total.finished"] == statuses[200]
        assert change["bitvar_jobs_refused_total.queue_full"] == statuses[429]
        assert change["bitvar_scales_total"] == SCALES * statuses[200]

    asyncio.run(run())


def test_who_comes_again_is_served(server: ServerProcess) -> None:
    """F1, with retries."""

    async def run() -> None:
        statuses: Counter[int] = Counter()
        async with client(server.url) as asking:
            answers = await asyncio.gather(*(ask_until_served(asking, statuses, seed=seed) for seed in range(16)))
        assert [answer.status for answer in answers] == [200] * 16

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_cost_no_more_than_they_must(server: ServerProcess, stream: bool) -> None:
    """F2: images of eight are left while they are drawn, or wait."""

    async def run() -> None:
        before = counts(server.url)
        fields = {"stream": True, "partial_images": 3} if stream else {"n": 8}
        events = 1 if stream else None
        await asyncio.gather(*(leave(server.url, events=events, seconds=0.1, **fields) for _ in range(QUEUE)))
        change = await settled(server.url)
        change.subtract(before)
        outcomes = {
            name: change[f"bitvar_jobs_total.{name}"] for name in ("accepted", "cancelled", "finished", "failed")
        }
        assert outcomes["accepted"] == outcomes["cancelled"] + outcomes["finished"] and not outcomes["failed"]
        assert change["bitvar_scales_after_cancel_total"] <= 2 * outcomes["cancelled"]
        async with client(server.url) as asking:
            assert (await ask(asking)).status == 200

    asyncio.run(run())


def test_aborts_at_random_scales_are_followed_by_good_requests(server: ServerProcess) -> None:
    async def run() -> None:
        chosen = random.Random(5)
        for _ in range(8):
            await leave(server.url, events=chosen.randint(0, 3), stream=True, partial_images=3)
        await settled(server.url)
        async with client(server.url) as asking:
            for seed in range(8):
                answer = await ask(asking, seed=seed, stream=True, partial_images=3)
                assert (answer.status, answer.previews) == (200, 3)

    asyncio.run(run())


def test_metrics_say_what_clients_saw(server: ServerProcess) -> None:
    """F8."""

    async def run() -> None:
        before, images = counts(server.url), 0
        statuses: Counter[tuple[str, int]] = Counter()
        async with client(server.url) as asking:
            for number in range(24):
                kind = ("image", "stream", "wrong", "live", "missing", "two")[number % 6]
                if kind == "live":
                    statuses["/livez", (await asking.get("/livez")).status_code] += 1
                elif kind == "missing":
                    statuses["unknown", (await asking.get("/nothing")).status_code] += 1
                else:
                    fields = {"image": {}, "stream": {"stream": True}, "wrong": {"n": 0}, "two": {"n": 2}}[kind]
                    answer = await ask(asking, **fields)
                    statuses["/v1/images/generations", answer.status] += 1
                    images += {"image": 1, "stream": 1, "wrong": 0, "two": 2}[kind]
        change = await settled(server.url)
        change.subtract(before)
        for (route, status), count in statuses.items():
            method = "POST" if "images" in route else "GET"
            assert change[f"bitvar_http_requests_total.{method}.{route}.{status}"] == count, route
        assert change["bitvar_images_total"] == images
        assert change["bitvar_jobs_total.accepted"] == change["bitvar_jobs_total.finished"] == 12
        assert change["bitvar_http_request_seconds_count"] == change["bitvar_http_request_seconds_bucket.+Inf"]

    asyncio.run(run())


@pytest.fixture(scope="module")
def doomed() -> Iterator[ServerProcess]:
    """A server that the tests below end."""
    with running_server("--max-queue", "16") as running:
        yield running


def test_a_killed_worker_comes_back_and_what_waited_is_drawn(doomed: ServerProcess) -> None:
    """F5."""

    async def run() -> None:
        worker = worker_of(doomed.process.pid)
        async with client(doomed.url) as asking:
            work = [asyncio.create_task(ask(asking, n=4, seed=index)) for index in range(6)]
            while not (found := await asyncio.to_thread(counts, doomed.url))["bitvar_jobs_running"]:
                await asyncio.sleep(0.01)
            assert found["bitvar_jobs_total.accepted"]
            os.kill(worker, signal.SIGKILL)
            answers = await asyncio.gather(*work)
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) <= {200, 503} and statuses[503] >= 1
        for answer in answers:
            assert answer.headers["x-request-id"].startswith("req_")
            if answer.status == 503:
                assert answer.body["error"]["code"] == "worker_died"
        doomed.wait_until("ready")
        assert worker_of(doomed.process.pid) != worker
        assert counts(doomed.url)["bitvar_worker_losses_total"] == 1

    asyncio.run(run())


def test_a_server_that_is_asked_to_stop_finishes_what_it_accepted(doomed: ServerProcess) -> None:
    """F4."""

    async def run() -> None:
        worker = worker_of(doomed.process.pid)
        async with client(doomed.url) as asking:
            await asking.get("/livez")
            before = counts(doomed.url)["bitvar_jobs_total.accepted"]
            work = [asyncio.create_task(ask(asking, seed=index)) for index in range(8)]
            while (await asyncio.to_thread(counts, doomed.url))["bitvar_jobs_total.accepted"] < before + 8:
                await asyncio.sleep(0.01)
            doomed.process.send_signal(signal.SIGTERM)
            while doomed.state() == "ready":
                await asyncio.sleep(0.01)
            late = await asking.post("/v1/images/generations", json={"prompt": "an apple"})
            assert late.status_code == 503 and late.json()["error"]["code"] == "draining"
            assert [answer.status for answer in await asyncio.gather(*work)] == [200] * 8
        assert doomed.process.wait(60) == 0
        end = time.monotonic() + 30
        while os.path.exists(f"/proc/{worker}"):  # noqa: PTH110
            assert time.monotonic() < end, "the worker is left over"
            await asyncio.sleep(0.05)

    asyncio.run(run())
