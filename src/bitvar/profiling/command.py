"""Time a whole command, with a quiet machine and beside another busy program, in turns. Knows no command."""

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bitvar.errors import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

_READY: Final = "ready"
_LOOP: Final = f"print('{_READY}', flush=True)\nwhile True:\n    pass\n"
_TORCH: Final = f"""
import torch
x = torch.randn(256, 384)
model = torch.nn.Sequential(*(layer for _ in range(6) for layer in (torch.nn.Linear(384, 384), torch.nn.GELU())))
model(x).square().mean().backward()
print('{_READY}', flush=True)
while True:
    model(x).square().mean().backward()
"""
NEIGHBOURS: Final = {"torch": _TORCH, "loop": _LOOP}
"""Programs that keep the machine busy: training steps on all processors, and one busy processor."""


@dataclass
class CommandTimes:
    """Wall-clock seconds of a whole command, from its start to its end.

    Attributes:
        quiet: Runs beside nothing that was started here.
        beside: Runs beside the neighbour; each followed the quiet run of the same index.
    """

    quiet: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float | list[float]]:
        """Return the medians in seconds, and the median of the pairs' ratios, each with its least and its most."""
        ratios = [b / q for q, b in zip(self.quiet, self.beside, strict=True)]
        summary: dict[str, float | list[float]] = {}
        for name, values in (("quiet_s", self.quiet), ("beside_s", self.beside), ("beside_over_quiet", ratios)):
            summary[name] = round(statistics.median(values), 3)
            summary[f"{name}_range"] = [round(min(values), 3), round(max(values), 3)]
        return summary


def measure_command(
    command: Sequence[str], neighbour: str, *, runs: int, environment: Mapping[str, str], theirs: Mapping[str, str]
) -> CommandTimes:
    """Time a command by itself and beside a neighbour in turns, after one run that is not counted.

    Args:
        command: Program and arguments.
        neighbour: Name in `NEIGHBOURS`.
        runs: Number of pairs of runs.
        environment: Environment of the command.
        theirs: Environment of the neighbour.

    Raises:
        RuntimeError: if the command fails.
    """
    times = CommandTimes()
    _seconds(command, environment)
    for _ in range(runs):
        times.quiet.append(_seconds(command, environment))
        with busy_neighbour(neighbour, theirs):
            times.beside.append(_seconds(command, environment))
    return times


@contextmanager
def busy_neighbour(name: str, environment: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """Keep the machine busy with one of `NEIGHBOURS` while the block runs.

    Raises:
        RuntimeError: if the neighbour doesn't start.
    """
    command = [sys.executable, "-c", NEIGHBOURS[name]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(environment)) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != _READY:
                raise RuntimeError(explain("The neighbour did not start.", f"it ended with {process.wait()}"))
            yield process
        finally:
            process.kill()


def _seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=dict(environment), check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(explain(f"The command ended with {done.returncode}.", last, "run it by itself"))
    return seconds
