"""The OpenAPI document: every route of the API with each status it can answer and what the body then is.

It is written by hand, since the routes read and write bodies themselves; tests hold it to what they really answer. It
describes our own API: A1111's routes have their own description elsewhere.
"""

from typing import Any, Final

from bitvar import __version__
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.errors import ERROR_TYPES
from bitvar.serving.http.schema import form_schema, json_schema

Schema = dict[str, Any]

_STREAM: Final = (
    "Server-sent events, if stream is true: some image_generation.partial_image, then image_generation.completed, or "
    "one error."
)
_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def openapi_document(card: ModelCard | None = None) -> dict[str, Any]:
    """Build the document.

    Args:
        card: The model, whose adapters and scales narrow the request's schema; None before one is loaded.
    """
    description = "OpenAI's image API, with previews of real scales."
    return {
        "openapi": "3.1.0",
        "info": {"title": "bitvar", "version": __version__, "description": description},
        "paths": {**_image_paths(card), **_model_paths(), **_server_paths()},
        "components": {
            "schemas": {
                "Error": _error(),
                "ImagesRequest": json_schema(card),
                "EditRequest": form_schema("edit", card),
                "VariationRequest": form_schema("variation", card),
                "ImagesAnswer": _images_answer(),
                "ImagesEvent": _images_event(),
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _image_paths(card: ModelCard | None) -> dict[str, Any]:
    answer = {
        "application/json": {"schema": _reference("ImagesAnswer")},
        "text/event-stream": {"schema": _reference("ImagesEvent")},
    }
    generate = _operation(
        "Draw images",
        {"200": {"description": f"The images. {_STREAM}", "content": answer}},
        errors=(404, 408, 413, 429, 503, 504),
    )
    body = {"application/json": {"schema": _reference("ImagesRequest")}}
    generate["requestBody"] = {"required": True, "content": body}
    edit = _operation(
        "Change an image",
        {"200": {"description": f"The images. {_STREAM}".replace("generation", "edit"), "content": answer}},
        errors=(404, 408, 413, 429, 503, 504),
    )
    edit["requestBody"] = _form("EditRequest")
    vary = _operation(
        "Draw variations of an image",
        {"200": {"description": "The images.", "content": {"application/json": answer["application/json"]}}},
        errors=(404, 408, 413, 429, 503, 504),
    )
    vary["requestBody"] = _form("VariationRequest")
    formats = {f"image/{name}": {"schema": {}} for name in ("png", "webp", "jpeg")}
    cancelled = _exactly(
        {"id": _TEXT, "object": {"const": "request"}, "status": {"const": "cancelled"}},
    )
    return {
        "/v1/images/generations": {"post": generate},
        "/v1/images/edits": {"post": edit},
        "/v1/images/variations": {"post": vary},
        "/v1/images/{image_id}/content": {
            "get": _operation(
                "Read an image behind a URL",
                {"200": {"description": "The file.", "content": formats}},
                errors=(404,),
                parameter="image_id",
                needs_key=False,
            )
        },
        "/v1/requests/{request_id}": {
            "delete": _operation("Cancel a request", _json(cancelled), errors=(404,), parameter="request_id")
        },
    }


def _model_paths() -> dict[str, Any]:
    model = {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": _TEXT,
            "object": {"const": "model"},
            "created": _COUNT,
            "owned_by": _TEXT,
            "bitvar": {"type": "object", "description": "The model's card: sizes, scales, defaults, adapters."},
        },
        "additionalProperties": False,
    }
    models = _exactly({"object": {"const": "list"}, "data": {"type": "array", "items": model, "minItems": 1}})
    return {
        "/v1/models": {"get": _operation("List the model and its aliases", _json(models), errors=(503,))},
        "/v1/models/{name}": {
            "get": _operation("Describe a model", _json(model), errors=(404, 503), parameter="name"),
        },
    }


def _server_paths() -> dict[str, Any]:
    states = {"enum": ["loading", "ready", "restarting", "draining", "failed", "stopped"]}
    state = _json(_exactly({"status": {"const": "ready"}}))
    state |= _json(_exactly({"status": states}), status=503, description="The server can't draw now.")
    version = _exactly({"bitvar": _TEXT, "model": {"type": ["string", "null"]}})
    metrics = {"200": {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": _TEXT}}}}
    alive = _json(_exactly({"status": {"const": "alive"}}))
    return {
        "/livez": {"get": _operation("Tell that the process runs", alive, needs_key=False)},
        "/readyz": {"get": _operation("Tell whether it can draw", state, needs_key=False)},
        "/metrics": {"get": _operation("Read counts and times", metrics)},
        "/version": {"get": _operation("Name the version and the model", _json(version))},
        "/openapi.json": {"get": _operation("Read this document", _json({"type": "object"}))},
    }


def _operation(
    summary: str,
    responses: dict[str, Any],
    *,
    errors: tuple[int, ...] = (),
    parameter: str | None = None,
    needs_key: bool = True,
) -> dict[str, Any]:
    """Describe an operation. Any may also answer 400, 401, 403 and 500, before or instead of its route."""
    common = (400, 403, 500, *((401,) if needs_key else ()))
    error = {"description": "Error", "content": {"application/json": {"schema": _reference("Error")}}}
    every = {**{str(status): error for status in sorted({*common, *errors})}, **responses}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            status: {**every[status], "headers": {"x-request-id": {"required": True, "schema": _TEXT}}}
            for status in sorted(every)
        },
        "security": [{"key": []}, {}] if needs_key else [{}],
    }
    if parameter is not None:
        operation["parameters"] = [{"name": parameter, "in": "path", "required": True, "schema": _TEXT}]
    return operation


def _form(name: str) -> Schema:
    return {"required": True, "content": {"multipart/form-data": {"schema": _reference(name)}}}


def _json(schema: Schema, *, status: int = 200, description: str = "Success") -> dict[str, Any]:
    return {str(status): {"description": description, "content": {"application/json": {"schema": schema}}}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _exactly(properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object of these properties and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _error() -> Schema:
    text_or_null = {"type": ["string", "null"]}
    fields = {"message": _TEXT, "type": {"enum": list(ERROR_TYPES)}, "param": text_or_null, "code": text_or_null}
    return _exactly({"error": _exactly(fields)})


def _images_event() -> Schema:
    kinds = [f"image_{kind}.{what}" for kind in ("generation", "edit") for what in ("partial_image", "completed")]
    kinds.append("error")
    data = {"type": "string", "contentMediaType": "application/json"}
    return {**_exactly({"event": {"enum": kinds}, "data": data}), "description": "One event of a stream."}


def _images_answer() -> Schema:
    item = {
        "type": "object",
        "properties": {"b64_json": _TEXT, "url": _TEXT},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    details = _exactly({"text_tokens": _COUNT, "image_tokens": _COUNT})
    usage = _exactly(
        {
            "input_tokens": _COUNT,
            "input_tokens_details": details,
            "output_tokens": _COUNT,
            "output_tokens_details": details,
            "total_tokens": _COUNT,
        }
    )
    return _exactly(
        {
            "created": _COUNT,
            "data": {"type": "array", "items": item, "minItems": 1},
            "size": {"type": "string", "pattern": "^[0-9]+x[0-9]+$"},
            "quality": {"enum": ["low", "medium", "high"]},
            "background": {"enum": ["transparent", "opaque"]},
            "output_format": {"enum": ["png", "webp", "jpeg"]},
            "usage": usage,
            "safety_identifier": _TEXT,
            "bitvar": {"type": "object", "description": "Model, seeds, native size, warnings and timings."},
        },
        optional=("safety_identifier",),
    )
