"""A replica without Ray: it draws what it is sent, stops when nobody reads, and says when it is broken."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, cast

import pytest
from PIL import Image

from bitvar.editing.spec import EncodedImage
from bitvar.errors import UsageError, WeightsError
from bitvar.serving.engine.events import Event, Failed, Finished, ImageDone, ScaleDone, Started
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.wire import Frame, parse_event, read_frame
from bitvar.serving.replicas.replica import Replica, load_failure, read_load_failure
from tests.support.image_files import encoded, smooth_image


@pytest.fixture(scope="module")
def replica() -> Replica:
    return Replica({"threads": 1}, "v1", name="r1")


def text(name: str = "one", *, images: int = 1, prompt: str = "a red apple") -> str:
    request = {"prompts": (prompt,), "num_images_per_prompt": images, "seed": 7}
    return Job.model_validate({"id": name, "request": request}).model_dump_json()


def frame_of(data: bytes) -> Frame:
    frame = read_frame(io.BytesIO(data).read)
    assert frame is not None
    return frame


async def drawn(replica: Replica, job: str) -> tuple[Frame, list[Event]]:
    """Draw a job. Returns the hello and the events."""
    frames = [frame_of(data) async for data in replica.draw(job)]
    return frames[0], [parse_event(frame)[1] for frame in frames[1:]]


def run(body: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(body, 60))


def test_a_draw_says_who_draws_and_ends_with_one_last_event(replica: Replica) -> None:
    hello, events = run(drawn(replica, text(images=2)))
    assert hello.kind == "hello"
    assert hello.values == {"replica": "r1", "version": "v1", "digest": replica._card.digest}
    assert events[0] == Started()
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, ScaleDone) for event in events) == 8
    assert sorted(event.image for event in events if isinstance(event, ImageDone)) == [0, 1]


def test_an_edit_reaches_the_model_with_its_images(replica: Replica) -> None:
    image, mask = smooth_image((96, 96)), Image.new("L", (96, 96), 0)
    mask.paste(255, (48, 0, 96, 96))
    edit = {"image": EncodedImage.of(encoded(image)), "mask": EncodedImage.of(encoded(mask)), "exact": True}
    request = {"prompts": ("a red apple",), "seed": 7, "edit": edit}
    job = Job.model_validate({"id": "one", "request": request})
    _, events = run(drawn(replica, job.model_dump_json()))
    assert isinstance(events[-1], Finished) and events[-1].usage.source_tokens == 85
    (done,) = [event for event in events if isinstance(event, ImageDone)]
    made = Image.open(io.BytesIO(done.data))
    assert made.crop((0, 0, 48, 96)).tobytes() == image.crop((0, 0, 48, 96)).tobytes()
    assert made.tobytes() != image.tobytes()


def test_one_job_sent_twice_is_drawn_twice(replica: Replica) -> None:
    """As when the connection to the first draw was lost and the replica was not."""

    async def both() -> list[tuple[Frame, list[Event]]]:
        return list(await asyncio.gather(drawn(replica, text()), drawn(replica, text())))

    (_, first), (_, second) = run(both())
    assert [event for event in first if isinstance(event, ImageDone)] == [
        event for event in second if isinstance(event, ImageDone)
    ]
    assert isinstance(first[-1], Finished) and isinstance(second[-1], Finished)


def test_a_draw_that_nobody_reads_stops(replica: Replica) -> None:
    async def body() -> int:
        before = (await replica.count_work())["cancelled_scales"]
        frames = cast("AsyncGenerator[bytes, None]", replica.draw(text(images=10)))
        async for data in frames:
            frame = frame_of(data)
            if frame.kind == "event" and isinstance(parse_event(frame)[1], ScaleDone):
                break
        await frames.aclose()
        assert (await replica.count_work())["open_jobs"] == 0
        while (after := (await replica.count_work())["cancelled_scales"]) == before:
            await asyncio.sleep(0.005)
        _, events = await drawn(replica, text("next"))
        assert isinstance(events[-1], Finished)
        return after - before

    assert 1 <= run(body()) < 40


def test_a_job_that_the_model_can_not_draw_fails(replica: Replica) -> None:
    _, (last,) = run(drawn(replica, text(prompt="  ")))
    assert isinstance(last, Failed) and last.code == "invalid_value"


def test_it_describes_its_model(replica: Replica) -> None:
    found = run(replica.describe())
    assert '"version": "v1"' in found and replica._card.digest in found


def test_open_jobs_without_progress_are_a_sickness(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    run(replica.check_health())
    monkeypatch.setattr(replica, "_progressed", time.monotonic() - 61)
    run(replica.check_health())  # it has nothing to do
    monkeypatch.setattr(replica, "_open", {"name": None})
    with pytest.raises(RuntimeError, match=r"1 jobs made no progress for 6\d s"):
        run(replica.check_health())


def test_a_model_thread_that_ended_is_a_sickness(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_thread", threading.Thread())
    with pytest.raises(RuntimeError, match="has ended"):
        run(replica.check_health())


def test_a_model_that_is_not_there_is_told() -> None:
    with pytest.raises(RuntimeError) as caught:
        Replica({"model": "nowhere"}, "v1")
    error = read_load_failure(f"Traceback ...\nRuntimeError: {caught.value}\n\nDuring handling ...")
    assert isinstance(error, UsageError) and "no model 'nowhere'" in str(error)


@pytest.mark.parametrize("error", [UsageError("What.", "why", "fix"), WeightsError("Weights.", "altered", "again")])
def test_failures_survive_in_a_message(error: UsageError | WeightsError) -> None:
    found = read_load_failure(f"ray::Replica.__init__() RuntimeError: {load_failure(error)} more text")
    assert type(found) is type(error) and str(found) == str(error)


@pytest.mark.parametrize(
    "text", ["", "another error", load_failure(UsageError("What."))[:-5], "bitvar-load-failure {}"]
)
def test_other_messages_are_no_failures(text: str) -> None:
    assert read_load_failure(text) is None
