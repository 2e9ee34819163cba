"""The backend that draws on replicas. A job whose replica dies is drawn again by another, and its client sees no seam.

It loads neither torch nor Ray: `start` opens the cluster in a thread.
"""

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from bitvar.errors import UsageError, WeightsError
from bitvar.serving.engine.backend import BackendListener, State
from bitvar.serving.engine.events import Cancelled, Failed, Finished
from bitvar.serving.engine.job import Job
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.engine.wire import Frame, parse_event, read_frame
from bitvar.serving.replicas.delivery import MODEL_CHANGED, Delivery
from bitvar.serving.replicas.interface import (
    Cluster,
    DeploymentStatus,
    Description,
    Draw,
    ReplicaFaultError,
    ReplicaLostError,
)

_LOG: Final = logging.getLogger(__name__)

_MAX_DEATHS: Final = 3
"""Replicas that a job may see dying. A job that kills every replica must not get the next one."""

_DESCRIBE_SECONDS: Final = 30.0
"""Seconds that a replica has to describe itself. It is asked again later."""

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0
"""Seconds before a job is offered again, doubling while no replica takes it. Its deadline is the engine's business."""


@dataclass(eq=False)
class _Call:
    """An open job.

    Attributes:
        job: The job.
        delivery: What has been told of it.
        draw: Its present draw; None before the first.
        replica: Name of the replica that has it; None while none has.
        is_cancelled: Whether to stop.
        task: What reads its frames.
    """

    job: Job
    delivery: Delivery = field(default_factory=Delivery)
    draw: Draw | None = None
    replica: str | None = None
    is_cancelled: bool = False
    task: asyncio.Task[None] | None = None


