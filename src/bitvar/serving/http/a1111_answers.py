"""What A1111's clients read: menus, progress, and the answer to a drawing request with its info.

A step is a scale, and there is one sampler. `info` and `infotexts` are A1111's; what it has no name for is in `bitvar`.
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bitvar import __version__
from bitvar.serving.engine.engine import Ticket
from bitvar.serving.engine.events import Event, Finished, ImageDone, Preview, ScaleDone
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.a1111_edits import ImageFields
from bitvar.serving.http.a1111_fields import Translated
from bitvar.serving.http.plan import Plan

SAMPLER: Final = "Next-scale"
"""Name of the one sampler."""

_NO_UPSCALER: Final = {"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4}
LISTS: Final[Mapping[str, Any]] = {
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
    """A request that is not answered yet.

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
        edit: What img2img says of its image; None for txt2img.
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
    edit: ImageFields | None = None

    @property
    def name(self) -> str:
        """What A1111 calls such a job."""
        return "txt2img" if self.edit is None else "img2img"

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


def options_object(card: ModelCard) -> dict[str, Any]:
    return {
        "sd_model_checkpoint": card.name,
        "sd_checkpoint_hash": _digits(card),
        "samples_format": "png",
        "show_progress_every_n_steps": 1,
        "live_previews_enable": True,
    }


def model_object(card: ModelCard) -> dict[str, Any]:
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


def progress_object(jobs: list[OpenJob], *, with_image: bool) -> dict[str, Any]:
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
        "job": "" if job is None else job.name,
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


def answer_object(translated: Translated, job: OpenJob, card: ModelCard, finished: Finished | None) -> dict[str, Any]:
    """Build the answer to txt2img and img2img.

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
        "parameters": {
            **translated.given.model_dump(mode="json"),
            **({} if job.edit is None else job.edit.parameters()),
        },
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
        "infotexts": [_infotext(translated, job, seed, card) for seed in seeds],
        "styles": [],
        **({} if job.edit is None else {"denoising_strength": job.edit.denoising_strength}),
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


def _infotext(translated: Translated, job: OpenJob, seed: int, card: ModelCard) -> str:
    """The settings of an image as text, in the three parts that A1111's readers split."""
    plan, prompt, negative = job.plan, translated.given.prompt, translated.given.negative_prompt
    settings = {
        "Steps": len(plan.native_size.grids),
        "Sampler": SAMPLER,
        "CFG scale": _guidance(plan, card),
        "Seed": seed,
        "Size": plan.size,
        "Model hash": _digits(card)[:10],
        "Model": card.name,
        **({} if job.edit is None else {"Denoising strength": job.edit.denoising_strength}),
        "Version": f"bitvar {__version__}",
    }
    lines = [prompt, *([f"Negative prompt: {negative}"] if negative.strip() else [])]
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])
