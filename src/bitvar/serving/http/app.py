"""The application: every route, in front of an engine. Handlers read bodies themselves, so that limits hold."""

import mimetypes
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException

from bitvar import __version__
from bitvar.serving.engine.engine import Engine
from bitvar.serving.http import images
from bitvar.serving.http.errors import ApiError, envelope
from bitvar.serving.http.guard import Guard, error_answer
from bitvar.serving.http.images import Service
from bitvar.serving.http.measures import HttpMeasures, write_metrics
from bitvar.serving.http.names import model_list, model_object, resolve_name
from bitvar.serving.http.results import ResultStore
from bitvar.serving.http.schema import json_schema
from bitvar.serving.http.sending import BytesAnswer, json_answer
from bitvar.serving.http.settings import ServerSettings

PAGE: Final = files("bitvar.serving") / "page"

_MEDIA_TYPES: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_HTTP_ERRORS: Final = {
    404: ("There is no such route.", "not_found"),
    405: ("This route has no such method.", "method_not_allowed"),
}
_ERROR_SCHEMA: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def create_app(engine: Engine, settings: ServerSettings) -> Guard:
    """Build the ASGI application.

    Args:
        engine: Where jobs are drawn. Whoever calls starts and stops it.
        settings: Names, keys and limits.
    """
    measures = HttpMeasures()
    results = ResultStore(seconds=settings.result_seconds, max_bytes=settings.result_bytes)
    service = Service(engine, settings, results, measures)
    app = FastAPI(title="bitvar", version=__version__, docs_url=None, redoc_url=None)
    _add_images(app, service)
    _add_models(app, service)
    _add_health(app, service)
    _add_page(app)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    return Guard(app, settings, measures)


def _add_images(app: FastAPI, service: Service) -> None:
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": json_schema()}}}}

    @app.post(
        "/v1/images/generations", openapi_extra=body, responses=_responses(400, 401, 404, 408, 413, 429, 503, 504)
    )
    async def generations(request: Request) -> Any:
        return await images.generate(service, request.scope, request.receive, request.headers)

    @app.post("/v1/images/edits", responses=_responses(501))
    async def edits() -> Any:
        return images.unbuilt("Edits")

    @app.post("/v1/images/variations", responses=_responses(501))
    async def variations() -> Any:
        return images.unbuilt("Variations")

    @app.get("/v1/images/{image_id}/content", responses=_responses(404))
    async def content(image_id: str) -> Any:
        return images.content(service, image_id)

    @app.delete("/v1/requests/{request_id}", responses=_responses(401, 404))
    async def cancel(request_id: str) -> Any:
        return images.cancel(service, request_id)


def _add_models(app: FastAPI, service: Service) -> None:
    settings = service.settings

    @app.get("/v1/models", responses=_responses(401, 503))
    async def models() -> Any:
        card = service.card
        return json_answer(model_list(card, served=card.name, aliases=settings.aliases))

    @app.get("/v1/models/{name:path}", responses=_responses(401, 404, 503))
    async def model(name: str) -> Any:
        card = service.card
        resolve_name(name, served=card.name, aliases=settings.aliases, any_model=settings.any_model)
        return json_answer(model_object(name, card, served=card.name))


def _add_health(app: FastAPI, service: Service) -> None:
    engine = service.engine

    @app.get("/livez")
    async def livez() -> Any:
        return json_answer({"status": "alive"})

    @app.get("/readyz", responses={503: {"description": "The server can't draw now."}})
    async def readyz() -> Any:
        state = engine.state
        return json_answer({"status": state}, status=200 if state == "ready" else 503)

    @app.get("/metrics", responses=_responses(401))
    async def metrics() -> Any:
        text, media_type = write_metrics(service.measures, engine, service.results)
        return BytesAnswer(text, media_type)

    @app.get("/version", responses=_responses(401))
    async def version() -> Any:
        card = engine.card
        return json_answer({"bitvar": __version__, "model": None if card is None else card.digest})


def _add_page(app: FastAPI) -> None:
    assets = {
        entry.name: (entry.read_bytes(), _media_type(entry.name))
        for entry in PAGE.iterdir()
        if entry.is_file() and not entry.name.endswith(".py")
    }

    @app.get("/", include_in_schema=False)
    async def index() -> Any:
        return _asset("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> Any:
        return _asset(name)

    def _asset(name: str) -> Any:
        if name not in assets:  # a name is a key, never a path
            raise ApiError(404, "There is no such file.", code="not_found")
        data, media_type = assets[name]
        return BytesAnswer(data, media_type, headers={"cache-control": "no-cache"})


def _media_type(name: str) -> str:
    suffix = name[name.rfind(".") :]
    return _MEDIA_TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": _ERROR_SCHEMA}}
    return {status: {"description": "Error", "content": content} for status in statuses}


async def _answer_api_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, ApiError)
    return error_answer(error)


async def _answer_http_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, HTTPException)
    texts = {
        404: ("There is no such route.", "not_found"),
        405: ("This route has no such method.", "method_not_allowed"),
    }
    message, code = texts.get(error.status_code, ("The request can't be served.", "invalid_request"))
    known = ApiError(error.status_code, message, code=code, headers=error.headers)
    return json_answer(envelope(known), status=known.status, headers=known.headers)
