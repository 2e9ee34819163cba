"""Routes of edits and variations: a form with an image becomes a job, answered as a generation is."""

from collections.abc import Mapping
from typing import Any

from bitvar.serving.http import images
from bitvar.serving.http.body import ClientLeft
from bitvar.serving.http.edit_fields import Kind, parse_edit
from bitvar.serving.http.edit_input import read_input
from bitvar.serving.http.images import Service
from bitvar.serving.http.multipart import FormLimits, read_form
from bitvar.serving.http.names import resolve_name
from bitvar.serving.http.plan import plan_images
from bitvar.serving.http.sending import Receive, json_answer
from bitvar.serving.http.uploads import HeldBytes, HoldingAnswer


async def edit(
    service: Service, scope: Mapping[str, Any], receive: Receive, headers: Mapping[str, str], *, kind: Kind
) -> Any:
    """Answer `POST /v1/images/edits` and `POST /v1/images/variations`.

    Args:
        service: Engine and limits.
        scope: ASGI scope of the request.
        receive: The connection's ASGI callable.
        headers: Headers by name in lower case.
        kind: Which of the two.

    Raises:
        ApiError: The request is wrong, or was refused.
    """
    held = service.uploads.hold()
    try:
        answer = await _edit(service, scope, receive, headers, kind=kind, held=held)
    except BaseException:
        held.release()
        raise
    return HoldingAnswer(answer, held)


async def _edit(
    service: Service,
    scope: Mapping[str, Any],
    receive: Receive,
    headers: Mapping[str, str],
    *,
    kind: Kind,
    held: HeldBytes,
) -> Any:
    settings, state = service.settings, scope["state"]
    limits = FormLimits(settings.max_upload_bytes, settings.max_file_bytes, settings.upload_timeout)
    try:
        entries = await read_form(receive, headers, limits=limits, hold=held.add)
    except ClientLeft:
        return json_answer({}, status=499)
    request = parse_edit(entries, kind)
    del entries
    card = service.card
    name = resolve_name(
        request.common.get("model"), served=card.name, aliases=settings.aliases, any_model=settings.any_model
    )
    source = await service.uploads.decode(
        lambda: read_input(request.image, request.mask, request.fields, prompt=request.prompt)
    )
    asked = request.images_request(source.prompt)
    plan = plan_images(asked, card, job_id=state["request_id"], answered_name=name, source=source)
    state["log"] = images.log_fields(plan)
    ticket = service.submit(plan)
    service.metrics.edits[kind] += 1
    return await images.answer(service, plan, ticket, scope, receive, headers)
