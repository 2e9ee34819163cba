"""The engine in the front process: a bounded queue before the backend, deadlines, cancelling and draining.

It accepts a job or refuses it at once. Whatever happens, an accepted job ends with exactly one last event.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import Field

from bitvar.config import Config
from bitvar.serving.engine.backend import Backend
from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Preview,
    Queued,
    ScaleDone,
    Started,
)
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.memory import image_bytes
from bitvar.serving.engine.model_card import ModelCard

_LOG: Final = logging.getLogger(__name__)

_LEAST_RETRY: Final = 1
_LONGEST_RETRY: Final = 120

_MOST_LOSSES: Final = 3
"""Number of times that the backend may die with a waiting job, before the job is thought to be the reason."""

_PREVIEW_BYTES: Final = 1 << 21
"""Bytes of previews of a job that may wait for a client that reads slowly; further ones are left out."""

Reason = Literal["queue_full", "loading", "draining", "too_large", "failed"]


class EngineLimits(Config):
    """Bounds of the engine.

    Attributes:
        max_queue: Most jobs that wait for their first scale.
        request_timeout: Seconds from submitting a job until it fails, in the queue or later.
        drain_timeout: Seconds that accepted jobs have once the engine drains.
        stall_timeout: Seconds that a cancelled job may hold the backend before it is restarted; longer than any scale.
    """

    max_queue: int = Field(default=16, ge=1, le=10_000)
    request_timeout: float = Field(default=120.0, gt=0, le=86_400)
    drain_timeout: float = Field(default=30.0, ge=0, le=86_400)
    stall_timeout: float = Field(default=60.0, gt=0, le=86_400)


class RefusedJobError(Exception):
    """A job was not accepted.

    Attributes:
        reason: Why.
        retry_after: Seconds after which another try may succeed; None if it never will.
    """

    def __init__(self, reason: Reason, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


@dataclass(eq=False)
class Ticket:
    """An accepted job.

    Attributes:
        job: The job.
        submitted: When it was accepted, on the monotonic clock.
        is_started: Whether its first scale has begun.
        losses: Number of times that the backend died with it.
        last: Its last event, once there is one.
    """

    job: Job
    submitted: float
    is_started: bool = False
    losses: int = 0
    last: Finished | Failed | Cancelled | None = None
    _events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue, repr=False)
    _preview_bytes: int = field(default=0, repr=False)
    _deadline: asyncio.TimerHandle | None = field(default=None, repr=False)

    def add(self, event: Event) -> bool:
        """Add an event for the reader. Returns False for a preview that is left out, since too many wait."""
        if isinstance(event, Preview):
            if self._preview_bytes and self._preview_bytes + len(event.data) > _PREVIEW_BYTES:
                return False
            self._preview_bytes += len(event.data)
        self._events.put_nowait(event)
        return True

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens to the job, up to its last event. It can be read once."""
        while True:
            event = await self._events.get()
            if isinstance(event, Preview):
                self._preview_bytes -= len(event.data)
            yield event
            if isinstance(event, Finished | Failed | Cancelled):
                return


