"""A1111's `/sdapi/v1`, as far as its clients need it to draw: txt2img, img2img, lists, progress, and interrupting.

Names and forms are A1111's; what is drawn is planned as for `/v1/images`. One checkpoint is served, and a
step is a scale. The files carry our own record alone, not A1111's `parameters` as well: its settings describe no
bitvar image, and text added here would break a signature. The answer's `info` has that text.
"""

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastapi import FastAPI, Request

from bitvar.serving.engine.job import PreviewSettings
from bitvar.serving.http import images
from bitvar.serving.http.a1111_answers import (
    LISTS,
    OpenJob,
    answer_object,
    model_object,
    options_object,
    progress_object,
)
from bitvar.serving.http.a1111_edits import ImageFields, ImageInput, read_image_input
from bitvar.serving.http.a1111_fields import Translated, checkpoint_of, named, translate
from bitvar.serving.http.body import ClientLeft, read_json
from bitvar.serving.http.errors import A1111_PREFIX, ApiError
from bitvar.serving.http.images import Service
from bitvar.serving.http.names import resolve_name
from bitvar.serving.http.plan import plan_images
from bitvar.serving.http.sending import json_answer
from bitvar.serving.http.uploads import HeldBytes

ROOT: Final = f"{A1111_PREFIX}v1"

PREVIEWS: Final = 3
"""Number of previews of an image that `progress` can show."""

WATCHED_SECONDS: Final = 600.0
"""How long after a look at `progress` images still have previews."""


@dataclass(eq=False)
class Jobs:
    """What the routes remember.

    Attributes:
        open: Open jobs by id, the oldest first.
        watched: When somebody last asked for progress, on the monotonic clock.
    """

    open: dict[str, OpenJob] = field(default_factory=dict)
    watched: float = -math.inf

    @property
    def num_previews(self) -> int:
        """Number of previews for a new job: they take time, and few clients look at them."""
        return PREVIEWS if time.monotonic() - self.watched < WATCHED_SECONDS else 0


def add_routes(app: FastAPI, service: Service) -> None:
    """Add A1111's routes to an application. They are left out of its schema, which describes our own API."""
    jobs = Jobs()

    @app.post(f"{ROOT}/txt2img", include_in_schema=False)
    async def txt2img(request: Request) -> Any:
        return await draw(service, jobs, request)

    @app.post(f"{ROOT}/img2img", include_in_schema=False)
    async def img2img(request: Request) -> Any:
        return await redraw(service, jobs, request)

    @app.get(f"{ROOT}/options", include_in_schema=False)
    async def options() -> Any:
        return json_answer(options_object(service.card))

    @app.post(f"{ROOT}/options", include_in_schema=False)
    async def set_options(request: Request) -> Any:
        values = await _read(service, request)
        _resolve(service, checkpoint_of(values))
        known = options_object(service.card)  # clients send back what they got, and change nothing but the checkpoint
        return json_answer({"ignored": named(name for name in values if name not in known)})

    @app.get(f"{ROOT}/sd-models", include_in_schema=False)
    async def models() -> Any:
        return json_answer([model_object(service.card)])

    @app.get(f"{ROOT}/loras", include_in_schema=False)
    async def loras() -> Any:
        names = service.card.adapters
        return json_answer([{"name": name, "alias": name, "path": name, "metadata": {}} for name in names])

    @app.get(f"{ROOT}/progress", include_in_schema=False)
    async def progress(request: Request) -> Any:
        jobs.watched = time.monotonic()
        without = request.query_params.get("skip_current_image", "").lower() in ("true", "1")
        return json_answer(progress_object(_jobs_of(jobs, request), with_image=not without))

    @app.post(f"{ROOT}/interrupt", include_in_schema=False)
    @app.post(f"{ROOT}/skip", include_in_schema=False)
    async def interrupt(request: Request) -> Any:
        _interrupt(service, _jobs_of(jobs, request))
        return json_answer({})

    @app.post(f"{ROOT}/refresh-checkpoints", include_in_schema=False)
    @app.post(f"{ROOT}/refresh-loras", include_in_schema=False)
    async def refresh() -> Any:
        return json_answer({})

    @app.get(f"{ROOT}/{{name}}", include_in_schema=False)
    async def fixed(name: str) -> Any:
        if name not in LISTS:
            raise ApiError(404, "There is no such route.", code="not_found")
        return json_answer(LISTS[name])


