"""Ray: connects to a cluster or starts one, deploys the model with Ray Serve, and streams jobs through its handle."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import uuid4

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from bitvar.errors import UsageError
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.replicas.interface import DeploymentStatus, Description, ReplicaFaultError, ReplicaLostError
from bitvar.serving.replicas.replica import Replica, read_load_failure
from bitvar.serving.replicas.settings import ReplicaSettings

_LOG: Final = logging.getLogger(__name__)

DEPLOYMENT: Final = "model"
"""Name of the deployment that holds the model, in whichever application."""

_NAMESPACE: Final = "serve"
"""Namespace in which Ray Serve names its actors."""

_ONGOING: Final = 4
_LOAD_TRIES: Final = 2
_HEALTH_SECONDS: Final = 5.0
_DESCRIBE_SECONDS: Final = 10.0


def model_application(
    worker: WorkerSettings, replicas: ReplicaSettings, *, has_cuda: bool, version: str | None = None
) -> serve.Application:
    """Describe the deployment of a model.

    Args:
        worker: What each replica loads.
        replicas: How many there are, and what each reserves.
        has_cuda: Whether the cluster has GPUs, which matters where the settings leave the device open.
        version: Name of this deploying; None makes one up.
    """
    uses_cuda = worker.device.startswith("cuda") or (worker.device == "auto" and has_cuda)
    gpus = replicas.gpus if replicas.gpus is not None else float(uses_cuda)
    decorate: Any = serve.deployment(
        name=DEPLOYMENT,
        max_ongoing_requests=most_ongoing(worker, replicas),
        ray_actor_options={"num_cpus": reserved_cpus(worker, replicas), "num_gpus": gpus},
        health_check_period_s=_HEALTH_SECONDS,
        graceful_shutdown_timeout_s=replicas.drain_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=_LOAD_TRIES,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        **_scale(replicas),
    )
    version = version or uuid4().hex
    return decorate(Replica).bind(worker.model_dump(mode="json"), version, stall_seconds=replicas.stall_seconds)


def reserved_cpus(worker: WorkerSettings, replicas: ReplicaSettings) -> float:
    """Number of CPUs that a replica reserves."""
    return replicas.cpus if replicas.cpus is not None else float(worker.threads or 1)


def most_ongoing(worker: WorkerSettings, replicas: ReplicaSettings) -> int:
    """Most jobs that a replica draws at a time."""
    if replicas.max_ongoing is not None:
        return replicas.max_ongoing
    return _ONGOING if worker.batch_invariant else max(_ONGOING, worker.max_batch)


def _scale(replicas: ReplicaSettings) -> dict[str, Any]:
    if replicas.max_replicas is None:
        return {"num_replicas": replicas.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": replicas.replicas,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": replicas.target_ongoing,
            "upscale_delay_s": replicas.upscale_seconds,
            "downscale_delay_s": replicas.downscale_seconds,
        }
    }


class RayDraw:
    """A job that Ray Serve sends to a replica.

    Args:
        response: What the handle returned for a streaming call.
    """

    def __init__(self, response: Any) -> None:
        self._response = response

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield packed frames.

        Raises:
            ReplicaLostError: The replica died, or the deployment has none.
            ReplicaFaultError: The replica raised an error that it should have reported as an event.
        """
        try:
            async for data in self._response:
                yield data
        except RayTaskError as error:
            raise ReplicaFaultError(str(error)) from error
        except (RayError, RayServeException) as error:
            raise ReplicaLostError(f"{type(error).__name__}: {_first_line(error)}") from error

    def cancel(self) -> None:
        """Stop drawing at the next scale boundary. After the end it has no effect."""
        self._response.cancel()


