"""What the real server survives, at length: the figures of docs/reliability.md.

`pytest -m slow tests/unit/serving/test_reliability_at_length.py -o junit_family=xunit1 --junitxml FILE` writes
what was measured into FILE.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.load import (
    Answer,
    ask,
    ask_until_served,
    client,
    counts,
    http_request,
    leave,
    percentile,
    resources,
    settled,
    small_buffer_socket,
    time_to_status,
    worker_of,
)
from tests.support.serving import ServerProcess, running_server

pytestmark = pytest.mark.slow

SOAK_MINUTES = float(os.environ.get("BITVAR_SOAK_MINUTES", "3"))
SCALES = 4
Record = Callable[[str, object], None]


def since(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """The counts between two moments."""
    return Counter({name: after[name] - before[name] for name in after})


def test_two_hundred_at_once_are_served_or_told_to_come_again(record_property: Record) -> None:
    """F1."""

    async def run(server: ServerProcess) -> None:
        async with client(server.url) as asking:
            answers = await asyncio.gather(*(ask(asking, seed=seed) for seed in range(200)))
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) == {200, 429} and sum(statuses.values()) == 200 and statuses[200] >= 16
        refused = [answer for answer in answers if answer.status == 429]
        assert all(1 <= int(answer.headers["retry-after"]) <= 120 for answer in refused)
        found = await settled(server.url)
        assert found["bitvar_jobs_total.accepted"] == found["bitvar_jobs_total.finished"] == statuses[200]
        assert found["bitvar_jobs_refused_total.queue_full"] == statuses[429]
        record_property("at_once", dict(statuses))
        statuses_in_time = await asyncio.gather(*(time_to_status(server.url, seed=seed) for seed in range(200)))
        seconds = [seconds for status, seconds in statuses_in_time if status == 429]
        record_property("refused_p99_ms", round(1000 * percentile(seconds, 0.99)))
        before = await settled(server.url)
        began, tries = time.perf_counter(), Counter[int]()
        async with client(server.url) as asking:
            served = await asyncio.gather(*(ask_until_served(asking, tries, seed=seed) for seed in range(200)))
        assert [answer.status for answer in served] == [200] * 200
        record_property("with_retries_s", round(time.perf_counter() - began, 1))
        record_property("with_retries_tries", dict(tries))
        assert since(before, await settled(server.url))["bitvar_jobs_total.finished"] == 200
        found = await settled(server.url)
        names = ("finished", "cancelled", "failed")
        assert found["bitvar_jobs_total.accepted"] == sum(found[f"bitvar_jobs_total.{name}"] for name in names)

    with running_server("--max-queue", "16") as server:
        asyncio.run(run(server))


def test_a_hundred_clients_that_leave_cost_at_most_one_more_scale(record_property: Record) -> None:
    """F2: one after another, so that each is left while it is drawn; then some that wait."""

    async def run(server: ServerProcess) -> None:
        chosen = random.Random(2)
        before = counts(server.url)
        for _ in range(50):
            await leave(server.url, events=chosen.randint(1, 3), stream=True, partial_images=3, preview_size=16)
            await settled(server.url)
        streamed = since(before, counts(server.url))
        for _ in range(50):
            await leave(server.url, seconds=chosen.uniform(0.05, 0.3), n=8)
            await settled(server.url)
        whole = since(before, counts(server.url))
        whole.subtract(streamed)
        for name, change in (("stream", streamed), ("whole", whole)):
            assert change["bitvar_jobs_total.accepted"] == 50
            cancelled = change["bitvar_jobs_total.cancelled"]
            assert cancelled + change["bitvar_jobs_total.finished"] == 50
            after = change["bitvar_scales_after_cancel_total"]
            record_property(name, {"cancelled": cancelled, "scales_after_cancel": after})
            assert after <= 1.5 * cancelled  # what was on its way when the client left is counted too

    with running_server() as server:
        asyncio.run(run(server))


def test_waiting_requests_whose_clients_leave_are_never_drawn() -> None:
    """F2, queued: behind a batch of ten, every scale that is drawn is the batch's."""

    async def run(server: ServerProcess) -> None:
        before = counts(server.url)
        async with client(server.url) as asking:
            batch = asyncio.create_task(ask(asking, n=10))
            while not (await asyncio.to_thread(counts, server.url))["bitvar_jobs_running"]:
                await asyncio.sleep(0.01)
            os.kill(worker := worker_of(server.process.pid), signal.SIGSTOP)  # nothing begins meanwhile
            try:
                await asyncio.gather(*(leave(server.url, seconds=0.3, n=10) for _ in range(10)))
                while since(before, await asyncio.to_thread(counts, server.url))["bitvar_jobs_total.cancelled"] < 10:
                    await asyncio.sleep(0.01)
            finally:
                os.kill(worker, signal.SIGCONT)
            assert (await batch).status == 200
        change = since(before, await settled(server.url))
        assert change["bitvar_jobs_total.accepted"] == 11
        assert change["bitvar_scales_total"] == 10 * SCALES

    with running_server() as server:
        asyncio.run(run(server))


