"""Routes of images: generations, answers to all jobs, cancelling, and the URLs of results."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bitvar.serving.engine.engine import Engine, RefusedJobError, Ticket
from bitvar.serving.engine.events import Cancelled, Event, Failed, Finished, ImageDone, Preview, Queued
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.answers import comment, completed_event, error_event, images_answer, partial_event
from bitvar.serving.http.body import ClientLeft, read_json
from bitvar.serving.http.errors import ApiError, from_failure
from bitvar.serving.http.fields import parse_images_request
from bitvar.serving.http.metrics import HttpMetrics
from bitvar.serving.http.names import resolve_name
from bitvar.serving.http.plan import Plan, plan_images
from bitvar.serving.http.results import ResultStore
from bitvar.serving.http.sending import BytesAnswer, EventStream, Receive, client_left, json_answer
from bitvar.serving.http.settings import ServerSettings
from bitvar.serving.http.uploads import Uploads

KEEP_ALIVE_SECONDS: Final = 10.0
"""Seconds without an event after which a stream sends a comment line."""

_REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    "queue_full": (429, "queue_full"),
    "loading": (503, "loading"),
    "draining": (503, "draining"),
    "failed": (503, "server_error"),
    "too_large": (400, "invalid_value"),
}
"""Status and code for each reason that the engine refuses a job for."""


@dataclass(frozen=True)
class Service:
    """What the routes share.

    Attributes:
        engine: Where jobs are drawn.
        settings: Names and limits.
        results: Images behind URLs.
        metrics: Counts.
        uploads: Bound on uploaded files.
    """

    engine: Engine
    settings: ServerSettings
    results: ResultStore
    metrics: HttpMetrics
    uploads: Uploads

    @property
    def card(self) -> ModelCard:
        """The model.

        Raises:
            ApiError: It is not loaded yet, or can't be.
        """
        card = self.engine.card
        if card is not None:
            return card
        if self.engine.failure is not None:
            raise ApiError(503, "The model could not be loaded.", code="server_error", headers=_NO_RETRY)
        raise ApiError(503, "The model is still being loaded.", code="loading", headers={"retry-after": "2"})

    def submit(self, plan: Plan) -> Ticket:
        """Hand a planned job to the engine.

        Raises:
            ApiError: The engine refuses it.
        """
        try:
            return self.engine.submit(plan.job)
        except RefusedJobError as refusal:
            status, code = _REFUSALS[refusal.reason]
            headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
            if status == 503 and refusal.retry_after is None:
                headers = dict(_NO_RETRY)
            param = "size" if refusal.reason == "too_large" else None
            raise ApiError(status, str(refusal), param=param, code=code, headers=headers) from None


_NO_RETRY: Final = {"x-should-retry": "false"}


async def generate(service: Service, scope: Mapping[str, Any], receive: Receive, headers: Mapping[str, str]) -> Any:
    """Answer `POST /v1/images/generations`.

    Args:
        service: Engine and limits.
        scope: ASGI scope of the request.
        receive: The connection's ASGI callable.
        headers: Headers by name in lower case.

    Raises:
        ApiError: The request is wrong, or was refused.
    """
    settings, state = service.settings, scope["state"]
    try:
        values = await read_json(
            receive, headers, max_bytes=settings.max_body_bytes, timeout_seconds=settings.body_timeout
        )
    except ClientLeft:
        return json_answer({}, status=499)
    request = parse_images_request(values)
    card = service.card
    name = resolve_name(request.model, served=card.name, aliases=settings.aliases, any_model=settings.any_model)
    plan = plan_images(request, card, job_id=state["request_id"], answered_name=name)
    state["log"] = log_fields(plan)
    ticket = service.submit(plan)
    return await answer(service, plan, ticket, scope, receive, headers)


async def answer(
    service: Service,
    plan: Plan,
    ticket: Ticket,
    scope: Mapping[str, Any],
    receive: Receive,
    headers: Mapping[str, str],
) -> Any:
    """Answer with the images of a job, or with a stream of what happens to it.

    Raises:
        ApiError: The job failed or was cancelled.
    """
    if plan.stream:
        return EventStream(stream(service, plan, ticket))
    base = service.settings.public_url or f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"
    return await _whole(service, plan, ticket, receive, base=base)


def log_fields(plan: Plan) -> dict[str, Any]:
    """What the log says of a request: nothing of its text."""
    fields: dict[str, Any] = {"images": plan.job.request.num_images, "size": plan.size, "stream": plan.stream}
    if plan.job.request.edit is not None:
        fields["method"] = plan.job.request.edit.chosen_method
    if plan.safety_identifier is not None:
        fields["user"] = hashlib.sha256(plan.safety_identifier.encode()).hexdigest()[:16]
    return fields


async def stream(service: Service, plan: Plan, ticket: Ticket) -> AsyncIterator[bytes]:
    """Write what happens to a job as server-sent events. Closing the iterator cancels the job."""
    began, images = time.perf_counter(), list[ImageDone]()
    try:
        async for event in _with_silence(ticket.events()):
            if event is None:
                yield comment("keep-alive")
            elif isinstance(event, Queued):
                yield comment(f"queue={event.position}")
            elif isinstance(event, Preview):
                if event.index == 0:
                    service.metrics.first_preview_seconds.add(time.perf_counter() - began)
                yield partial_event(plan, event, created=int(time.time()))
            elif isinstance(event, ImageDone):
                images.append(event)
            elif isinstance(event, Finished):
                count_finished(service, event, images)
                yield completed_event(plan, images[0], event, card=service.card, created=int(time.time()))
            elif isinstance(event, Failed):
                yield error_event(from_failure(event))
            elif isinstance(event, Cancelled):
                yield error_event(_cancelled())
    finally:
        service.engine.cancel(ticket.job.id)


async def _with_silence(events: AsyncIterator[Event]) -> AsyncIterator[Event | None]:
    """Yield None where no event has come for a while."""
    source = aiter(events)
    following = asyncio.ensure_future(anext(source))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield None
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(source))
            yield event
    finally:
        following.cancel()


async def collect(
    ticket: Ticket, *, on_event: Callable[[Event], None] = lambda event: None
) -> tuple[list[ImageDone], Finished]:
    """Wait for all images of a job.

    Args:
        ticket: The job.
        on_event: Told of everything that happens to it.

    Raises:
        ApiError: The job failed or was cancelled.
    """
    images: list[ImageDone] = []
    async for event in ticket.events():
        on_event(event)
        if isinstance(event, ImageDone):
            images.append(event)
        elif isinstance(event, Finished):
            return sorted(images, key=lambda image: image.image), event
        elif isinstance(event, Failed):
            raise from_failure(event)
        elif isinstance(event, Cancelled):
            raise _cancelled()
    raise AssertionError("every job has a last event")


async def collect_while_there(
    service: Service, ticket: Ticket, receive: Receive, *, on_event: Callable[[Event], None] = lambda event: None
) -> tuple[list[ImageDone], Finished] | None:
    """Wait for all images of a job as long as the client waits too.

    Args:
        service: Where the job is drawn.
        ticket: The job.
        receive: The connection's ASGI callable.
        on_event: Told of everything that happens to the job.

    Returns:
        The images and the last event; None if the client left, whose job is cancelled then.

    Raises:
        ApiError: The job failed or was cancelled.
    """
    work = asyncio.ensure_future(collect(ticket, on_event=on_event))
    leaving = asyncio.ensure_future(client_left(receive))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else None
    finally:
        service.engine.cancel(ticket.job.id)  # has no effect on a finished job
        for task in (work, leaving):
            task.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


def count_finished(service: Service, finished: Finished, images: list[ImageDone]) -> None:
    """Count a finished job."""
    service.metrics.images += len(images)
    service.metrics.queued_seconds.add(finished.queued_seconds)
    service.metrics.drawing_seconds.add(finished.drawing_seconds)


async def _whole(service: Service, plan: Plan, ticket: Ticket, receive: Receive, *, base: str) -> Any:
    found = await collect_while_there(service, ticket, receive)
    if found is None:
        return json_answer({}, status=499)
    images, finished = found
    count_finished(service, finished, images)
    urls = None
    if plan.response_format == "url":
        ids = [service.results.put(image.data, f"image/{image.format}") for image in images]
        urls = [f"{base}/v1/images/{image_id}/content" for image_id in ids]
    return json_answer(images_answer(plan, images, finished, card=service.card, created=int(time.time()), urls=urls))


def content(service: Service, image_id: str) -> Any:
    """Answer `GET /v1/images/{id}/content`.

    Raises:
        ApiError: There is no such image, or its time is over.
    """
    stored = service.results.get(image_id)
    if stored is None:
        raise ApiError(404, "There is no image at this URL, or its time is over.", code="image_not_found")
    headers = {"cache-control": f"private, max-age={int(service.settings.result_seconds)}"}
    return BytesAnswer(stored.data, stored.media_type, headers=headers)


def cancel(service: Service, request_id: str) -> Any:
    """Answer `DELETE /v1/requests/{id}`.

    Raises:
        ApiError: There is no such request, or it is over.
    """
    if not service.engine.cancel(request_id):
        raise ApiError(404, "There is no open request with this id.", code="request_not_found")
    return json_answer({"id": request_id, "object": "request", "status": "cancelled"})


def _cancelled() -> ApiError:
    return ApiError(400, "The request was cancelled.", code="cancelled", headers=_NO_RETRY)