class RayCluster:
    """A cluster with a deployment of the model.

    Making one connects to the cluster, or starts it, and deploys the model.

    Args:
        replicas: How many replicas, and where.
        worker: Model to deploy; None joins a deployment that something else is responsible for.

    Raises:
        UsageError: The cluster can't be reached, or has no room for the replicas.
    """

    def __init__(self, replicas: ReplicaSettings, worker: WorkerSettings | None) -> None:
        self._replicas = replicas
        self._handle: Any = None
        self._version: str | None = None
        self._was_settled = False
        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.ERROR)  # they write lines of their own among ours
        self._is_connected = not ray.is_initialized()
        if self._is_connected:
            self._connect()
        try:
            if worker is not None:
                self._deploy(worker)
        except UsageError:
            self.close()
            raise

    @property
    def version(self) -> str | None:
        """What this deploying is called; None if it deployed nothing."""
        return self._version

    def _deploy(self, worker: WorkerSettings) -> None:
        resources = ray.cluster_resources()
        if self._replicas.address is None:
            self._check_room(worker, resources)
        serve.start(proxy_location="Disabled")  # the front process has the only port
        version = uuid4().hex
        has_cuda = resources.get("GPU", 0) > 0
        target = model_application(worker, self._replicas, has_cuda=has_cuda, version=version)
        name = self._replicas.application
        serve.run_many(
            [serve.RunTarget(target, name=name, route_prefix=None)],
            wait_for_ingress_deployment_creation=True,
            wait_for_applications_running=False,
        )
        self._version = version

    def status(self) -> DeploymentStatus:
        """Ask Ray Serve how the deployment stands.

        Raises:
            ReplicaLostError: Ray Serve doesn't answer.
        """
        try:
            found = serve.status().applications.get(self._replicas.application)
        except (RayError, RayServeException) as error:
            raise ReplicaLostError(_first_line(error)) from error
        model = None if found is None else found.deployments.get(DEPLOYMENT)
        if found is None or model is None:
            return DeploymentStatus(is_settled=False)
        failure = read_load_failure(model.message)
        if failure is None and found.status == "DEPLOY_FAILED":
            why = _last_line(model.message or found.message)
            failure = UsageError("The replicas could not be started.", why, "see the logs of Ray Serve")
        states = {str(getattr(state, "value", state)): count for state, count in model.replica_states.items()}
        running = states.get("RUNNING", 0)
        settled = found.status == "RUNNING" and running > 0
        self._was_settled = self._was_settled or settled
        return DeploymentStatus(settled, failure, running, _last_line(model.message))

    async def describe(self) -> Description:
        """Ask a replica, whichever, what it draws with.

        Raises:
            ReplicaLostError: No replica answers.
        """
        try:
            return _read_description(await self._open_handle().describe.remote())
        except (RayError, RayServeException) as error:
            raise ReplicaLostError(_first_line(error)) from error

    def draw(self, text: str) -> RayDraw:
        """Send a job, as JSON, to the next replica that has room."""
        return RayDraw(self._open_handle().options(stream=True).draw.remote(text))

    def kill(self, replica: str) -> None:
        """Kill a replica, which Ray Serve then replaces."""
        try:
            ray.kill(ray.get_actor(replica, namespace=_NAMESPACE))
        except ValueError:
            _LOG.info("replica %s is gone already", replica)

    def close(self) -> None:
        """Disconnect. It takes down what it deployed unless someone else has deployed over it since."""
        if self._version is not None and (self._owns_cluster or self._is_latest()):
            serve.delete(self._replicas.application)
            self._version = None
        if self._is_connected:
            ray.shutdown()  # ends a cluster that was started here

    @property
    def _owns_cluster(self) -> bool:
        """Whether the cluster was started here, so that it ends with this process."""
        return self._is_connected and self._replicas.address is None

    def _is_latest(self) -> bool:
        """Whether nobody has deployed, or is deploying, over what was deployed here."""
        try:
            if not self.status().is_settled:
                return not self._was_settled  # ours is still loading; else another model is
            text = self._open_handle().describe.remote().result(timeout_s=_DESCRIBE_SECONDS)
        except (RayError, RayServeException, ReplicaLostError, TimeoutError) as error:
            _LOG.warning("the application %s is left on the cluster: %s", self._replicas.application, error)
            return False
        return _read_description(text).version == self._version

    def _open_handle(self) -> Any:
        if self._handle is None:
            self._handle = serve.get_deployment_handle(DEPLOYMENT, self._replicas.application)
        return self._handle

    def _connect(self) -> None:
        address = self._replicas.address
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "bitvar"}
        try:
            if address is None:
                memory = self._replicas.object_store_bytes
                ray.init("local", include_dashboard=False, object_store_memory=memory, **quiet)
            else:
                ray.init(address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            what = "Can't start Ray." if address is None else f"Can't join the Ray cluster {address}."
            fix = None if address is None else "give the address that `ray start --head` printed, on a node of it"
            raise UsageError(what, _first_line(error), fix) from error

    def _check_room(self, worker: WorkerSettings, resources: Mapping[str, float]) -> None:
        """Refuse replicas that would wait for ever, as no node can come to a cluster of one machine."""
        cpus, there = reserved_cpus(worker, self._replicas), resources.get("CPU", 0.0)
        wanted = self._replicas.replicas
        if wanted * cpus > there:
            why = f"each reserves {cpus:g} CPUs, and this machine has {there:g}"
            raise UsageError(f"Can't place {wanted} replicas.", why, "ask for fewer, or give --replica-cpus 0.5")


def _read_description(text: str) -> Description:
    values = json.loads(text)
    return Description(values["version"], ModelCard.model_validate(values["card"]))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip()[:500] if lines else ""
