"""Experiment trackers that receive a run's metrics and images: TensorBoard, Weights & Biases and Trackio.

They are optional, as the loop always writes `metrics.jsonl` itself. Each tracker's package is imported only if that
tracker is requested. Errors of a tracker during a run are reported and never stop the run.
"""

import importlib
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from bitvar.config import read_json, unknown
from bitvar.errors import UsageError, install_hint
from bitvar.files import write_text

PROJECT: Final = "bitvar"
"""Project that runs are logged to, unless the service's own settings name another one."""

IDENTITIES: Final = "trackers.json"
"""File in the run's folder with the run's name at each service, so that a resumed run continues under the same name."""


@runtime_checkable
class Tracker(Protocol):
    """Receiver of a run's metrics and images. Only the main process of a run calls it."""

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Log the metrics after `step` steps, where `phase` is "train" or "validation"."""
        ...

    def log_image(self, step: int, path: Path) -> None:
        """Log the image file of a sample sheet."""
        ...

    def close(self) -> None:
        """Write everything that is still buffered and end the tracker. No other call may follow."""
        ...


def make_tracker(
    name: str,
    *,
    folder: Path,
    run_name: str,
    config: dict[str, Any],
    step: int = 0,
    log: Callable[[str], None],
) -> Tracker:
    """Start a tracker whose failures can't stop the run.

    Args:
        name: Name of the tracker, one of `TRACKERS`.
        folder: Folder of the run, where `trackers.json` keeps the run's name at each service.
        run_name: Display name of the run.
        config: Configuration of the run, shown beside the curves.
        step: Step that the run resumes from. Metrics of later steps are dropped where the service supports it.
        log: Receives a line of text at the first failure, and the number of failures at the end.

    Raises:
        UsageError: If the name is unknown, the package is missing, or the service is not set up.
    """
    if name not in TRACKERS:
        raise UsageError(unknown(f"tracker {name!r}", name, list(TRACKERS)))
    try:
        made = TRACKERS[name](folder, run_name, config, step)
    except UsageError:
        raise
    except Exception as error:  # no error of a service, such as a network failure, may stop the run
        log(f"WARNING: {name} can't start ({type(error).__name__}: {error}); the run continues without it")
        made = NoTracker()
    return GuardedTracker(made, name=name, log=log)


class GuardedTracker:
    """Wrapper of a tracker that catches its failures, and reports the first one and the total. Implements `Tracker`.

    Args:
        tracker: Tracker to wrap.
        name: Name of the tracker, for the reports.
        log: Receives a line of text.
    """

    def __init__(self, tracker: Tracker, *, name: str, log: Callable[[str], None]) -> None:
        self._tracker, self._name, self._log_line = tracker, name, log
        self._calls = self._failures = 0

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self._try(lambda: self._tracker.log(step, phase, values))

    def log_image(self, step: int, path: Path) -> None:
        self._try(lambda: self._tracker.log_image(step, path))

    def close(self) -> None:
        self._try(self._tracker.close)
        if self._failures:
            self._log_line(
                f"{self._name}: {self._failures} of {self._calls} calls failed; metrics.jsonl has everything"
            )

    def _try(self, call: Callable[[], None]) -> None:
        self._calls += 1
        try:
            call()
        except Exception as error:  # no error of a service may stop the run
            if not self._failures:
                self._log_line(f"WARNING: {self._name} failed ({type(error).__name__}: {error}); the run continues")
            self._failures += 1


class NoTracker:
    """Tracker that discards everything. Implements `Tracker`."""

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        pass

    def log_image(self, step: int, path: Path) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker:
    """Tracker that writes event files in `FOLDER/tensorboard`. Implements `Tracker`."""

    def __init__(self, folder: Path, run_name: str, config: dict[str, Any], step: int) -> None:
        module = _import("torch.utils.tensorboard", "tensorboard")
        # Hide events after the resumed step: the run repeats those steps.
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        lines = "\n".join(f"    {key}: {value}" for key, value in sorted(_flatten(config).items()))
        self._writer.add_text(run_name, lines, global_step=step)

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{phase}/{name}", value, global_step=step)
        self._writer.flush()

    def log_image(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image("samples", pixels, global_step=step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """Tracker that logs to Weights & Biases or, in its offline mode, to `FOLDER/wandb`. Implements `Tracker`.

    The step is logged as a metric and used as the axis of all others, because a resumed run may go back some steps, and
    W&B's own step can't.
    """

    def __init__(self, folder: Path, run_name: str, config: dict[str, Any], step: int) -> None:
        self._wandb = _import("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = self._wandb.init(
                project=self._wandb.setup().settings.project or PROJECT,
                id=_identity(folder, "wandb", secrets.token_hex(4)),
                name=run_name,
                config=config,
                dir=str(folder),
                resume="allow",
                reinit="create_new",
            )
        except self._wandb.errors.UsageError as error:
            raise UsageError(
                "Weights & Biases is not set up.", str(error), "log in, or set WANDB_MODE=offline"
            ) from None
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **{f"{phase}/{name}": value for name, value in values.items()}})

    def log_image(self, step: int, path: Path) -> None:
        self._run.log({"step": step, "samples": self._wandb.Image(str(path))})

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """Tracker that logs to Trackio, on this machine unless its own settings say otherwise. Implements `Tracker`."""

    def __init__(self, folder: Path, run_name: str, config: dict[str, Any], step: int) -> None:
        self._trackio = _import("trackio", "trackio")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = self._trackio.init(
            project=PROJECT,
            name=_identity(folder, "trackio", f"{run_name}-{secrets.token_hex(4)}"),
            config=_flatten(config),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self._run.log({f"{phase}/{name}": value for name, value in values.items()}, step=step)

    def log_image(self, step: int, path: Path) -> None:
        self._run.log({"samples": self._trackio.Image(path)}, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: Final[Mapping[str, Callable[[Path, str, dict[str, Any], int], Tracker]]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
}


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"The tracker {package!r} needs a package.", str(error), install_hint(package)) from None


def _identity(folder: Path, service: str, proposed: str) -> str:
    """Return the run's name at a service, stored in the run's folder; the first call stores `proposed`."""
    path = folder / IDENTITIES
    known = read_json(path) if path.exists() else {}
    if service not in known:
        known[service] = proposed
        write_text(path, json.dumps(known) + "\n")
    return known[service]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
