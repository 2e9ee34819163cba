"""Settings of the replicas: how many, what each may use, and where they run."""

from typing import Annotated

from pydantic import Field, model_validator

from bitvar.config import Config


class ReplicaSettings(Config):
    """How a model is replicated.

    Attributes:
        replicas: Number of replicas; the least number where there is a `max_replicas`.
        max_replicas: Most replicas. Ray Serve adds and removes some with the number of open jobs. None fixes it.
        target_ongoing: Open jobs a replica that autoscaling aims at.
        upscale_seconds, downscale_seconds: How long the load must ask for more or fewer replicas until it gets them.
        max_ongoing: Most jobs that a replica draws at a time; further ones wait in front of the replicas. None is four,
            or the worker's `max_batch` where images share passes.
        cpus: CPUs that each replica reserves; None reserves as many as the worker has threads, or one.
        gpus: GPUs that each replica reserves, fractions included; None reserves one where the model computes on CUDA.
        address: Address of a running cluster, or "auto" for the one on this machine; None starts one that ends with
            the server.
        application: Name of the Ray Serve application. Deploying under the name again replaces its replicas.
        object_store_bytes: Shared memory in bytes of a cluster that is started here.
        stall_seconds: Seconds without any progress after which a replica that has jobs is replaced; longer than any
            scale.
        drain_seconds: Seconds that a replica has to finish its jobs before it is replaced or removed.
    """

    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    target_ongoing: float = Field(default=2.0, gt=0)
    upscale_seconds: float = Field(default=10.0, ge=0)
    downscale_seconds: float = Field(default=300.0, ge=0)
    max_ongoing: Annotated[int, Field(ge=1, le=256)] | None = None
    cpus: float | None = Field(default=None, ge=0)
    gpus: float | None = Field(default=None, ge=0)
    address: str | None = None
    application: str = Field(default="bitvar", pattern=r"^[A-Za-z0-9_-]{1,80}$")
    object_store_bytes: int = Field(default=256 << 20, ge=80 << 20)
    stall_seconds: float = Field(default=60.0, gt=0)
    drain_seconds: float = Field(default=120.0, gt=0)

    @model_validator(mode="after")
    def _check_bounds(self) -> "ReplicaSettings":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"at most {self.max_replicas} replicas are fewer than {self.replicas}")
        return self
