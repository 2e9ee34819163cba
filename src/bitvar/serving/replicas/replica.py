"""A replica: one model and its runner in a process of Ray's. It loads torch once Ray creates it, never on import."""

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import uuid4

from bitvar.errors import UsageError, WeightsError
from bitvar.serving.engine.events import Cancelled, Event, Failed, Finished
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.engine.wire import Frame, event_frame, pack

LOAD_FAILURE: Final = "bitvar-load-failure"
"""Word before the JSON by which a model that can't be loaded tells the front process why."""


class Replica:
    """Draws the jobs that the front process sends.

    Args:
        settings: `WorkerSettings` as JSON values.
        version: Which deploying this replica comes from.
        name: Name of this replica for logs; None asks Ray.
        stall_seconds: Seconds without progress after which the replica calls itself unhealthy.

    Raises:
        RuntimeError: The model can't be loaded. The message is `load_failure`'s.
    """

    def __init__(
        self, settings: Mapping[str, Any], version: str, *, name: str | None = None, stall_seconds: float = 60.0
    ) -> None:
        from bitvar.serving.engine.loading import build_runner

        worker = WorkerSettings.model_validate(settings)
        try:
            self._runner, self._card = build_runner(worker, self._emit)
        except (UsageError, WeightsError) as error:
            raise RuntimeError(load_failure(error)) from None
        self._version = version
        self._name = name or _replica_name()
        self._stall_seconds = stall_seconds
        self._open: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Event]]] = {}
        self._progressed = time.monotonic()
        self._cancelled_scales = 0
        self._thread = threading.Thread(target=self._runner.run, name="model", daemon=True)
        self._thread.start()

    async def describe(self) -> str:
        """Return version and model card as JSON."""
        return json.dumps({"version": self._version, "card": self._card.model_dump(mode="json")})

    async def count_work(self) -> dict[str, int]:
        """Return the process id, the number of open jobs, and that of scales drawn for jobs that were cancelled."""
        return {"pid": os.getpid(), "open_jobs": len(self._open), "cancelled_scales": self._cancelled_scales}

    async def draw(self, text: str) -> AsyncIterator[bytes]:
        """Draw a job. Whoever stops reading cancels it at the next scale boundary.

        Args:
            text: The job as JSON.

        Yields:
            Packed frames: a "hello" that says which replica and model draws it, then its events.
        """
        job = Job.model_validate_json(text)
        # A job that is sent again after a lost connection may still be drawn here, so each call has a name of its own.
        name = uuid4().hex
        events: asyncio.Queue[Event] = asyncio.Queue()
        self._open[name] = (asyncio.get_running_loop(), events)
        if len(self._open) == 1:
            self._progressed = time.monotonic()
        self._runner.submit(job.model_copy(update={"id": name}))
        try:
            hello = {"replica": self._name, "version": self._version, "digest": self._card.digest}
            yield pack(Frame("hello", hello))
            while True:
                event = await events.get()
                yield pack(event_frame(job.id, event))
                if isinstance(event, Finished | Failed | Cancelled):
                    return
        finally:
            del self._open[name]
            self._runner.cancel(name)

    async def check_health(self) -> None:
        """Tell Ray to replace this replica if its model no longer draws.

        Raises:
            RuntimeError: The thread of the model ended, or open jobs make no progress.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the thread of the model has ended")
        idle = time.monotonic() - self._progressed
        if self._open and idle > self._stall_seconds:
            raise RuntimeError(f"{len(self._open)} jobs made no progress for {idle:.0f} s")

    def _emit(self, name: str, event: Event) -> None:
        """Pass an event from the encoding thread to the loop that its job is read in."""
        self._progressed = time.monotonic()
        if isinstance(event, Cancelled):
            self._cancelled_scales += event.scales
        found = self._open.get(name)
        if found is not None:
            loop, events = found
            loop.call_soon_threadsafe(events.put_nowait, event)


def load_failure(error: UsageError | WeightsError) -> str:
    """Write why a model can't be loaded as one line that survives in Ray's messages."""
    return f"{LOAD_FAILURE} {json.dumps({'kind': type(error).__name__, 'message': str(error)})}"


def read_load_failure(text: str) -> UsageError | WeightsError | None:
    """Find the error that `load_failure` wrote in a longer text, such as a traceback; None if there is none."""
    _, mark, rest = text.partition(f"{LOAD_FAILURE} {{")
    if not mark:
        return None
    try:
        values, _ = json.JSONDecoder().raw_decode("{" + rest)
        message = values["message"]
        error = (UsageError if values["kind"] == "UsageError" else WeightsError)(message.splitlines()[0])
    except (ValueError, KeyError, IndexError):  # Ray shortened it
        return None
    error.args = (message,)  # it has its lines already
    return error


def _replica_name() -> str:
    from ray import serve

    return serve.get_replica_context().replica_id.to_full_id_str()
