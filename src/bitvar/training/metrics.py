"""The figures of a run: JSON lines, written as it goes and read by whoever looks at it."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from bitvar.errors import UsageError, explain
from bitvar.files import write_text


class MetricsFile:
    """JSON lines, one a log interval. Lines past the resumed step are dropped: those steps will be made again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
        write_text(path, "".join(kept))

    def write(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            known = {name: value if math.isfinite(value) else None for name, value in values.items()}
            file.write(json.dumps({"step": step, "phase": phase, "time": time.time(), **known}) + "\n")


def read_metrics(run: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The series of a run's `metrics.jsonl`, by phase and name. A last line that is still being written is left out.

    Raises:
        UsageError: when the folder holds no metrics.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        todo = "give the --out of `bitvar train`"
        raise UsageError(explain(f"{run} is no run.", "it has no metrics.jsonl", todo))
    metrics: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            row = json.loads(line)
            step, phase = row.pop("step"), metrics.setdefault(row.pop("phase"), {})
            for name, value in row.items():
                if value is not None:  # was no finite number
                    phase.setdefault(name, []).append((step, value))
    if not metrics:
        raise UsageError(explain(f"{run} has no figures yet.", "metrics.jsonl is empty", "wait for the first steps"))
    return metrics
