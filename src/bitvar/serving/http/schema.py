"""The JSON schema of a request: what it admits, the parser and the planner admit too, as far as a schema can say it.

A schema can't say that a side is a multiple of 16, that two sides make a ratio, which size has how many scales, or that
no adapter is named twice; for these, a valid body may still be refused with status 400.
"""

from typing import Any, Final

from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.fields import DESCRIPTIONS, MAX_N, ImagesRequest
from bitvar.serving.http.plan import USUAL_PREVIEWS

_NOT_GIVEN: Final[dict[str, Any]] = {"type": "null"}


def json_schema(card: ModelCard | None = None) -> dict[str, Any]:
    """Build the schema of a generation request, self-contained, for OpenAPI 3.1.

    Args:
        card: The model, whose adapters and scales narrow the schema; None before one is loaded.
    """
    schema = _plain(ImagesRequest.model_json_schema(ref_template="{model}"))
    definitions = schema.pop("$defs")
    schema = _inlined(schema, definitions)
    schema["description"] = "A request for images. null in place of a value means that it is not given."
    for name, values in schema["properties"].items():
        values["description"] = DESCRIPTIONS[name]
    if card is not None:
        _narrow(schema["properties"], card)
    schema["allOf"] = [*_rules(), *(() if card is None else [_negative_prompt_rule(card)])]
    return schema


def _given(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A schema of bodies that give a field such a value."""
    return {"required": [name], "properties": {name: values}}


def _absent(*names: str) -> dict[str, Any]:
    """A schema of bodies that leave fields out, or null."""
    return {"properties": dict.fromkeys(names, _NOT_GIVEN)}


def _either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(schemas)}


def _rules() -> list[dict[str, Any]]:
    """Which fields go together, whatever the model."""
    present = {"not": _NOT_GIVEN}
    return [
        _either(
            {
                "required": ["stream"],
                "properties": {
                    "stream": {"const": True},
                    "n": {"enum": [1, None]},
                    "response_format": {"enum": ["b64_json", None]},
                },
            },
            {"properties": {"stream": {"enum": [False, None]}, "partial_images": _NOT_GIVEN}},
        ),
        _either(
            _absent("width", "height"),
            {
                "required": ["width", "height"],
                "properties": {"width": present, "height": present, "size": {"enum": ["auto", None]}},
            },
        ),
        _either(_absent("guidance_scale"), _absent("guidance_schedule")),
        _either(
            {"properties": {"output_compression": {"enum": [100, None]}}},
            _given("output_format", {"enum": ["webp", "jpeg"]}),
        ),
        _either(
            {"properties": {"background": {"enum": ["opaque", "auto", None]}}},
            {"properties": {"output_format": {"enum": ["png", "webp", None]}}},
        ),
        _either({"properties": {"seed": {"type": ["integer", "null"]}}}, *map(_seeds_rule, range(1, MAX_N + 1))),
    ]


def _seeds_rule(n: int) -> dict[str, Any]:
    """Bodies with a list of n seeds and n images."""
    seeds = {"type": "array", "minItems": n, "maxItems": n}
    if n == 1:
        return {"properties": {"seed": seeds, "n": {"enum": [1, None]}}}
    return {"required": ["n"], "properties": {"seed": seeds, "n": {"const": n}}}


def _negative_prompt_rule(card: ModelCard) -> dict[str, Any]:
    """Bodies without a negative prompt, or with guidance."""
    blank = {"properties": {"negative_prompt": {"anyOf": [_NOT_GIVEN, {"type": "string", "not": {"pattern": r"\S"}}]}}}
    guided = {"anyOf": [{"type": "number", "not": {"const": 1}}, {"type": "array", "not": {"items": {"const": 1}}}]}
    if card.defaults.guided:
        either = {"anyOf": [_NOT_GIVEN, *guided["anyOf"]]}
        return _either(blank, {"properties": {"guidance_scale": either, "guidance_schedule": either}})
    return _either(blank, _given("guidance_scale", guided), _given("guidance_schedule", guided))


def _narrow(properties: dict[str, Any], card: ModelCard) -> None:
    """Restrict fields to what the model has."""
    scales = [len(size.grids) for size in card.sizes]
    for name in ("guidance_scale", "guidance_schedule", "temperature"):
        for option in properties[name]["anyOf"]:
            if option.get("type") == "array":
                option.update(minItems=min(scales), maxItems=max(scales))
    for option in properties["partial_images"]["anyOf"]:
        if option.get("type") == "integer":
            option["maximum"] = max(USUAL_PREVIEWS, max(scales) - 1)
    if not card.alpha:
        properties["background"]["anyOf"][0]["enum"] = ["opaque", "auto"]
    if not card.adapters:  # an object would need a name, and there is none
        properties["lora"]["anyOf"] = [{"type": "array", "maxItems": 0}, _NOT_GIVEN]
        return
    one, several, _ = properties["lora"]["anyOf"]
    several["maxItems"] = min(several["maxItems"], len(card.adapters))
    for choice in (one, several["items"]):
        choice["properties"]["name"] = {"enum": list(card.adapters)}


def _plain(schema: Any) -> Any:
    """The schema without the titles and defaults that repeat names and null."""
    if isinstance(schema, list):
        return [_plain(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        properties = {name: _plain(values) for name, values in schema["properties"].items()}
        schema = {**schema, "properties": properties}
        rest = {key: _plain(values) for key, values in schema.items() if key not in ("properties", "title")}
        return {**rest, "properties": properties}
    return {key: _plain(values) for key, values in schema.items() if key not in ("title", "default")}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """The schema with definitions in place of references, each a copy of its own."""
    if isinstance(schema, list):
        return [_inlined(entry, definitions) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"]], definitions)
    return {key: _inlined(values, definitions) for key, values in schema.items()}
