"""A1111's `/sdapi/v1`, as far as its clients need it to draw: txt2img, its lists, progress, and interrupting.

Names and forms are A1111's; what is drawn is planned as for `/v1/images/generations`. One checkpoint is served, and a
step is a scale. The files carry our own record alone, not A1111's `parameters` as well: its settings describe no
bitvar image, and text added here would break a signature. The answer's `info` has that text.
"""

import base64
import json
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from fastapi import FastAPI, Request

from bitvar import __version__
from bitvar.serving.engine.engine import Ticket
from bitvar.serving.engine.events import Event, Finished, ImageDone, Preview, ScaleDone
from bitvar.serving.engine.job import PreviewSettings
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http import images
from bitvar.serving.http.a1111_fields import Translated, checkpoint_of, named, translate
from bitvar.serving.http.body import ClientLeft, read_json
from bitvar.serving.http.errors import A1111_PREFIX, ApiError
from bitvar.serving.http.images import Service
from bitvar.serving.http.names import resolve_name
from bitvar.serving.http.plan import Plan, plan_images
from bitvar.serving.http.sending import json_answer

ROOT: Final = f"{A1111_PREFIX}v1"
SAMPLER: Final = "Next-scale"
"""Name of the one sampler."""

PREVIEWS: Final = 3
"""Number of previews of an image that `progress` can show."""