async def draw(service: Service, jobs: Jobs, request: Request) -> Any:
    """Answer txt2img.

    Args:
        service: Engine and limits.
        jobs: Open jobs; this one is among them until it is answered.
        request: The request, with its body unread.

    Raises:
        ApiError: The request is wrong, was refused, or failed.
    """
    try:
        values = await _read(service, request)
    except ClientLeft:
        return json_answer({}, status=499)
    return await _drawn(service, jobs, request, translate(values, service.card.defaults))


async def redraw(service: Service, jobs: Jobs, request: Request) -> Any:
    """Answer img2img.

    Args:
        service: Engine and limits.
        jobs: Open jobs; this one is among them until it is answered.
        request: The request, with its body unread.

    Raises:
        ApiError: The request is wrong, was refused, or failed.
    """
    held = service.uploads.hold()
    try:
        values = await _read(service, request, held)
        given = await service.uploads.decode(lambda: read_image_input(values))
        known = ImageFields.model_fields
        translated = translate(given.values, service.card.defaults, prompt=given.source.prompt, known=known)
        return await _drawn(service, jobs, request, translated, given)
    except ClientLeft:
        return json_answer({}, status=499)
    finally:
        held.release()


async def _drawn(
    service: Service, jobs: Jobs, request: Request, translated: Translated, given: ImageInput | None = None
) -> Any:
    """Draw what a request asks for, and answer it."""
    card, state = service.card, request.scope["state"]
    name = _resolve(service, translated.request.model)
    source = None if given is None else given.source
    plan = plan_images(translated.request, card, job_id=state["request_id"], answered_name=name, source=source)
    previews = PreviewSettings(count=jobs.num_previews)
    plan = replace(plan, job=plan.job.model_copy(update={"previews": previews}))
    state["log"] = images.log_fields(plan)
    job = OpenJob(_owner(request), plan, service.submit(plan), edit=None if given is None else given.fields)
    if given is not None:
        service.metrics.edits["img2img"] += 1
    jobs.open[plan.job.id] = job
    try:
        found = await images.collect_while_there(service, job.ticket, request.receive, on_event=job.watch)
        if found is None:
            return json_answer({}, status=499)
        finished = found[1]
        images.count_finished(service, finished, found[0])
    except ApiError:
        if not job.interrupted:
            raise
        finished = None  # A1111 answers an interrupted request too, with what there is
    finally:
        del jobs.open[plan.job.id]
    return json_answer(answer_object(translated, job, card, finished))


async def _read(service: Service, request: Request, held: HeldBytes | None = None) -> dict[str, Any]:
    """Read a body of JSON.

    Args:
        service: Limits.
        request: The request.
        held: Where to count the bytes of a body with images; None for one without.
    """
    settings = service.settings
    if held is None:
        limit, seconds = settings.max_body_bytes, settings.body_timeout
        return await read_json(request.receive, request.headers, max_bytes=limit, timeout_seconds=seconds)
    limit = settings.max_upload_bytes // 2  # parsing so much text at once takes half a second
    seconds = settings.upload_timeout
    return await read_json(request.receive, request.headers, max_bytes=limit, timeout_seconds=seconds, hold=held.add)


def _resolve(service: Service, name: str | None) -> str:
    """Find the model that answers to the name of a checkpoint. Its digest is a name too, as A1111's hashes are."""
    card, settings = service.card, service.settings
    return resolve_name(name, served=card.name, aliases=(*settings.aliases, card.digest), any_model=settings.any_model)


def _owner(request: Request) -> str:
    """Who sends a request: whoever has its key. Without keys, all are one."""
    return request.headers.get("authorization") or request.headers.get("api-key", "")


def _jobs_of(jobs: Jobs, request: Request) -> list[OpenJob]:
    owner = _owner(request)
    return [job for job in jobs.open.values() if job.owner == owner]


def _interrupt(service: Service, jobs: list[OpenJob]) -> None:
    """Stop the jobs that are being drawn, and the one that `progress` shows."""
    for index, job in enumerate(jobs):
        if index == 0 or job.ticket.is_started:
            job.interrupted = service.engine.cancel(job.ticket.job.id)
