"""Validate values against the JSON schemas that the server publishes, with the keywords that they use."""

import re
from collections.abc import Mapping
from typing import Any


def admits(schema: Mapping[str, Any], value: Any, *, definitions: Mapping[str, Any] | None = None) -> bool:
    """Whether a schema admits a value.

    Args:
        schema: The schema; a reference in it must name one of `definitions`.
        value: Any value that JSON can write.
        definitions: Schemas by name.
    """
    known = definitions or {}
    if "$ref" in schema:
        return admits(known[schema["$ref"].rpartition("/")[2]], value, definitions=known)
    unknown = set(schema) - set(_KEYWORDS) - {"description"}
    assert not unknown, f"the test knows no keyword {unknown}"
    return all(_KEYWORDS[word](rule, value, schema, known) for word, rule in schema.items() if word != "description")


def is_of_type(kind: str | list[str], value: Any) -> bool:
    """Whether a value has a type of JSON schema, or one of several."""
    if isinstance(kind, list):
        return any(is_of_type(one, value) for one in kind)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and float(value).is_integer()
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return {"number": number, "integer": whole}.get(kind, isinstance(value, types.get(kind, ())))


def _equal(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _every(rule: Mapping[str, Any], value: Any, _: Any, known: Mapping[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    return all(admits(rule[name], value[name], definitions=known) for name in rule if name in value)


_KEYWORDS: dict[str, Any] = {
    "type": lambda rule, value, _, __: is_of_type(rule, value),
    "enum": lambda rule, value, _, __: any(_equal(one, value) for one in rule),
    "const": lambda rule, value, _, __: _equal(rule, value),
    "anyOf": lambda rule, value, _, known: any(admits(one, value, definitions=known) for one in rule),
    "allOf": lambda rule, value, _, known: all(admits(one, value, definitions=known) for one in rule),
    "not": lambda rule, value, _, known: not admits(rule, value, definitions=known),
    "required": lambda rule, value, _, __: not isinstance(value, dict) or set(rule) <= set(value),
    "properties": _every,
    "additionalProperties": lambda rule, value, schema, _: (
        not isinstance(value, dict) or rule is not False or set(value) <= set(schema["properties"])
    ),
    "minProperties": lambda rule, value, _, __: not isinstance(value, dict) or len(value) >= rule,
    "maxProperties": lambda rule, value, _, __: not isinstance(value, dict) or len(value) <= rule,
    "items": lambda rule, value, _, known: (
        not isinstance(value, list) or all(admits(rule, entry, definitions=known) for entry in value)
    ),
    "minItems": lambda rule, value, _, __: not isinstance(value, list) or len(value) >= rule,
    "maxItems": lambda rule, value, _, __: not isinstance(value, list) or len(value) <= rule,
    "minLength": lambda rule, value, _, __: not isinstance(value, str) or len(value) >= rule,
    "maxLength": lambda rule, value, _, __: not isinstance(value, str) or len(value) <= rule,
    "pattern": lambda rule, value, _, __: not isinstance(value, str) or re.search(rule, value) is not None,
    "minimum": lambda rule, value, _, __: not is_of_type("number", value) or value >= rule,
    "multipleOf": lambda rule, value, _, __: not is_of_type("number", value) or value % rule == 0,
    "maximum": lambda rule, value, _, __: not is_of_type("number", value) or value <= rule,
}