_NO_UPSCALER: Final = {"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4}
_FIXED: Final[Mapping[str, Any]] = {
    "samplers": [{"name": SAMPLER, "aliases": [], "options": {}}],
    "schedulers": [
        {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
    ],
    "upscalers": [_NO_UPSCALER],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "hypernetworks": [],
    "face-restorers": [],
    "prompt-styles": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {},
}
"""Answers that no model changes. Clients fill their menus from them, and some fail where a list is missing."""


@dataclass(eq=False)
class OpenJob:
    """A txt2img request that is not answered yet.

    Attributes:
        owner: Who sent it. Others can neither see nor stop it.
        plan: What is drawn.
        ticket: The job.
        created: When it came, in seconds since 1970.
        began: When its first scale was finished, on the monotonic clock; None before.
        tokens: Number of finished tokens by image.
        last: The newest finished scale.
        preview: The newest preview.
        images: Finished images.
        interrupted: Whether it was stopped.
    """

    owner: str = field(repr=False)
    plan: Plan
    ticket: Ticket
    created: float = field(default_factory=time.time)
    began: float | None = None
    tokens: dict[int, int] = field(default_factory=dict)
    last: ScaleDone | None = None
    preview: bytes | None = field(default=None, repr=False)
    images: list[ImageDone] = field(default_factory=list)
    interrupted: bool = False

    def watch(self, event: Event) -> None:
        """Take in what happened to the job."""
        if isinstance(event, ScaleDone):
            self.began = self.began or time.monotonic()
            self.tokens[event.image] = event.tokens_done
            self.last = event
        elif isinstance(event, Preview):
            self.preview = event.data
        elif isinstance(event, ImageDone):
            self.images.append(event)

    @property
    def progress(self) -> float:
        """Share of the tokens of all images that is finished."""
        if self.last is None:
            return 0.0
        return sum(self.tokens.values()) / (self.last.tokens_total * self.plan.job.request.num_images)


Jobs: TypeAlias = MutableMapping[str, OpenJob]
"""Open jobs by id, the oldest first."""


def add_routes(app: FastAPI, service: Service) -> None:
    """Add A1111's routes to an application. They are left out of its schema, which describes our own API."""
    jobs: Jobs = {}

    @app.post(f"{ROOT}/txt2img", include_in_schema=False)
    async def txt2img(request: Request) -> Any:
        return await draw(service, jobs, request)

    @app.post(f"{ROOT}/img2img", include_in_schema=False)
    async def img2img() -> Any:
        return images.unbuilt("Edits")

    @app.get(f"{ROOT}/options", include_in_schema=False)
    async def options() -> Any:
        return json_answer(_options(service.card))

    @app.post(f"{ROOT}/options", include_in_schema=False)
    async def set_options(request: Request) -> Any:
        values = await _read(service, request)
        _resolve(service, checkpoint_of(values))
        known = _options(service.card)  # clients send back what they got, and change nothing but the checkpoint
        return json_answer({"ignored": named(name for name in values if name not in known)})

    @app.get(f"{ROOT}/sd-models", include_in_schema=False)
    async def models() -> Any:
        return json_answer([_model(service.card)])

    @app.get(f"{ROOT}/loras", include_in_schema=False)
    async def loras() -> Any:
        names = service.card.adapters
        return json_answer([{"name": name, "alias": name, "path": name, "metadata": {}} for name in names])

    @app.get(f"{ROOT}/progress", include_in_schema=False)
    async def progress(request: Request) -> Any:
        without = request.query_params.get("skip_current_image", "").lower() in ("true", "1")
        return json_answer(_progress(_jobs_of(jobs, request), with_image=not without))

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
        if name not in _FIXED:
            raise ApiError(404, "There is no such route.", code="not_found")
        return json_answer(_FIXED[name])


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
    card = service.card
    translated = translate(values, card.defaults)
    name = _resolve(service, translated.request.model)
    state = request.scope["state"]
    plan = _with_previews(plan_images(translated.request, card, job_id=state["request_id"], answered_name=name))
    state["log"] = images.log_fields(plan)
    job = OpenJob(_owner(request), plan, service.submit(plan))
    jobs[plan.job.id] = job
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
        del jobs[plan.job.id]
    return json_answer(_answer(translated, job, card, finished))


async def _read(service: Service, request: Request) -> dict[str, Any]:
    settings = service.settings
    return await read_json(
        request.receive, request.headers, max_bytes=settings.max_body_bytes, timeout_seconds=settings.body_timeout
    )


def _resolve(service: Service, name: str | None) -> str:
    """Find the model that answers to the name of a checkpoint. Its digest is a name too, as A1111's hashes are."""
    card, settings = service.card, service.settings
    return resolve_name(name, served=card.name, aliases=(*settings.aliases, card.digest), any_model=settings.any_model)


def _with_previews(plan: Plan) -> Plan:
    previews = PreviewSettings(count=PREVIEWS)
    return replace(plan, job=plan.job.model_copy(update={"previews": previews}))


def _owner(request: Request) -> str:
    """Who sends a request: whoever has its key. Without keys, all are one."""
    return request.headers.get("authorization") or request.headers.get("api-key", "")


def _jobs_of(jobs: Jobs, request: Request) -> list[OpenJob]:
    owner = _owner(request)
    return [job for job in jobs.values() if job.owner == owner]


def _interrupt(service: Service, jobs: list[OpenJob]) -> None:
    """Stop the jobs that are being drawn, and the one that `progress` shows."""
    for index, job in enumerate(jobs):
        if index == 0 or job.ticket.is_started:
            job.interrupted = True
            service.engine.cancel(job.ticket.job.id)


def _options(card: ModelCard) -> dict[str, Any]:
    return {
        "sd_model_checkpoint": card.name,
        "sd_checkpoint_hash": _digits(card),
        "samples_format": "png",
        "show_progress_every_n_steps": 1,
        "live_previews_enable": True,
    }


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "title": card.name,
        "model_name": card.name,
        "hash": _digits(card)[:10],
        "sha256": None,
        "filename": card.name,
        "config": None,
    }


def _digits(card: ModelCard) -> str:
    return card.digest.rpartition("@")[2]


def _progress(jobs: list[OpenJob], *, with_image: bool) -> dict[str, Any]:
    """Describe the oldest open job, as A1111 describes the only one that it draws."""
    job = jobs[0] if jobs else None
    share = 0.0 if job is None else job.progress
    eta = 0.0
    if job is not None and job.began is not None and share > 0:
        eta = (time.monotonic() - job.began) * (1 - share) / share
    last = None if job is None else job.last
    state = {
        "skipped": False,
        "interrupted": job is not None and job.interrupted,
        "stopping_generation": False,
        "job": "" if job is None else "txt2img",
        "job_count": 0 if job is None else job.plan.job.request.num_images,
        "job_timestamp": "0" if job is None else _timestamp(job),
        "job_no": 0 if job is None else len(job.images),
        "sampling_step": 0 if last is None else last.scale + 1,
        "sampling_steps": 0 if job is None else len(job.plan.native_size.grids),
    }
    preview = None if job is None or not with_image else job.preview
    return {
        "progress": share,
        "eta_relative": eta,
        "state": state,
        "current_image": None if preview is None else base64.b64encode(preview).decode("ascii"),
        "textinfo": None,
    }


def _timestamp(job: OpenJob) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(job.created))


