"""What the backend needs of a cluster: its state, and draws on its replicas.

`cluster` implements it with Ray, and tests without.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bitvar.serving.engine.model_card import ModelCard


class ReplicaLostError(Exception):
    """A replica died, can't be reached, or there is none."""


class ReplicaFaultError(Exception):
    """A replica lives and failed a call by a fault of ours."""


@dataclass(frozen=True)
class DeploymentStatus:
    """How a deployment stands.

    Attributes:
        is_settled: Whether every replica has the model that was deployed last, and at least one runs.
        failure: Why that model can't run; None while it may.
        num_running: Number of replicas that run.
        message: What Ray says about it; empty if nothing.
    """

    is_settled: bool
    failure: Exception | None = None
    num_running: int = 0
    message: str = ""


@dataclass(frozen=True)
class Description:
    """What a replica draws with.

    Attributes:
        version: Which deploying it comes from.
        card: The model.
    """

    version: str
    card: ModelCard


@runtime_checkable
class Draw(Protocol):
    """A job that is being drawn somewhere."""

    def frames(self) -> AsyncIterator[bytes]:
        """Yield packed frames.

        Raises:
            ReplicaLostError: The job must be drawn elsewhere.
            ReplicaFaultError: It would fail elsewhere too.
        """
        ...

    def cancel(self) -> None:
        """Stop drawing at the next scale boundary. After the end it has no effect."""
        ...


@runtime_checkable
class Cluster(Protocol):
    """Where replicas of one deployment run."""

    @property
    def version(self) -> str | None:
        """What this cluster's deploying is called; None if it deployed nothing."""
        ...

    def status(self) -> DeploymentStatus:
        """Ask how the deployment stands. It blocks."""
        ...

    async def describe(self) -> Description:
        """Ask a replica, whichever, what it draws with."""
        ...

    def draw(self, text: str) -> Draw:
        """Send a job, as JSON, to the next replica that has room."""
        ...

    def kill(self, replica: str) -> None:
        """Kill a replica, which the cluster then replaces. It blocks."""
        ...

    def close(self) -> None:
        """Disconnect, and end what was started for it. It blocks."""
        ...