class Engine:
    """Accepts jobs, and has a backend draw them.

    Args:
        backend: Where jobs are drawn.
        limits: Bounds of the queue and of time.
    """

    def __init__(self, backend: Backend, limits: EngineLimits | None = None) -> None:
        self._backend = backend
        self._limits = limits or EngineLimits()
        self._tickets: dict[str, Ticket] = {}  # open jobs, in order of arrival
        self._stopping: dict[str, asyncio.TimerHandle] = {}  # cancelled jobs that the backend has yet to give up
        self._draining = False
        self._failure: Exception | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed = asyncio.Event()
        self._seconds_per_token = 1e-3
        self._restarts: set[asyncio.Future[None]] = set()
        self.counts: Counter[str] = Counter()
        """Numbers of jobs: accepted, refused_REASON, finished, failed, cancelled; of
        lost workers; and of scales, all and those that came in after their job was cancelled;
        and of previews that were left out, since their client read too slowly."""

    @property
    def card(self) -> ModelCard | None:
        """The model; None until it is loaded."""
        return self._backend.card

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def state(self) -> str:
        """One of loading, ready, restarting, draining and failed."""
        if self._draining:
            return "draining"
        return self._backend.state

    @property
    def failure(self) -> Exception | None:
        """Why the backend can't draw and won't recover; None while it can."""
        return self._failure

    @property
    def num_waiting(self) -> int:
        """Number of jobs whose first scale has not begun."""
        return sum(not ticket.is_started for ticket in self._open())

    @property
    def num_running(self) -> int:
        """Number of jobs that are being drawn."""
        return sum(ticket.is_started for ticket in self._open())

    async def start(self) -> None:
        """Begin loading the model, without waiting for it."""
        await self._backend.start(self)

    async def failed(self) -> Exception:
        """Wait until the backend has failed for good."""
        await self._failed.wait()
        assert self._failure is not None
        return self._failure

    def submit(self, job: Job) -> Ticket:
        """Accept a job.

        Raises:
            RefusedJobError: The queue is full, the model is not loaded, an image would not fit, or the engine drains.
        """
        try:
            self._admit(job)
        except RefusedJobError as refusal:
            self.counts[f"refused_{refusal.reason}"] += 1
            raise
        ticket = Ticket(job, time.monotonic())
        self.counts["accepted"] += 1
        self._tickets[job.id] = ticket
        self._idle.clear()
        loop = asyncio.get_running_loop()
        ticket._deadline = loop.call_later(self._limits.request_timeout, self._expire, ticket)
        if ahead := self.num_waiting - 1:
            ticket.add(Queued(ahead))
        if self._backend.state == "ready":
            self._backend.submit(job)
        return ticket

    def cancel(self, job_id: str) -> bool:
        """Cancel a job, which then costs at most the scale that is being drawn.

        Returns:
            Whether there was such a job.
        """
        ticket = self._tickets.get(job_id)
        if ticket is None:
            return False
        self._stop(ticket, Cancelled())
        return True

    async def drain(self) -> None:
        """Refuse new jobs, and wait until the accepted ones are done or the time for it is over."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), self._limits.drain_timeout)
        except TimeoutError:
            for ticket in self._open():
                self._stop(ticket, Failed("draining", "The server stopped before the image was finished."))

    async def stop(self) -> None:
        """End at once. Open jobs fail."""
        self._draining = True
        for ticket in self._open():
            self._close(ticket, Failed("draining", "The server stopped before the image was finished."))
        await self._backend.stop()

    def retry_after(self) -> int:
        """Predict the seconds until the jobs that are open now are done."""
        seconds = sum(self._seconds(ticket.job) for ticket in self._open())
        return max(_LEAST_RETRY, min(_LONGEST_RETRY, round(seconds)))

    def on_event(self, job_id: str, event: Event) -> None:
        """Pass on what happened to a job."""
        ticket = self._tickets.get(job_id)
        if isinstance(event, ScaleDone):
            self.counts["scales"] += 1
            self.counts["scales_after_cancel"] += job_id in self._stopping
        is_last = isinstance(event, Finished | Failed | Cancelled)
        if is_last and (timer := self._stopping.pop(job_id, None)) is not None:
            timer.cancel()
        if ticket is None:
            return
        if isinstance(event, Finished | Failed | Cancelled):
            self._close(ticket, event)
            return
        if isinstance(event, Started):
            ticket.is_started = True
            self._tell_positions()
        self.counts["previews_left_out"] += not ticket.add(event)

    def on_ready(self) -> None:
        """Submit the jobs that waited for the backend."""
        for ticket in self._open():
            self._backend.submit(ticket.job)

    def on_lost(self) -> None:
        """Fail the jobs that were being drawn, and those that were lost too often.

        The others are drawn when the backend is back.
        """
        self.counts["lost"] += 1
        for timer in self._stopping.values():
            timer.cancel()
        self._stopping.clear()
        failure = Failed("worker_died", "The worker process died while it drew the image. Try again.")
        for ticket in self._open():
            ticket.losses += 1
            if ticket.is_started or ticket.losses >= _MOST_LOSSES:
                self._close(ticket, failure)

    def on_failed(self, error: Exception) -> None:
        """Fail every job, for good."""
        self._failure = error
        for ticket in self._open():
            self._close(ticket, Failed("server_error", "The model could not be loaded."))
        self._failed.set()

    def _open(self) -> list[Ticket]:
        """Copy the list of open jobs in one step, since other threads count them while jobs come and go."""
        return list(self._tickets.values())

    def _admit(self, job: Job) -> None:
        card = self._backend.card
        if self._draining:
            raise RefusedJobError("draining", "The server is shutting down.")
        if self._failure is not None:
            raise RefusedJobError("failed", "The model could not be loaded.")
        if card is None:
            raise RefusedJobError("loading", "The model is still being loaded.", 2)
        request = job.request
        if request.width is not None and request.height is not None:
            needed = image_bytes(job, card.size_of(request.width, request.height), card)
            if needed > card.memory_budget:
                what = f"An image of {request.width}x{request.height} needs about {needed / 2**30:.1f} GiB"
                free = f"{card.memory_budget / 2**30:.1f} GiB are free for images"
                raise RefusedJobError("too_large", f"{what}, and {free}.")
        if self.num_waiting >= self._limits.max_queue:
            raise RefusedJobError("queue_full", "The queue is full.", self.retry_after())

    def _seconds(self, job: Job) -> float:
        card = self._backend.card
        if card is None:
            return 0.0
        request = job.request
        size = card.sizes[0]
        if request.width is not None and request.height is not None:
            size = card.size_of(request.width, request.height)
        return size.tokens * request.num_images * self._seconds_per_token

    def _expire(self, ticket: Ticket) -> None:
        seconds = self._limits.request_timeout
        self._stop(ticket, Failed("timeout", f"The image was not finished within {seconds:g} seconds."))

    def _stop(self, ticket: Ticket, last: Cancelled | Failed) -> None:
        """End a job for its client now, and in the backend at the next scale boundary."""
        if ticket.last is not None:
            return
        self._close(ticket, last)
        if self._backend.state != "ready":
            return
        job_id, loop = ticket.job.id, asyncio.get_running_loop()
        self._stopping[job_id] = loop.call_later(self._limits.stall_timeout, self._give_up, job_id)
        self._backend.cancel(job_id)

    def _give_up(self, job_id: str) -> None:
        """Restart a backend that doesn't give up a cancelled job."""
        self._stopping.pop(job_id, None)
        _LOG.error("job %s was cancelled and still runs after %g s", job_id, self._limits.stall_timeout)
        self._restarts.add(task := asyncio.ensure_future(self._backend.restart()))
        task.add_done_callback(self._restarts.discard)

    def _close(self, ticket: Ticket, last: Finished | Failed | Cancelled) -> None:
        if ticket.last is not None:
            return
        ticket.last = last
        if ticket._deadline is not None:
            ticket._deadline.cancel()
        self._tickets.pop(ticket.job.id, None)
        self.counts[type(last).__name__.lower()] += 1
        if isinstance(last, Finished):
            measured = last.drawing_seconds / max(1, last.usage.image_tokens)
            self._seconds_per_token += 0.3 * (measured - self._seconds_per_token)
        ticket.add(last)
        if not self._tickets:
            self._idle.set()

    def _tell_positions(self) -> None:
        """Tell every waiting job how many are ahead of it."""
        waiting = [ticket for ticket in self._open() if not ticket.is_started]
        for ahead, ticket in enumerate(waiting):
            ticket.add(Queued(ahead))
