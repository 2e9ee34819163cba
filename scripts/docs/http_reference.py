"""Write the reference of the HTTP API from the OpenAPI document that the server answers."""

from collections.abc import Mapping
from typing import Any, Final

from bitvar.serving.http.openapi import openapi_document

INTRODUCTION: Final = """# HTTP API

`bitvar serve` answers this description at `/openapi.json`, narrowed to the model that it serves.
[Serving](../serving.md) explains the fields, the errors and who may ask, and [clients](../clients.md) names programs
that were tried.
"""
SCHEMAS: Final = {"ImagesRequest": "A generation", "EditRequest": "An edit", "VariationRequest": "A variation"}


def page() -> str:
    """Return the reference as one page of Markdown."""
    document = openapi_document()
    lines = [INTRODUCTION, "## Routes", "", "| route | what it does | answers |", "|---|---|---|"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = ", ".join(operation["responses"])
            lines.append(f"| `{method.upper()} {path}` | {operation['summary']} | {statuses} |")
    schemas = document["components"]["schemas"]
    for name, title in SCHEMAS.items():
        lines += ["", f"## {title}", "", "| field | type | meaning |", "|---|---|---|"]
        required = schemas[name].get("required", ())
        for field, schema in schemas[name]["properties"].items():
            star = ", required" if field in required else ""
            lines.append(f"| `{field}` | {_kind(schema)}{star} | {_cell(schema.get('description', ''))} |")
    return "\n".join([*lines, ""])


def _kind(schema: Mapping[str, Any]) -> str:
    """Describe the type of a field in a few words, with its bounds."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        return " or ".join(dict.fromkeys(_kind(kind) for kind in kinds))
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        kind = " or ".join(kind)
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return str(kind)
    return f"{kind}, {low if high is None else high if low is None else f'{low} to {high}'}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
