"""The application: every route, in front of an engine. Handlers read bodies themselves, so that limits hold."""

import mimetypes
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException

from bitvar import __version__
from bitvar.serving.engine.engine import Engine
from bitvar.serving.http import a1111, edits, images
from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.guard import Guard, error_answer
from bitvar.serving.http.images import Service
from bitvar.serving.http.metrics import HttpMetrics, write_metrics
from bitvar.serving.http.names import model_list, model_object, resolve_name
from bitvar.serving.http.openapi import openapi_document
from bitvar.serving.http.results import ResultStore
from bitvar.serving.http.sending import BytesAnswer, json_answer
from bitvar.serving.http.settings import ServerSettings
from bitvar.serving.http.uploads import Uploads

PAGE: Final = files("bitvar.serving") / "page"

_MEDIA_TYPES: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_HTTP_ERRORS: Final = {
    404: ("There is no such route.", "not_found"),
    405: ("This route has no such method.", "method_not_allowed"),
}


def create_app(engine: Engine, settings: ServerSettings) -> Guard:
    """Build the ASGI application.

    Args:
        engine: Where jobs are drawn. Whoever calls starts and stops it.
        settings: Names, keys and limits.
    """
    metrics = HttpMetrics()
    results = ResultStore(seconds=settings.result_seconds, max_bytes=settings.result_bytes)
    service = Service(engine, settings, results, metrics, Uploads(settings.upload_memory))
    app = FastAPI(openapi_url=None, redirect_slashes=False)  # a redirect would be built from the Host header
    _add_images(app, service)
    _add_models(app, service)
    a1111.add_routes(app, service)
    _add_health(app, service)
    _add_page(app)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    return Guard(app, settings, metrics)


def _add_images(app: FastAPI, service: Service) -> None:
    @app.post("/v1/images/generations")
    async def generations(request: Request) -> Any:
        return await images.generate(service, request.scope, request.receive, request.headers)

    @app.post("/v1/images/edits")
    async def edit(request: Request) -> Any:
        return await edits.edit(service, request.scope, request.receive, request.headers, kind="edit")

    @app.post("/v1/images/variations")
    async def vary(request: Request) -> Any:
        return await edits.edit(service, request.scope, request.receive, request.headers, kind="variation")

    @app.get("/v1/images/{image_id}/content")
    async def content(image_id: str) -> Any:
        return images.content(service, image_id)

    @app.delete("/v1/requests/{request_id}")
    async def cancel(request_id: str) -> Any:
        return images.cancel(service, request_id)


def _add_models(app: FastAPI, service: Service) -> None:
    settings = service.settings

    @app.get("/v1/models")
    async def models() -> Any:
        card = service.card
        return json_answer(model_list(card, served=card.name, aliases=settings.aliases))

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        card = service.card
        resolve_name(name, served=card.name, aliases=settings.aliases, any_model=settings.any_model)
        return json_answer(model_object(name, card, served=card.name))


def _add_health(app: FastAPI, service: Service) -> None:
    engine = service.engine

    @app.get("/livez")
    async def livez() -> Any:
        return json_answer({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Any:
        state = engine.state
        return json_answer({"status": state}, status=200 if state == "ready" else 503)

    @app.get("/metrics")
    async def prometheus() -> Any:
        text, media_type = write_metrics(service.metrics, engine, service.results, service.uploads)
        return BytesAnswer(text, media_type)

    @app.get("/version")
    async def version() -> Any:
        card = engine.card
        return json_answer({"bitvar": __version__, "model": None if card is None else card.digest})

    @app.get("/openapi.json")
    async def document() -> Any:
        return json_answer(openapi_document(engine.card))


def _add_page(app: FastAPI) -> None:
    assets = {
        entry.name: (entry.read_bytes(), _media_type(entry.name))
        for entry in PAGE.iterdir()
        if entry.is_file() and not entry.name.endswith(".py")
    }

    @app.get("/")
    async def index() -> Any:
        return _asset("index.html")

    @app.get("/page/{name}")
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


async def _answer_api_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, ApiError)
    return error_answer(error, request.scope["path"])


async def _answer_http_error(request: Request, error: Exception) -> Any:
    assert isinstance(error, HTTPException)
    message, code = _HTTP_ERRORS.get(error.status_code, ("The request can't be served.", "invalid_request"))
    known = ApiError(error.status_code, message, code=code, headers=error.headers)
    return error_answer(known, request.scope["path"])
