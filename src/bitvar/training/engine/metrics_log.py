"""The figures of a run: JSON lines, written as it goes and read by whoever looks at it."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bitvar.errors import UsageError
from bitvar.files import write_text

Log = Callable[[str], None]

_MOST = 10.0**300


def read_json_lines(
    path: Path, *, accept: Callable[[dict[str, Any]], bool], log: Log = lambda line: None
) -> list[dict[str, Any]]:
    """The JSON objects of a file, a line each. The one reader of what a run writes line by line.

    A crash can leave half a line or zero bytes, and somebody may add lines of their own: such lines are passed over.

    Args:
        path: File to read; a missing file has no lines.
        accept: whether an object is of the kind that the file holds.
        log: receives a line of text when something was passed over.
    """
    rows: list[dict[str, Any]] = []
    strange: list[str] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line:
            break
        row = _object_of(line) if number < len(lines) else None  # the last line is not whole without its end
        if row is not None and accept(row):
            rows.append(row)
        else:
            strange.append(f"line {number} ({_describe(line, is_cut=number == len(lines))})")
    if strange:
        more = f" and {len(strange) - 3:,} more" if len(strange) > 3 else ""
        log(f"{path}: passed over {', '.join(strange[:3])}{more}")
    return rows


def _object_of(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _describe(line: bytes, *, is_cut: bool) -> str:
    if is_cut:
        return "cut short, or being written"
    return "zero bytes" if b"\0" in line else "not one of this file's"


def is_metrics_row(row: Mapping[str, Any]) -> bool:
    """Whether an object is a line of `metrics.jsonl`: a step, a phase, and figures."""
    step, phase = row.get("step"), row.get("phase")
    figures = [value for name, value in row.items() if name not in ("step", "phase")]
    return (
        type(step) is int and 0 <= step < _MOST and phase in ("train", "validation") and all(map(_is_figure, figures))
    )


def _is_figure(value: object) -> bool:
    """A finite number, or None for one that was not."""
    return value is None or (type(value) in (int, float) and abs(value) < _MOST)  # pyright: ignore[reportArgumentType]


class MetricsFile:
    """JSON lines, one a log interval. Lines past the resumed step are dropped: those steps will be made again.

    So are lines that are not the run's own, which is told.
    """

    def __init__(self, path: Path, step: int, *, log: Log = lambda line: None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = read_json_lines(path, accept=is_metrics_row, log=log)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

    def write(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            known = {name: value if math.isfinite(value) else None for name, value in values.items()}
            file.write(json.dumps({"step": step, "phase": phase, "time": time.time(), **known}) + "\n")


def read_metrics(run: Path, *, log: Log = lambda line: None) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The series of a run's `metrics.jsonl`, by phase and name, in the order of the steps.

    Args:
        run: folder of the run.
        log: receives a line of text when lines were passed over.

    Raises:
        UsageError: when the folder holds no metrics.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        todo = "give the --out of `bitvar train`"
        raise UsageError(f"{run} is no run.", "it has no metrics.jsonl", todo)
    metrics: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in read_json_lines(path, accept=is_metrics_row, log=log):
        step, phase = row.pop("step"), metrics.setdefault(row.pop("phase"), {})
        for name, value in row.items():
            if value is not None:  # was no finite number
                phase.setdefault(name, []).append((step, value))
    if not metrics:
        raise UsageError(f"{run} has no figures yet.", "metrics.jsonl is empty", "wait for the first steps")
    return metrics


def from_one(name: str) -> str:
    """The name of a figure as people read it: `loss/scale_0` in the file is that of scale 1."""
    head, separator, number = name.rpartition("scale_")
    return f"{head}scale {int(number) + 1}" if separator and number.isdecimal() else name