def test_a_hundred_aborts_are_followed_by_a_hundred_good_requests(record_property: Record) -> None:
    async def run(server: ServerProcess) -> None:
        chosen = random.Random(100)
        await asyncio.gather(*(_abort_some(server.url, chosen.randrange(1 << 30)) for _ in range(10)))
        async with client(server.url) as asking:
            answers = [await ask(asking, seed=seed, stream=True, partial_images=3) for seed in range(100)]
        assert [(answer.status, answer.previews) for answer in answers] == [(200, 3)] * 100
        found = await settled(server.url)
        assert found["bitvar_worker_losses_total"] == 0
        record_property("cancelled", found["bitvar_jobs_total.cancelled"])

    with running_server() as server:
        asyncio.run(run(server))


async def _abort_some(url: str, seed: int) -> None:
    chosen = random.Random(seed)
    for _ in range(10):
        await leave(url, events=chosen.randint(0, 3), seconds=chosen.uniform(0, 0.1), stream=True, partial_images=3)


def test_nothing_leaks(record_property: Record) -> None:
    """F3: 2,000 requests after 200."""

    async def work(url: str, count: int) -> None:
        left = iter(range(count))
        async with client(url, connections=4) as asking:

            async def one() -> None:
                for number in left:
                    kinds = ({}, {"stream": True, "partial_images": 2}, {"n": 0}, {"output_format": "webp"})
                    fields = kinds[number % 4]
                    assert (await ask(asking, seed=number, **fields)).status in (200, 400)

            await asyncio.gather(*(one() for _ in range(4)))
        await settled(url)

    async def run(server: ServerProcess) -> None:
        front, worker = server.process.pid, worker_of(server.process.pid)
        await work(server.url, 200)
        await asyncio.sleep(6)  # uvicorn closes unused connections after five seconds
        before = resources(front), resources(worker)
        await work(server.url, 2000)
        await asyncio.sleep(6)
        after = resources(front), resources(worker)
        for name, old, new in zip(("front", "worker"), before, after, strict=True):
            record_property(name, {"before": str(old), "after": str(new)})
            assert new.memory - old.memory <= 10, name
            assert (new.files, new.threads) == (old.files, old.threads), name

    with running_server() as server:
        asyncio.run(run(server))


@pytest.mark.parametrize("number", range(10))
def test_eight_drawn_and_eight_waiting_are_finished_before_the_end(record_property: Record, number: int) -> None:
    """F4."""

    async def run(server: ServerProcess) -> None:
        async with client(server.url) as asking:
            await asking.get("/livez")
            work = [asyncio.create_task(ask(asking, seed=seed)) for seed in range(16)]
            while (await asyncio.to_thread(counts, server.url))["bitvar_jobs_total.accepted"] < 16:
                await asyncio.sleep(0.01)
            began = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            while (await asking.get("/readyz")).json()["status"] == "ready":
                pass
            record_property("not_ready_ms", round(1000 * (time.perf_counter() - began)))
            assert (await ask(asking)).body["error"]["code"] == "draining"
            assert [answer.status for answer in await asyncio.gather(*work)] == [200] * 16
        assert server.process.wait(60) == 0

    with running_server() as server:
        asyncio.run(run(server))


