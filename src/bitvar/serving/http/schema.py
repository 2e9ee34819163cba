"""The JSON schemas of requests. What it admits, the parser and the planner admit too, as far as a schema can say it.

A schema can't say that two sides make a ratio, how many scales a size has, or that no adapter is named twice; and it
would be too large for tools if it said that a list of seeds has n entries, that a negative prompt needs a schedule
other than ones, or that JPEG has no transparency. For these, a body that it admits may get status 400.
"""

from typing import Any, Final

from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.edit_fields import EDIT_DESCRIPTIONS, EditFields, Kind, names_of
from bitvar.serving.http.fields import DESCRIPTIONS, MAX_PROMPT, ImagesRequest
from bitvar.serving.http.plan import USUAL_PREVIEWS
from bitvar.serving.http.sizes import MULTIPLE

_NOT_GIVEN: Final[dict[str, Any]] = {"type": "null"}
_GUIDANCE: Final = ("guidance_scale", "guidance_schedule")


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
    schema["allOf"] = _rules(card)
    return schema


def form_schema(kind: Kind, card: ModelCard | None = None) -> dict[str, Any]:
    """Build the schema of the form of an edit or a variation, self-contained, for OpenAPI 3.1.

    It gives the fields and their values, and leaves out which of them go together.

    Args:
        kind: Which of the two.
        card: The model, whose adapters and scales narrow the schema; None before one is loaded.
    """
    shared = json_schema(card)["properties"]
    own = _inlined(_plain(EditFields.model_json_schema()), {})["properties"]
    for name, values in own.items():
        values["description"] = EDIT_DESCRIPTIONS[name]
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    files = {
        "image": {**file, "description": "The image, a PNG, WebP or JPEG file; also as image[]."},
        "mask": {**file, "description": "An image of its size, transparent where it may change."},
    }
    everything = {**files, **shared, **own}
    properties = {name: _without_null(everything[name]) for name in names_of(kind)}
    if "prompt" in properties:
        properties["prompt"] = {
            "type": "string", "maxLength": MAX_PROMPT,
            "description": "Text to draw; without one, that of the image's own settings, or none.",
        }  # fmt: skip
    return {"type": "object", "required": ["image"], "properties": properties, "additionalProperties": False}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A field's schema without null, which a form can't say."""
    options = [option for option in schema.get("anyOf", ()) if option != _NOT_GIVEN]
    if not options:
        return schema
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**options[0], **rest} if len(options) == 1 else {"anyOf": options, **rest}


def _given(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A schema of bodies that give a field such a value."""
    return {"required": [name], "properties": {name: values}}


def _absent(*names: str) -> dict[str, Any]:
    """A schema of bodies that leave fields out, or null."""
    return {"properties": dict.fromkeys(names, _NOT_GIVEN)}


def _either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(schemas)}


def _rules(card: ModelCard | None) -> list[dict[str, Any]]:
    """Which fields go together. The rules have few branches, since tools that generate bodies multiply them out."""
    present = {"not": _NOT_GIVEN}
    stream = {
        "required": ["stream"],
        "properties": {
            "stream": {"const": True},
            "n": {"enum": [1, None]},
            "response_format": {"enum": ["b64_json", None]},
        },
    }
    no_stream = {"properties": {"stream": {"enum": [False, None]}, "partial_images": _NOT_GIVEN}}
    sides = {
        "required": ["width", "height"],
        "properties": {"width": present, "height": present, "size": {"enum": ["auto", None]}},
    }
    png = {"properties": {"output_format": {"enum": ["png", None]}, "output_compression": {"enum": [100, None]}}}
    return [
        _either(stream, no_stream),
        _either(_absent("width", "height"), sides),
        _either(*_guidance_branches(card)),
        _either(png, _given("output_format", {"enum": ["webp", "jpeg"]})),
    ]


def _guidance_branches(card: ModelCard | None) -> list[dict[str, Any]]:
    """Guidance is given once, and a negative prompt needs guidance."""
    no_scale, no_schedule = ({name: _NOT_GIVEN} for name in _GUIDANCE)
    if card is None:  # whether guidance is on by default isn't known
        return [{"properties": no_scale}, {"properties": no_schedule}]
    blank = {"anyOf": [_NOT_GIVEN, {"type": "string", "not": {"pattern": r"\S"}}]}
    guided = [{"type": "number", "not": {"const": 1}}, {"type": "array", "not": {"items": {"const": 1}}}]
    if card.defaults.guided:
        scale = {"properties": {**no_schedule, "guidance_scale": {"anyOf": [_NOT_GIVEN, *guided]}}}
    else:
        scale = {"required": ["guidance_scale"], "properties": {**no_schedule, "guidance_scale": {"anyOf": guided}}}
    schedule = {"required": ["guidance_schedule"], "properties": {**no_scale, "guidance_schedule": {"type": "array"}}}
    return [{"properties": {**no_schedule, "negative_prompt": blank}}, scale, schedule]


def _narrow(properties: dict[str, Any], card: ModelCard) -> None:
    """Restrict fields to what the model has."""
    scales = [len(size.grids) for size in card.sizes]
    if not any(side % MULTIPLE for size in card.sizes for side in (size.width, size.height)):
        for name in ("width", "height"):
            properties[name]["anyOf"][0].update(minimum=MULTIPLE, multipleOf=MULTIPLE)
    for name in (*_GUIDANCE, "temperature"):
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
