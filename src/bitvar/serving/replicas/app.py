"""The two applications of a Ray Serve config file, as KubeRay deploys them: the model's replicas, and the HTTP front.

They are apart so that a change of the model leaves the front, its queue and its connections as they are. Import paths:
`bitvar.serving.replicas.app:model` and `bitvar.serving.replicas.app:front`.
"""

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import ray
from pydantic import SecretStr
from ray import serve

from bitvar.serving.engine.engine import Engine
from bitvar.serving.http.app import create_app
from bitvar.serving.http.guard import App
from bitvar.serving.http.keys import read_keys
from bitvar.serving.http.sending import Receive, Send
from bitvar.serving.replicas.arguments import FrontArguments, ModelArguments
from bitvar.serving.replicas.cluster import model_application
from bitvar.serving.replicas.settings import ReplicaSettings
from bitvar.serving.replicas.start import ray_backend

_MANY: Final = 10_000
"""Requests that Ray Serve may send to the front at a time. The front answers at once those it refuses."""

_LOOK_SECONDS: Final = 0.1


@serve.ingress()
class Front:
    """The HTTP application with its engine, in a process of Ray Serve's. It is ready when the model is.

    Args:
        values: `FrontArguments` as JSON values.

    Raises:
        UsageError: The keys can't be read, or there are none.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        arguments = FrontArguments.model_validate(values)
        settings = arguments.http
        if arguments.api_key_file is not None:
            keys = tuple(SecretStr(key) for key in read_keys(arguments.api_key_file))
            settings = settings.model_copy(update={"api_keys": keys})
        settings.check()
        self._settings = settings
        self._engine = Engine(
            ray_backend(ReplicaSettings(application=arguments.application), None),
            arguments.limits,
        )

    def __serve_build_asgi_app__(self) -> Any:
        """Build the application; Ray Serve calls it after the constructor."""
        return WithEngine(create_app(self._engine, self._settings), self._engine)


class WithEngine:
    """ASGI middleware that starts an engine before the first request, and stops it after the last.

    Args:
        app: Application that draws with the engine.
        engine: The engine.
    """

    def __init__(self, app: App, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        await self._engine.start()
        while self._engine.state != "ready":
            if self._engine.failure is not None:
                await send({"type": "lifespan.startup.failed", "message": str(self._engine.failure)})
                return
            await asyncio.sleep(_LOOK_SECONDS)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._engine.stop()
        await send({"type": "lifespan.shutdown.complete"})


def model(args: dict[str, Any]) -> serve.Application:
    """Build the application of the model. `args` are `ModelArguments`."""
    arguments = ModelArguments.parse(args, source="the arguments of the model")
    has_cuda = ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
    return model_application(arguments.worker, arguments.replicas, has_cuda=has_cuda)


def front(args: dict[str, Any]) -> serve.Application:
    """Build the application of the front. `args` are `FrontArguments`."""
    arguments = FrontArguments.parse(args, source="the arguments of the front")
    decorate: Any = serve.deployment(
        name="front",
        num_replicas=1,  # it has the queue, the ids that cancel, and the images behind URLs
        max_ongoing_requests=_MANY,
        ray_actor_options={"num_cpus": arguments.cpus},
        graceful_shutdown_timeout_s=arguments.drain_seconds,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    return decorate(Front).bind(args)
