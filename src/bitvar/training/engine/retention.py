"""Checkpoint retention: list a run's checkpoints, find the best one, and delete the rest.

Checkpoints are recognized by their names. Only a folder that also has a manifest is ever deleted.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from bitvar.errors import WeightsError
from bitvar.files import write_text
from bitvar.weights.digests import MANIFEST, read_object

BEST: Final = "best.json"
"""File in the run's folder that names the best checkpoint. For users only: it is derived from the checkpoints."""


class Validated(NamedTuple):
    """The validation metric that ranks checkpoints: a loss (lower is better) or a PSNR (higher is better)."""

    name: str
    value: float

    @classmethod
    def of(cls, values: Mapping[str, float]) -> "Validated | None":
        """Pick the ranking metric from the metrics of a validation; None if there is none, or it is not finite."""
        for name in ("loss", "psnr"):
            if name in values:
                return cls(name, values[name]) if math.isfinite(values[name]) else None
        return None

    def better_than(self, other: "Validated | None") -> bool:
        """Whether this metric beats `other`. Any metric beats None; metrics with different names can't be compared."""
        if other is None:
            return True
        lower, higher = (self, other) if self.name == "loss" else (other, self)
        return self.name == other.name and lower.value < higher.value


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint of a step."""
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """List a folder's checkpoints by step, complete or not. Other folders, such as `step-4.backup`, are ignored."""
    numbered = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    found = [path for path in numbered if path.name == checkpoint_name(_step_in_name(path)) and path.is_dir()]
    return sorted(found, key=_step_in_name)


def _step_in_name(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def is_ours(checkpoint: Path) -> bool:
    """Whether a checkpoint may be deleted: it has a manifest, so a run wrote it, and it is no symbolic link."""
    return (checkpoint / MANIFEST).is_file() and not checkpoint.is_symlink()


def prune(folder: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one, and write the name of that one to `best.json`."""
    known = [checkpoint for checkpoint in list_checkpoints(folder) if is_ours(checkpoint)]
    best = best_checkpoint(folder)
    for old in known[:-keep]:
        if old != best:
            shutil.rmtree(old)
    if best is not None and (figure := validated_at(best)) is not None:
        write_text(folder.parent / BEST, json.dumps({"checkpoint": best.name, **figure._asdict()}) + "\n")


def best_checkpoint(folder: Path, *, until: int | None = None) -> Path | None:
    """Find the checkpoint with the best validation metric, the latest if tied; None if no checkpoint has a metric.

    Args:
        folder: Folder of the checkpoints.
        until: Last step to consider; None for all steps.
    """
    best: tuple[Path, Validated] | None = None
    for checkpoint in list_checkpoints(folder):
        figure = validated_at(checkpoint) if until is None or _step_in_name(checkpoint) <= until else None
        if figure is not None and (best is None or not best[1].better_than(figure)):
            best = checkpoint, figure
    return None if best is None else best[0]


def validated_at(checkpoint: Path) -> Validated | None:
    """Read the validation metric of a checkpoint; None if it has none, or can't be read."""
    try:
        found = read_state(checkpoint).get("validation")
    except WeightsError:
        return None
    if not isinstance(found, dict) or set(found) != {"name", "value"} or found["name"] not in ("loss", "psnr"):
        return None
    return Validated(**found) if isinstance(found["value"], float | int) else None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's `state.json`."""
    return read_object(checkpoint / "state.json")


def step_reached(run: Path) -> int:
    """Return the step of a run's newest checkpoint, complete or not; 0 if there is none."""
    known = list_checkpoints(run / "checkpoints")
    return _step_in_name(known[-1]) if known else 0
