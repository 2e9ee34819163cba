"""Metrics of a run, stored as JSON lines in `metrics.jsonl`: the writer and the readers."""

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
    """Read the JSON objects of a file that holds one per line.

    Foreign lines are skipped, and so are the partial lines and zero bytes that a crash can leave.

    Args:
        path: File to read; a missing file has no lines.
        accept: Returns whether an object belongs in the file.
        log: Receives a line of text if lines were skipped.

    Returns:
        Accepted objects, in the order of the lines.
    """
    rows: list[dict[str, Any]] = []
    strange: list[str] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line:
            break
        row = _object_of(line) if number < len(lines) else None  # a last line without a newline is incomplete
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
    """Whether an object is a valid line of `metrics.jsonl`: a step, a phase, and metrics."""
    step, phase = row.get("step"), row.get("phase")
    figures = [value for name, value in row.items() if name not in ("step", "phase")]
    return (
        type(step) is int and 0 <= step < _MOST and phase in ("train", "validation") and all(map(_is_figure, figures))
    )


def _is_figure(value: object) -> bool:
    """Whether a value is a finite number, or None, which stands for a number that was not finite."""
    return value is None or (type(value) in (int, float) and abs(value) < _MOST)  # pyright: ignore[reportArgumentType]


class MetricsFile:
    """Writer of `metrics.jsonl`, which appends one JSON line per call.

    Opening the file drops the lines after the resumed step, because the run repeats those steps, and invalid lines.

    Args:
        path: File to write.
        step: Step that the run resumes from.
        log: Receives a line of text if invalid lines were dropped.
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
    """Read the series of a run's `metrics.jsonl`, by phase and name, in the order of the steps.

    Args:
        run: Folder of the run.
        log: Receives a line of text if lines were skipped.

    Raises:
        UsageError: If the folder has no metrics.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        todo = "give the --out folder of `bitvar train`"
        raise UsageError(f"{run} is not a run.", "it has no metrics.jsonl", todo)
    metrics: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in read_json_lines(path, accept=is_metrics_row, log=log):
        step, phase = row.pop("step"), metrics.setdefault(row.pop("phase"), {})
        for name, value in row.items():
            if value is not None:  # None stands for a number that was not finite
                phase.setdefault(name, []).append((step, value))
    if not metrics:
        raise UsageError(f"{run} has no figures yet.", "metrics.jsonl is empty", "wait for the first steps")
    return metrics


def from_one(name: str) -> str:
    """Return a metric's name with its scale counted from 1: `loss/scale_0` in the file becomes `loss/scale 1`."""
    head, separator, number = name.rpartition("scale_")
    return f"{head}scale {int(number) + 1}" if separator and number.isdecimal() else name
