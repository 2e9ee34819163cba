"""Answers: the JSON object of finished images, and the events of a stream.

`data` items carry exactly one of `b64_json` and `url`, since some clients prefer a URL that they then can't fetch. A
stream has no other event types than OpenAI's: clients take an unknown one for an image.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

from bitvar.serving.engine.events import Finished, ImageDone, Preview, Usage
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.errors import ApiError, envelope
from bitvar.serving.http.plan import Plan


def images_answer(
    plan: Plan,
    images: Sequence[ImageDone],
    finished: Finished,
    *,
    card: ModelCard,
    created: int,
    urls: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Build the answer to a request without a stream.

    Args:
        plan: Plan of the request.
        images: Finished images, in order.
        finished: Last event of the job.
        card: The model.
        created: Present time in seconds since 1970.
        urls: URL of each image, if the request asked for URLs.
    """
    if plan.response_format == "url":
        assert urls is not None and len(urls) == len(images), "the route stores the images first"
        data = [{"url": url} for url in urls]
    else:
        data = [{"b64_json": _base64(image.data)} for image in images]
    return {
        "created": created,
        "data": data,
        **_echo(plan, size=_size(images[0])),
        "usage": usage_object(finished.usage),
        **_identifier(plan),
        "bitvar": _details(plan, finished, card, images),
    }


def partial_event(plan: Plan, preview: Preview, *, created: int) -> bytes:
    """Build the event of a preview. `size` is that of the finished image, and `output_format` that of the preview."""
    done = preview.done
    return _event(
        f"image_{plan.kind}.partial_image",
        {
            "b64_json": _base64(preview.data),
            "partial_image_index": preview.index,
            "created_at": created,
            **_echo(plan, size=plan.size),
            "output_format": preview.format,
            "bitvar": {
                "scale": done.scale,
                "scales": done.scales,
                "grid": list(done.grid),
                "tokens_done": done.tokens_done,
                "tokens_total": done.tokens_total,
                "seed": plan.seeds[done.image],
            },
        },
    )


def completed_event(plan: Plan, image: ImageDone, finished: Finished, *, card: ModelCard, created: int) -> bytes:
    """Build the last event of a stream that succeeds."""
    return _event(
        f"image_{plan.kind}.completed",
        {
            "b64_json": _base64(image.data),
            "created_at": created,
            **_echo(plan, size=_size(image)),
            "usage": usage_object(finished.usage),
            **_identifier(plan),
            "bitvar": _details(plan, finished, card, [image]),
        },
    )


def error_event(error: ApiError) -> bytes:
    """Build the last event of a stream that fails. Clients raise it only in this form."""
    return f"event: error\ndata: {json.dumps(envelope(error))}\n\n".encode("ascii")


def comment(text: str) -> bytes:
    """Build a comment line, which clients ignore: it keeps the connection alive and says where a job is."""
    return f": {' '.join(text.split())}\n\n".encode("ascii", "backslashreplace")


def usage_object(usage: Usage) -> dict[str, Any]:
    """Write token counts as OpenAI's API does, with the details of both directions."""
    return {
        "input_tokens": usage.text_tokens + usage.source_tokens,
        "input_tokens_details": {"text_tokens": usage.text_tokens, "image_tokens": usage.source_tokens},
        "output_tokens": usage.image_tokens,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": usage.image_tokens},
        "total_tokens": usage.text_tokens + usage.source_tokens + usage.image_tokens,
    }


def _echo(plan: Plan, *, size: str) -> dict[str, Any]:
    return {
        "size": size,
        "quality": plan.quality,
        "background": plan.background,
        "output_format": plan.output_format,
    }


def _identifier(plan: Plan) -> dict[str, str]:
    return {} if plan.safety_identifier is None else {"safety_identifier": plan.safety_identifier}


def _details(plan: Plan, finished: Finished, card: ModelCard, images: Sequence[ImageDone]) -> dict[str, Any]:
    """What only this server says: enough to draw the images again, and how long they took."""
    edit = images[0].record.get("edit")
    return {
        "model": plan.model,
        "model_digest": card.digest,
        "seeds": [image.seed for image in images],
        **({} if edit is None else {"edit": edit}),
        "native_size": f"{plan.native_size.width}x{plan.native_size.height}",
        "warnings": [*plan.warnings, *finished.warnings],
        "timings": {
            "queued_seconds": round(finished.queued_seconds, 3),
            "drawing_seconds": round(finished.drawing_seconds, 3),
        },
    }


def _size(image: ImageDone) -> str:
    return f"{image.width}x{image.height}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _event(kind: str, values: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **values})}\n\n".encode("ascii")
