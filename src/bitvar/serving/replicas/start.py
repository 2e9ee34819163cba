"""Makes the backend of `bitvar serve --replicas`, without loading Ray before the server listens."""

import importlib.util

from bitvar.errors import UsageError, install_hint
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.replicas.backend import RayBackend
from bitvar.serving.replicas.interface import Cluster
from bitvar.serving.replicas.settings import ReplicaSettings


def ray_backend(replicas: ReplicaSettings, worker: WorkerSettings | None) -> RayBackend:
    """Make the backend that draws on replicas.

    Args:
        replicas: How many there are, and where.
        worker: Model to deploy; None joins a deployment that something else is responsible for.

    Raises:
        UsageError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("Can't serve with replicas.", "ray is not installed", install_hint("ray"))

    def open_cluster() -> Cluster:
        from bitvar.serving.replicas.cluster import RayCluster

        return RayCluster(replicas, worker)

    return RayBackend(open_cluster)
