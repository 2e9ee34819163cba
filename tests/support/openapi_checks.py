"""Hold answers of the server to its OpenAPI document."""

import json
from typing import Any, Final

import httpx

from tests.support.json_schemas import admits

MAX_ERROR: Final = 4096
"""Longest body of an error in bytes."""


def fault_of(document: dict[str, Any], method: str, path: str, answer: httpx.Response) -> str | None:
    """Say what an answer of a documented operation has that the document doesn't; None if nothing.

    Args:
        document: OpenAPI document.
        method: Method in lower case.
        path: Path as the document has it.
        answer: The answer.
    """
    responses = document["paths"][path][method]["responses"]
    if (described := responses.get(str(answer.status_code))) is None:
        return f"status {answer.status_code} is not documented"
    missing = [
        name for name, header in described["headers"].items() if header["required"] and name not in answer.headers
    ]
    if missing:
        return f"headers {missing} are missing"
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if media_type not in described["content"]:
        return f"media type {media_type} is not documented"
    if answer.status_code >= 400 and len(answer.content) > MAX_ERROR:
        return f"the error has {len(answer.content)} bytes"
    if media_type != "application/json":
        return None
    schema, schemas = described["content"][media_type]["schema"], document["components"]["schemas"]
    value = json.loads(answer.content, parse_constant=_refuse)
    return None if admits(schema, value, definitions=schemas) else f"{answer.text[:300]} is not of the schema"


def _refuse(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")
