"""Supervision of a training run: start its processes, watch them, and restart all of them when one fails or hangs.

A restarted run resumes from its last checkpoint. Every attempt uses a new rendezvous port, because processes that join
a rendezvous that others have left are known to hang. This module knows nothing of models: a process is a command, and
progress is a newer checkpoint.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bitvar.errors import explain
from bitvar.training.engine.retention import step_reached

FINAL: Final = frozenset({0, 2, 3, 130, 143})
"""Exit codes after which a restart is pointless: done, wrong usage, damaged weights, SIGINT, SIGTERM."""

HEARTBEAT: Final = "BITVAR_BEAT"
"""Environment variable with the path of the file that a process touches whenever it makes progress."""

_POLL_SECONDS = 0.1


class RunFailedError(RuntimeError):
    """A process failed, and restarts are disabled."""


class NoProgressError(RuntimeError):
    """Several attempts in a row failed without writing a newer checkpoint."""


@dataclass(frozen=True)
class Plan:
    """The processes to supervise, and when to restart them.

    Attributes:
        command: Command that every process runs.
        processes: Number of processes on this machine.
        folder: Folder of the run.
        environment: Environment of every process, to which its rank is added.
        hang_seconds: Seconds since the last progress after which a run counts as hung; not counted before the first.
        restart: Whether to restart the run after a failure.
        max_failures: Number of attempts in a row that may fail without writing a newer checkpoint.
        grace_seconds: Seconds that the processes get to save when they are asked to stop.
    """

    command: Sequence[str]
    processes: int
    folder: Path
    environment: Mapping[str, str]
    hang_seconds: float = 600.0
    restart: bool = True
    max_failures: int = 3
    grace_seconds: float = 120.0


@dataclass
class _Attempt:
    """The processes of one attempt, and the heartbeat file that they touch."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    heartbeat: Path = Path()

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while any(process.poll() is None for process in self.processes) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def supervise(plan: Plan, *, stop: Callable[[], bool], log: Callable[[str], None]) -> int:
    """Run the processes to completion, restarting all of them when one dies or none makes progress.

    Args:
        plan: Processes to run.
        stop: Polled continually. Once it returns true, the processes are asked to save and stop.
        log: Receives a line of text.

    Returns:
        Exit code of the run: 0, or another code after which a restart is pointless.

    Raises:
        NoProgressError: If too many attempts in a row failed without a newer checkpoint. It names the last cause.
        RunFailedError: At the first failure, if the plan disables restarts.
    """
    failures, reached = 0, step_reached(plan.folder)
    while True:
        attempt = _start(plan)
        try:
            code, cause = _watch(attempt, plan, stop)
        except KeyboardInterrupt:  # the processes got SIGINT too, and are saving
            attempt.wait(plan.grace_seconds)
            raise
        finally:
            attempt.kill()
            attempt.heartbeat.unlink(missing_ok=True)
        if code in FINAL:
            return code
        step = step_reached(plan.folder)
        if not plan.restart:
            todo = "repeat the command; --supervise does so automatically"
            raise RunFailedError(explain("The run failed.", cause, todo))
        failures = 0 if step > reached else failures + 1
        if failures >= plan.max_failures:
            where = f"step {step}" if step else "the first checkpoint"
            todo = "fix the cause and repeat the command: the last checkpoint is intact"
            raise NoProgressError(explain(f"{failures} attempts in a row did not get past {where}.", cause, todo))
        reached = max(step, reached)
        log(f"{cause}; starting again from {f'step {step}' if step else 'the beginning'}")


def _start(plan: Plan) -> _Attempt:
    plan.folder.mkdir(parents=True, exist_ok=True)
    attempt = _Attempt(heartbeat=plan.folder / f".heartbeat.{os.getpid()}")
    attempt.heartbeat.unlink(missing_ok=True)
    shared = {**plan.environment, HEARTBEAT: str(attempt.heartbeat)}
    if plan.processes > 1:
        shared |= {"WORLD_SIZE": str(plan.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for rank in range(plan.processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if plan.processes > 1 else {}
        attempt.processes.append(subprocess.Popen(list(plan.command), env={**shared, **own}))
    return attempt


def _watch(attempt: _Attempt, plan: Plan, stop: Callable[[], bool]) -> tuple[int, str]:
    """Wait for an attempt to end. Return its exit code and, if it failed, the cause."""
    asked_at: float | None = None
    while True:
        codes = [process.poll() for process in attempt.processes]
        ended = [(rank, code) for rank, code in enumerate(codes) if code is not None]
        failed = [(rank, code) for rank, code in ended if code not in (0, 143)]
        if asked_at is not None and len(ended) == len(codes):
            return 143 if any(code for _, code in ended) else 0, ""
        if failed and asked_at is None:
            rank, code = failed[0]
            return code, f"process {rank} {_describe(code)}"
        if len(ended) == len(codes):
            return max(code for _, code in ended), ""
        if asked_at is None and stop():
            asked_at = time.monotonic()
            for process in attempt.processes:
                process.send_signal(signal.SIGTERM)
        if asked_at is not None and time.monotonic() - asked_at > plan.grace_seconds:
            return 143, ""
        if _age(attempt.heartbeat) > plan.hang_seconds:
            return 1, f"no progress for {plan.hang_seconds:.0f} seconds"
        time.sleep(_POLL_SECONDS)


def _age(heartbeat: Path) -> float:
    """Return the seconds since the last heartbeat; 0 before the first."""
    try:
        return time.time() - heartbeat.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _describe(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def free_port() -> int:
    """Find a port of this machine that is free now."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]
