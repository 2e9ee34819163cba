"""Names of the served model: its own, aliases, and the objects of `/v1/models`."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.errors import ApiError, shown

OWNER: Final = "bitvar"


def resolve_name(name: str | None, *, served: str, aliases: Collection[str], any_model: bool) -> str:
    """Find the model that answers to a name.

    Args:
        name: Name that a client sent; None and empty text stand for the served model.
        served: Name of the served model.
        aliases: Other names that it answers to.
        any_model: Whether it answers to every name.

    Raises:
        ApiError: The name is unknown.
    """
    if not name or name == served or name in aliases or any_model:
        return served
    message = (
        f"There is no model {shown(name)}; this server serves {shown(served)}. "
        "To serve it under other names, start the server with --alias NAME, or with --any-model."
    )
    raise ApiError(404, message, param="model", code="model_not_found")


def model_object(name: str, card: ModelCard, *, served: str) -> dict[str, Any]:
    """Describe a name of the model as OpenAI's API does; the served name also has the model's card, under `bitvar`."""
    described: dict[str, Any] = {"id": name, "object": "model", "created": card.created, "owned_by": OWNER}
    if name == served:
        described["bitvar"] = card.model_dump(mode="json")
    return described


def model_list(card: ModelCard, *, served: str, aliases: Sequence[str]) -> dict[str, Any]:
    """List the served name and its aliases."""
    names = dict.fromkeys((served, *aliases))
    return {"object": "list", "data": [model_object(name, card, served=served) for name in names]}