def test_a_worker_killed_five_times_comes_back_five_times(record_property: Record) -> None:
    """F5."""

    async def run(server: ServerProcess) -> None:
        for number in range(5):
            worker = worker_of(server.process.pid)
            async with client(server.url) as asking:
                work = [asyncio.create_task(ask(asking, n=4, seed=index)) for index in range(6)]
                while not (await asyncio.to_thread(counts, server.url))["bitvar_jobs_running"]:
                    await asyncio.sleep(0.01)
                os.kill(worker, signal.SIGKILL)
                began = time.perf_counter()
                answers: list[Answer] = []
                for done in asyncio.as_completed(work):
                    answers.append(await done)
                    if answers[-1].status == 503:
                        record_property("told_ms", round(1000 * (time.perf_counter() - began)))
            assert Counter(answer.status for answer in answers)[503] >= 1
            assert {answer.status for answer in answers} <= {200, 503}
            assert all(answer.headers["x-request-id"] for answer in answers)
            server.wait_until("ready")
            assert counts(server.url)["bitvar_worker_losses_total"] == number + 1

    async def idle(server: ServerProcess) -> None:
        os.kill(worker_of(server.process.pid), signal.SIGKILL)
        began = time.perf_counter()
        while server.state() == "ready":
            await asyncio.sleep(0.01)
        server.wait_until("ready")
        record_property("back_s", round(time.perf_counter() - began, 1))

    with running_server() as server:
        asyncio.run(run(server))
        asyncio.run(idle(server))


def test_stalled_clients_are_dropped_and_harm_nobody(record_property: Record) -> None:
    """F6: 100 send headers byte by byte, 20 ask for a stream and don't read it."""

    async def neighbours(url: str, number: int) -> float:
        async with client(url) as asking:
            answers = [await ask(asking, seed=seed) for seed in range(number)]
        assert {answer.status for answer in answers} == {200}
        return percentile([answer.seconds for answer in answers], 0.99)

    async def run(server: ServerProcess) -> None:
        quiet = await neighbours(server.url, 30)
        memory = resources(server.process.pid).memory
        dripping = [asyncio.create_task(_drip(server.url)) for _ in range(100)]
        stalled = [small_buffer_socket(server.url) for _ in range(20)]
        large = {"partial_images": 2, "preview_size": 4096}  # 5 MB, more than the system's buffers hold
        fields = {"prompt": "an apple", "stream": True, **large}
        for one in stalled:
            one.sendall(http_request(server.url, json.dumps(fields).encode()))
        began = time.monotonic()
        await settled(server.url)  # their images are drawn in turn; what follows is the cost of their stalling
        beside = await neighbours(server.url, 30)
        still_open = _open_connections(server)
        grown = resources(server.process.pid).memory - memory
        await asyncio.gather(*dripping)
        while _open_connections(server) and time.monotonic() - began < 120:
            await asyncio.sleep(0.2)
        record_property("open_beside", still_open)
        record_property("dropped_after_s", round(time.monotonic() - began, 1))
        record_property("neighbours_p99_s", {"quiet": round(quiet, 2), "beside": round(beside, 2)})
        record_property("memory_for_each_stalled_mib", round(grown / 20, 2))
        for one in stalled:
            one.close()
        assert not _open_connections(server)
        assert grown <= 20 * 8  # of the largest previews that there are, 1.8 MB each, and base64 besides

    with running_server("--max-queue", "64") as server:
        asyncio.run(run(server))


