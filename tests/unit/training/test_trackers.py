"""Trackers: TensorBoard's own reader, stand-ins for the services, and failures that must not stop a run."""

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bitvar.errors import UsageError
from bitvar.training.monitor.trackers import TRACKERS, GuardedTracker, Tracker, make_tracker

CONFIG = {"kind": "transformer", "model": {"depth": 2, "schedules": [[1, 1]]}}


def make(name: str, folder: Path, *, step: int = 0, report: Callable[[str], None] = lambda line: None) -> Tracker:
    return make_tracker(name, folder=folder, run_name="my run", config=CONFIG, step=step, log=report)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "step-00000004.png"
    Image.new("RGB", (6, 4), (200, 30, 40)).save(path)
    return path


@pytest.mark.parametrize("name", ["tensor-board", "none"])
def test_the_registry_is_closed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Unknown tracker"):
        make(name, tmp_path)


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_module(module: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(UsageError, match=rf'pip install -e ".*\[{name}\]"'):
        make(name, tmp_path)


def test_tensorboard_reads_back_what_was_told_and_forgets_steps_made_again(tmp_path: Path, sheet: Path) -> None:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    first = make("tensorboard", tmp_path)
    for step in (2, 4, 6):
        first.log(step, "train", {"loss": 1 / step, "loss/scale_0": 0.5})
    first.log(4, "validation", {"loss": 0.7})
    first.log_image(4, sheet)
    first.close()
    resumed = make("tensorboard", tmp_path, step=4)
    resumed.log(8, "train", {"loss": 0.125})
    resumed.close()

    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = {tag: [(e.step, round(e.value, 4)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {
        "train/loss": [(2, 0.5), (4, 0.25), (8, 0.125)],  # 6 lies after the step that the run went on from
        "train/loss/scale_0": [(2, 0.5), (4, 0.5)],
        "validation/loss": [(4, 0.7)],
    }
    [image] = events.Images("samples")
    assert (image.step, image.width, image.height) == (4, 6, 4)
    [text] = events.Tags()["tensors"]
    assert text.startswith("my run")
    assert b"model.depth: 2" in events.Tensors(text)[0].tensor_proto.string_val[0]


class StandIn:
    """A service's package that notes what it is told, as far as the trackers use it."""

    class UsageError(Exception):
        """As the service raises when nobody is logged in."""

    def __init__(self, *, project: str | None = None, fails: Exception | None = None) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.axes: list[tuple[str, str]] = []
        self.finished = 0
        self.fails = fails
        self.errors = SimpleNamespace(UsageError=self.UsageError)
        self.settings = SimpleNamespace(project=project)

    def setup(self) -> "StandIn":
        return self

    def init(self, **settings: Any) -> "StandIn":
        if self.fails is not None:
            raise self.fails
        self.started.append(settings)
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.axes.append((name, step_metric))

    def log(self, values: dict[str, Any], **settings: Any) -> None:
        self.logged.append((values, settings))

    def finish(self) -> None:
        self.finished += 1

    def Image(self, path: str | Path) -> str:
        return f"image {Path(path).name}"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, made)
    return made


def test_wandb_goes_on_in_the_same_run_and_takes_our_step_as_its_axis(
    tmp_path: Path, sheet: Path, stand_in: StandIn
) -> None:
    tracker = make("wandb", tmp_path)
    tracker.log(2, "train", {"loss": 0.5})
    tracker.log_image(4, sheet)
    tracker.close()
    make("wandb", tmp_path, step=2)
    first, second = stand_in.started
    assert first["id"] == second["id"] == json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    assert first["resume"] == "allow"
    assert (first["project"], first["name"], first["config"]) == ("bitvar", "my run", CONFIG)
    assert first["dir"] == str(tmp_path)
    assert stand_in.axes[0] == ("*", "step")
    assert stand_in.logged == [
        ({"step": 2, "train/loss": 0.5}, {}),
        ({"step": 4, "samples": "image step-00000004.png"}, {}),
    ]
    assert stand_in.finished == 1


def test_wandb_keeps_the_project_of_its_own_settings(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.settings.project = "theirs"
    make("wandb", tmp_path)
    assert stand_in.started[0]["project"] == "theirs"


def test_nobody_logged_in_is_said_before_the_run(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.fails = StandIn.UsageError("No API key configured.")
    with pytest.raises(UsageError, match="No API key") as error:
        make("wandb", tmp_path)
    assert "WANDB_MODE=offline" in str(error.value)


def test_trackio_goes_on_in_the_same_run(tmp_path: Path, sheet: Path, stand_in: StandIn) -> None:
    tracker = make("trackio", tmp_path)
    tracker.log(2, "validation", {"loss": 0.5})
    tracker.log_image(2, sheet)
    tracker.close()
    make("trackio", tmp_path, step=2)
    first, second = stand_in.started
    assert first["name"] == second["name"]
    assert first["name"].startswith("my run-")
    assert first["resume"] == "allow"
    assert first["config"] == {"kind": "transformer", "model.depth": 2, "model.schedules": [[1, 1]]}
    assert stand_in.logged == [
        ({"validation/loss": 0.5}, {"step": 2}),
        ({"samples": "image step-00000004.png"}, {"step": 2}),
    ]
    assert stand_in.finished == 1


def test_two_runs_of_one_name_are_two_runs(tmp_path: Path, stand_in: StandIn) -> None:
    for folder in ("a", "b"):
        make("trackio", tmp_path / folder)
        make("wandb", tmp_path / folder)
    names = {settings.get("id", settings["name"]) for settings in stand_in.started}
    assert len(names) == 4


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_that_can_not_be_reached_at_the_start_leaves_the_run_alone(
    name: str, tmp_path: Path, stand_in: StandIn, sheet: Path
) -> None:
    lines: list[str] = []
    stand_in.fails = ConnectionError("no route")
    tracker = make(name, tmp_path, report=lines.append)
    tracker.log(1, "train", {"loss": 0.5})
    tracker.log_image(1, sheet)
    tracker.close()
    assert len(lines) == 1
    assert "no route" in lines[0]
    assert "without it" in lines[0]


class Failing:
    """A tracker that fails at steps 2 and 3."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        if step in (2, 3):
            raise OSError("connection reset")
        self.steps.append(step)

    def log_image(self, step: int, path: Path) -> None:
        self.log(step, "", {})

    def close(self) -> None:
        pass


def test_failures_are_told_once_and_counted_at_the_end(sheet: Path) -> None:
    lines: list[str] = []
    failing = Failing()
    tracker = GuardedTracker(failing, name="wandb", log=lines.append)
    for step in (1, 2, 3, 4):
        tracker.log(step, "train", {"loss": 0.5})
    tracker.log_image(3, sheet)
    assert failing.steps == [1, 4]
    assert len(lines) == 1
    assert "OSError: connection reset" in lines[0]
    tracker.close()
    assert lines[1:] == ["wandb: 3 of 6 calls failed; metrics.jsonl has everything"]


def test_a_tracker_that_works_says_nothing(stand_in: StandIn, tmp_path: Path) -> None:
    lines: list[str] = []
    tracker = make("trackio", tmp_path, report=lines.append)
    tracker.log(1, "train", {"loss": 0.5})
    tracker.close()
    assert lines == []


def test_an_interrupt_is_no_failure(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = make("trackio", tmp_path)

    def interrupt(values: object, step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stand_in, "log", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tracker.log(1, "train", {"loss": 0.5})
