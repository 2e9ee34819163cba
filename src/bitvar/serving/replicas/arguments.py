"""Arguments of the applications in a Ray Serve config file, such as KubeRay's."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bitvar.config import Config
from bitvar.serving.engine.engine import EngineLimits
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.http.settings import ServerSettings
from bitvar.serving.replicas.settings import ReplicaSettings


class ModelArguments(Config):
    """Arguments of the application of the model.

    Attributes:
        worker: What each replica loads.
        replicas: How many there are, and what each reserves. Its `address` and `application` have no effect here.
    """

    worker: WorkerSettings = WorkerSettings()
    replicas: ReplicaSettings = ReplicaSettings()


class FrontArguments(Config):
    """Arguments of the application of the front.

    Attributes:
        application: Name of the application of the model.
        api_key_file: File of keys on the node of the front, one a line; requests must carry one of them.
        http: Settings of the HTTP side. `host` and `port` are Ray Serve's.
        limits: Bounds of the queue and of time.
        drain_seconds: Seconds that the front has to finish its requests when it is replaced.
        cpus: CPUs that the front reserves.
    """

    application: str = "model"
    api_key_file: Path | None = None
    http: ServerSettings = ServerSettings(host="0.0.0.0")
    limits: EngineLimits = EngineLimits()
    drain_seconds: float = Field(default=150.0, gt=0)
    cpus: Annotated[float, Field(ge=0)] = 0.5