class RayBackend:
    """Draws jobs on the replicas of a cluster.

    Once the model is loaded it is ready for good: jobs wait in front of the replicas while some or all are replaced.

    Args:
        open_cluster: Connects to where the replicas run. It may block, so it is called in a thread.
        poll_seconds: Seconds between looks at the deployment.
    """

    def __init__(self, open_cluster: Callable[[], Cluster], *, poll_seconds: float = 1.0) -> None:
        self._open_cluster = open_cluster
        self._cluster: Cluster | None = None
        self._poll_seconds = poll_seconds
        self._card: ModelCard | None = None
        self._state: State = "stopped"
        self._listener: BackendListener | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._connecting: asyncio.Future[Cluster] | None = None
        self._calls: dict[str, _Call] = {}
        self._version: str | None = None
        self._is_stale = True  # whether the replicas may have another model than the card's
        self._message = ""
        self.num_running = 0
        """Number of replicas that ran at the last look."""
        self.num_redrawn = 0
        """Number of times that a job was drawn again because its replica was lost."""

    @property
    def card(self) -> ModelCard | None:
        return self._card

    @property
    def state(self) -> State:
        return self._state

    def replica_of(self, job_id: str) -> str | None:
        """Name of the replica that draws a job; None if none does."""
        call = self._calls.get(job_id)
        return None if call is None else call.replica

    async def start(self, listener: BackendListener) -> None:
        self._listener = listener
        self._state = "loading"
        self._supervision = asyncio.create_task(self._supervise())

    def submit(self, job: Job) -> None:
        if job.id in self._calls:
            return
        call = _Call(job)
        self._calls[job.id] = call
        call.task = asyncio.create_task(self._draw(call))

    def cancel(self, job_id: str) -> None:
        call = self._calls.get(job_id)
        if call is not None:
            self._cancel(call)

    async def restart(self) -> None:
        """Kill the replicas that have jobs. Others draw those jobs again."""
        assert self._cluster is not None
        for name in {call.replica for call in self._calls.values() if call.replica is not None}:
            await asyncio.to_thread(self._cluster.kill, name)

    async def stop(self) -> None:
        self._state = "stopped"
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        for call in list(self._calls.values()):
            self._cancel(call)
        if self._supervision is not None:
            self._supervision.cancel()
            tasks.append(self._supervision)
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._connecting is not None:
            opening, self._connecting = self._connecting, None
            (found,) = await asyncio.gather(opening, return_exceptions=True)  # a thread can't be cancelled
            if not isinstance(found, BaseException):
                await asyncio.to_thread(found.close)

    def _cancel(self, call: _Call) -> None:
        call.is_cancelled = True
        if call.draw is not None:
            call.draw.cancel()
        if call.task is not None:
            call.task.cancel()

    async def _supervise(self) -> None:
        """Connect, and from then on watch the deployment."""
        self._connecting = asyncio.ensure_future(asyncio.to_thread(self._open_cluster))
        try:
            self._cluster = cluster = await asyncio.shield(self._connecting)
        except (UsageError, WeightsError) as error:
            self._fail(error)
            return
        while self._state != "failed":
            try:
                await self._take_status(cluster, await asyncio.to_thread(cluster.status))
            except (ReplicaLostError, TimeoutError) as error:
                _LOG.warning("the state of the replicas is unknown: %s", error)
            await asyncio.sleep(self._poll_seconds)

    async def _take_status(self, cluster: Cluster, status: DeploymentStatus) -> None:
        """Take in how the deployment stands."""
        assert self._listener is not None
        if status.num_running != self.num_running:
            _LOG.info("%d replicas run", status.num_running)
        self.num_running = status.num_running
        if status.message != self._message and status.failure is None and status.message:
            _LOG.info("Ray says about the replicas: %s", status.message)
        if status.failure is not None and self._card is None:
            self._fail(status.failure)
        elif status.failure is not None and status.message != self._message:
            _LOG.error("a new model can't be loaded, and replicas of the old one go on: %s", status.failure)
        self._message = status.message
        self._is_stale = self._is_stale or not status.is_settled
        is_first = self._card is None and status.num_running > 0  # the others may still load
        if status.failure is None and (is_first or (status.is_settled and self._is_stale)):
            description = await asyncio.wait_for(cluster.describe(), _DESCRIBE_SECONDS)
            self._adopt(description, cluster, is_settled=status.is_settled)

    def _adopt(self, description: Description, cluster: Cluster, *, is_settled: bool) -> None:
        """Take over the model that a replica has."""
        assert self._listener is not None
        if not is_settled and cluster.version not in (None, description.version):
            return  # one of the replicas that are about to be replaced by ours
        if self._card is not None and self._card.digest != description.card.digest:
            _LOG.info("the replicas changed from %s to %s", self._card.digest, description.card.digest)
        self._card, self._version, self._is_stale = description.card, description.version, not is_settled
        if self._state == "loading":
            self._state = "ready"
            self._listener.on_ready()

    def _fail(self, error: Exception) -> None:
        assert self._listener is not None
        self._state = "failed"
        self._listener.on_failed(error)

    async def _draw(self, call: _Call) -> None:
        """Draw a job to its end, and tell its last event."""
        last: Finished | Failed | Cancelled
        try:
            last = await self._draw_until_done(call)
        except asyncio.CancelledError:
            last = Cancelled(call.delivery.num_scales)
        except Exception as error:  # whatever it is, the job must end
            _LOG.error("job %s failed unexpectedly", call.job.id, exc_info=error)
            last = Failed("server_error", "The image could not be drawn, because of a fault in the server.")
        finally:
            self._calls.pop(call.job.id, None)
        if call.is_cancelled and not isinstance(last, Finished):
            last = Cancelled(call.delivery.num_scales)
        assert self._listener is not None
        self._listener.on_event(call.job.id, last)

    async def _draw_until_done(self, call: _Call) -> Finished | Failed | Cancelled:
        """Draw a job on one replica after another until one finishes it."""
        deaths, delay = 0, _FIRST_DELAY
        while True:
            try:
                last = await self._draw_once(call)
            except ReplicaLostError as error:
                reason = str(error)
            else:
                if last is not None:
                    return last
                reason = "its replica ended"
            if call.is_cancelled:
                return Cancelled(call.delivery.num_scales)
            if call.replica is None:  # nobody took it
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
                continue
            deaths, delay = deaths + 1, _FIRST_DELAY
            _LOG.warning("job %s lost replica %s: %s", call.job.id, call.replica, reason)
            if deaths == _MAX_DEATHS:
                return Failed("worker_died", f"The image was begun {deaths} times, and each time its worker died.")
            self.num_redrawn += 1

    async def _draw_once(self, call: _Call) -> Finished | Failed | Cancelled | None:
        """Draw a job on one replica. Returns its last event; None if the replica ended before that."""
        assert self._listener is not None and self._cluster is not None
        call.replica = None
        call.draw = draw = self._cluster.draw(call.job.model_dump_json())
        frames = draw.frames()
        try:
            async for data in frames:
                frame = _read(data)
                if frame.kind == "hello":
                    call.replica = frame.values["replica"]
                    self._is_stale = self._is_stale or frame.values["version"] != self._version
                    if not call.delivery.start_draw(frame.values["digest"]):
                        return MODEL_CHANGED
                    continue
                event = call.delivery.take(parse_event(frame)[1])
                if isinstance(event, Finished | Failed | Cancelled):
                    return event
                if event is not None:
                    self._listener.on_event(call.job.id, event)
        finally:
            draw.cancel()
            with contextlib.suppress(ReplicaLostError, ReplicaFaultError):
                await _close(frames)
        return None


async def _close(frames: AsyncIterator[bytes]) -> None:
    close = getattr(frames, "aclose", None)
    if close is not None:
        await close()


def _read(data: bytes) -> Frame:
    frame = read_frame(io.BytesIO(data).read)
    if frame is None:
        raise ReplicaLostError("a frame arrived in part")
    return frame
