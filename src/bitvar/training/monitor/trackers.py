"""Other places that a run's figures and images go to: TensorBoard, Weights & Biases, Trackio.

The loop always writes `metrics.jsonl` itself; these come on top, each from a package of its own that is imported only
when it is asked for. Whatever goes wrong in one while a run goes on is reported, and never stops the run.
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
"""Where runs are gathered, unless the service's own settings name another project."""

IDENTITIES: Final = "trackers.json"
"""In the run's folder: the name by which each service knows the run, so that a resumed run goes on in the same one."""


@runtime_checkable
class Tracker(Protocol):
    """What the loop tells of a run. Called by one process of a run only."""

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Figures after `step` steps; `phase` is "train" or "validation"."""
        ...

    def log_image(self, step: int, path: Path) -> None:
        """A sample sheet, as an image file."""
        ...

    def close(self) -> None:
        """Write what is left. Nothing may follow."""
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
    """A tracker that can't stop the run.

    Args:
        name: one of `TRACKERS`.
        folder: the run's own; `trackers.json` in it keeps the run's name at each service.
        run_name: what people see.
        config: the configuration, shown beside the curves.
        step: the step that the run goes on from; what was told of later ones is dropped where the service can do that.
        log: receives a line when the tracker fails, and at the end how often it did.

    Raises:
        UsageError: for a name that isn't one, a package that isn't there, or a service that isn't set up.
    """
    if name not in TRACKERS:
        raise UsageError(unknown(f"tracker {name!r}", name, list(TRACKERS)))
    try:
        made = TRACKERS[name](folder, run_name, config, step)
    except UsageError:
        raise
    except Exception as error:  # the service can't be reached, say: whatever it is, the run goes on
        log(f"WARNING: {name} can't begin ({type(error).__name__}: {error}); the run goes on without it")
        made = NoTracker()
    return GuardedTracker(made, name=name, log=log)


class GuardedTracker:
    """A tracker whose failures are counted and told, once and at the end, and stop nothing. Implements `Tracker`."""

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
        except Exception as error:  # whatever a service does, the run goes on
            if not self._failures:
                self._log_line(f"WARNING: {self._name} failed ({type(error).__name__}: {error}); the run goes on")
            self._failures += 1


class NoTracker:
    """Tells nobody. Implements `Tracker`."""

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        pass

    def log_image(self, step: int, path: Path) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardTracker:
    """Event files in `FOLDER/tensorboard`. Implements `Tracker`."""

    def __init__(self, folder: Path, run_name: str, config: dict[str, Any], step: int) -> None:
        module = _import("torch.utils.tensorboard", "tensorboard")
        # Events after the step that the run goes on from are hidden: those steps are made again.
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
    """A run at Weights & Biases, or, with its offline mode, in `FOLDER/wandb`. Implements `Tracker`.

    The step is a figure of its own, and the axis of all others: W&B's own step can't go back, a resumed run's does.
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
    """A run of Trackio, on this machine or wherever its own settings say. Implements `Tracker`."""

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
    """The run's name at a service: the one kept in the folder, or, the first time, `proposed`, which is kept."""
    path = folder / IDENTITIES
    known = read_json(path) if path.exists() else {}
    if service not in known:
        known[service] = proposed
        write_text(path, json.dumps(known) + "\n")
    return known[service]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= _flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