def _answer(translated: Translated, job: OpenJob, card: ModelCard, finished: Finished | None) -> dict[str, Any]:
    """Build the answer to txt2img.

    Args:
        translated: The request.
        job: Its job, which has ended.
        card: The model.
        finished: Last event of the job; None if it was interrupted.
    """
    done = sorted(job.images, key=lambda image: image.image)
    sent = done if translated.given.send_images else []
    return {
        "images": [base64.b64encode(image.data).decode("ascii") for image in sent],
        "parameters": translated.given.model_dump(mode="json"),
        "info": json.dumps(_info(translated, job, card, finished, [image.seed for image in done])),
    }


def _info(
    translated: Translated, job: OpenJob, card: ModelCard, finished: Finished | None, seeds: list[int]
) -> dict[str, Any]:
    """What A1111 calls the info of its images, with `bitvar` for what it has no name for.

    Args:
        translated: The request.
        job: Its job.
        card: The model.
        finished: Last event of the job; None if it was interrupted.
        seeds: Seed of each finished image.
    """
    plan, given = job.plan, translated.given
    first, count = (seeds or plan.seeds)[0], len(seeds)
    width, height = map(int, plan.size.split("x"))
    warnings = [*translated.warnings, *plan.warnings, *(() if finished is None else finished.warnings)]
    if job.interrupted:
        warnings.append(f"Interrupted after {count} of {plan.job.request.num_images} images.")
    return {
        "prompt": given.prompt,
        "all_prompts": [given.prompt] * count,
        "negative_prompt": given.negative_prompt,
        "all_negative_prompts": [given.negative_prompt] * count,
        "seed": first,
        "all_seeds": seeds,
        "subseed": first,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": SAMPLER,
        "cfg_scale": _guidance(plan, card),
        "steps": len(plan.native_size.grids),
        "batch_size": given.batch_size,
        "sd_model_name": card.name,
        "sd_model_hash": _digits(card)[:10],
        "index_of_first_image": 0,
        "infotexts": [_infotext(given.prompt, given.negative_prompt, seed, plan, card) for seed in seeds],
        "styles": [],
        "extra_generation_params": {},
        "job_timestamp": _timestamp(job),
        "version": f"bitvar {__version__}",
        "bitvar": {
            "request_id": plan.job.id,
            "model_digest": card.digest,
            "native_size": f"{plan.native_size.width}x{plan.native_size.height}",
            "ignored": list(translated.ignored),
            "warnings": warnings,
        },
    }


def _guidance(plan: Plan, card: ModelCard) -> float:
    """The strength of guidance; of a schedule the largest, since A1111 has one for all steps."""
    scale = plan.job.request.params.over(card.defaults).complete().guidance_scale
    assert scale is not None
    return scale if isinstance(scale, int | float) else max(scale)


def _infotext(prompt: str, negative: str, seed: int, plan: Plan, card: ModelCard) -> str:
    """The settings of an image as text, in the three parts that A1111's readers split."""
    settings = {
        "Steps": len(plan.native_size.grids),
        "Sampler": SAMPLER,
        "CFG scale": _guidance(plan, card),
        "Seed": seed,
        "Size": plan.size,
        "Model hash": _digits(card)[:10],
        "Model": card.name,
        "Version": f"bitvar {__version__}",
    }
    lines = [prompt, *([f"Negative prompt: {negative}"] if negative.strip() else [])]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])