async def _drip(url: str) -> None:
    """Send headers byte by byte until the server has had enough."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        for byte in b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 600:
            writer.write(bytes([byte]))
            try:
                await asyncio.wait_for(reader.read(1), 0.2)
            except TimeoutError:
                continue
            return
        raise AssertionError("the connection stayed open for two minutes")
    except ConnectionError:
        return
    finally:
        writer.close()


def _open_connections(server: ServerProcess) -> int:
    """Number of connections that the front process has to clients."""
    port = urlsplit(server.url).port
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_metrics_agree_with_five_hundred_mixed_requests(record_property: Record) -> None:
    """F8."""

    async def run(server: ServerProcess) -> None:
        statuses, images = Counter[int](), 0
        left = iter(range(500))
        chosen = random.Random(8)

        async def one(asking: httpx.AsyncClient) -> None:
            nonlocal images
            for number in left:
                kind = chosen.choice(["image", "two", "stream", "wrong", "leave"])
                if kind == "leave":
                    await leave(server.url, seconds=chosen.uniform(0, 0.2), n=3)
                    continue
                fields = {"image": {}, "two": {"n": 2}, "stream": {"stream": True}, "wrong": {"size": "1x"}}[kind]
                answer = await ask(asking, seed=number, **fields)
                statuses[answer.status] += 1
                images += answer.status == 200 and (2 if kind == "two" else 1)

        async with client(server.url) as asking:
            await asyncio.gather(*(one(asking) for _ in range(24)))
        found = await settled(server.url)
        route = "bitvar_http_requests_total.POST./v1/images/generations"
        drawn_for_nobody = found["bitvar_jobs_total.finished"] - statuses[200]
        assert sum(count for name, count in found.items() if name.startswith(f"{route}.")) == 500
        assert found[f"{route}.400"] == statuses[400]
        assert found[f"{route}.429"] >= statuses[429]
        assert found["bitvar_jobs_refused_total.queue_full"] == found[f"{route}.429"]
        assert 0 <= found[f"{route}.200"] - statuses[200] <= drawn_for_nobody
        assert 0 <= found["bitvar_images_total"] - images <= 3 * drawn_for_nobody
        names = ("finished", "cancelled", "failed")
        assert found["bitvar_jobs_total.accepted"] == sum(found[f"bitvar_jobs_total.{name}"] for name in names)
        assert found["bitvar_jobs_total.failed"] == 0
        record_property("statuses", dict(statuses))

    with running_server() as server:
        asyncio.run(run(server))


def test_a_soak_at_four_fifths_of_the_load_has_no_error(record_property: Record) -> None:
    """F10; `BITVAR_SOAK_MINUTES` says how long."""

    async def run(server: ServerProcess) -> None:
        chosen, answers = random.Random(10), list[Answer]()
        async with client(server.url) as asking:
            began = time.perf_counter()
            for seed in range(10):
                await ask(asking, seed=seed)
            seconds = (time.perf_counter() - began) / 10
            end, open_ones = time.monotonic() + 60 * SOAK_MINUTES, set[asyncio.Task[Answer]]()
            while time.monotonic() < end:
                await asyncio.sleep(chosen.expovariate(0.8 / seconds))
                fields = chosen.choice([{}, {"stream": True, "partial_images": 3}, {"output_format": "webp"}])
                open_ones.add(asyncio.create_task(ask(asking, seed=chosen.randrange(1 << 30), **fields)))
                done = {task for task in open_ones if task.done()}
                answers.extend(task.result() for task in done)
                open_ones -= done
            answers.extend(await asyncio.gather(*open_ones))
        statuses = Counter(answer.status for answer in answers)
        record_property("minutes", SOAK_MINUTES)
        record_property("statuses", dict(statuses))
        record_property("p99_s", round(percentile([answer.seconds for answer in answers], 0.99), 2))
        assert set(statuses) <= {200, 429} and statuses[200]
        found = await settled(server.url)
        assert found["bitvar_jobs_total.failed"] == found["bitvar_worker_losses_total"] == 0

    with running_server() as server:
        asyncio.run(run(server))
