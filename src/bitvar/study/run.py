"""Carry out a study: train every run that isn't finished, read the results, and write report, table and plot."""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError, install_hint
from bitvar.files import atomic_path, write_text
from bitvar.study.fit import PowerLaw, fit_power_law, rank_correlation
from bitvar.study.plan import StudyRun
from bitvar.study.results import StudyRow, read_run
from bitvar.training.assemble import train
from bitvar.training.config import TransformerTraining
from bitvar.training.recipes import configure
from bitvar.weights.hub import resolve_model

REPORT: Final = "study.json"
TABLE: Final = "study.md"
PLOT: Final = "study.png"


@dataclass(frozen=True)
class StudySettings:
    """What the runs of a study share.

    Attributes:
        recipe: Python file whose function `recipe()` takes the arguments that vary.
        data: Captioned set or index to train on.
        out: Folder of the study; the runs are in `out/runs`.
        tokenizer, text_encoder: Models of every run; arguments that vary may stand in braces: `runs/d{bits}/model`.
        arguments: Further arguments of the recipe, the same for all runs.
        settings: Changes to the configuration, the same for all runs.
        device: Device, as for `bitvar.train`.
    """

    recipe: Path
    data: Path
    out: Path
    tokenizer: str | None = None
    text_encoder: str | None = None
    arguments: Sequence[str] = ()
    settings: Sequence[str] = ()
    device: str = "auto"

    def folder(self, run: StudyRun) -> Path:
        """Folder of a run."""
        return self.out / "runs" / run.name


@dataclass(frozen=True)
class Study:
    """The results of a study.

    Attributes:
        rows: Finished runs.
        fits: Power laws of the loss in the number of parameters, by the label of their line, where there are enough.
        correlations: Rank correlation of each score with the loss, over runs of equal bits.
    """

    rows: Sequence[StudyRow]
    fits: Mapping[str, PowerLaw] = field(default_factory=dict)
    correlations: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "format": 1,
            "runs": [row.to_row() for row in self.rows],
            "fits": {label: fit.__dict__ for label, fit in self.fits.items()},
            "correlations": dict(self.correlations),
        }


@dataclass(frozen=True)
class CheckedRun:
    """A run that can be trained.

    Attributes:
        run: Run.
        config: Its configuration.
        tokenizer, text_encoder: Its models, by name or folder.
    """

    run: StudyRun
    config: TransformerTraining
    tokenizer: str
    text_encoder: str


def check_study(settings: StudySettings, runs: Sequence[StudyRun]) -> list[CheckedRun]:
    """Configure every run before any is trained, so that a bad argument costs nothing.

    Raises:
        UsageError: If the recipe refuses the arguments of a run, or configures no transformer; if the data, the
            tokenizer or the text encoder is missing, or a pattern names an unknown argument.
    """
    if not settings.data.exists():
        raise UsageError(f"There is no data in {settings.data}.", fix="check --data, or build the set first")
    return [_checked(settings, run) for run in runs]


def _checked(settings: StudySettings, run: StudyRun) -> CheckedRun:
    pairs = [*settings.arguments, *(f"{name}={value}" for name, value in run.arguments.items())]
    config = configure(settings.recipe, arguments=pairs, settings=settings.settings)
    if not isinstance(config, TransformerTraining):
        raise UsageError(f"{settings.recipe} configures no transformer.", fix="study a transformer's recipe")
    tokenizer = _model_of(run, settings.tokenizer, "tokenizer")
    return CheckedRun(run, config, tokenizer, _model_of(run, settings.text_encoder, "text encoder"))


def _model_of(run: StudyRun, pattern: str | None, what: str) -> str:
    if pattern is None:
        option = what.replace(" ", "-")
        raise UsageError(f"A study needs a {what}.", fix=f"give --{option}, such as general or icons")
    name = run.fill(pattern)
    resolve_model(name, what=what)
    return name


def train_study(settings: StudySettings, runs: Sequence[StudyRun], log: Callable[[str], None]) -> None:
    """Train the runs one after another. Those that are finished are not trained again; an interrupted one resumes.

    Features of the frozen models are made once for all runs with the same tokenizer.

    Raises:
        UsageError: As `check_study` and `bitvar.train` raise it, or if the folder holds another run.
    """
    for number, checked in enumerate(check_study(settings, runs), 1):
        log(f"run {number} of {len(runs)}: {checked.run.name}")
        folder = settings.folder(checked.run)
        shared = settings.out / "features" / _folder_name(checked.tokenizer)
        folder.mkdir(parents=True, exist_ok=True)
        _link_features(shared, folder)
        train(
            checked.config,
            data=settings.data,
            out=folder,
            name=checked.run.name,
            tokenizer=checked.tokenizer,
            text_encoder=checked.text_encoder,
            device=settings.device,
            log=log,
        )
        _link_features(folder, shared)


def _folder_name(tokenizer: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in tokenizer)[-100:]


def _link_features(source: Path, target: Path) -> None:
    """Share the files of cached features between two folders. A cache names what it was made from, and is checked."""
    for path in sorted(source.glob("features-*.safetensors")):
        target.mkdir(parents=True, exist_ok=True)
        if not (target / path.name).exists():
            os.link(path, target / path.name)


def read_study(settings: StudySettings, runs: Sequence[StudyRun]) -> list[StudyRow]:
    """Read the finished runs.

    Raises:
        UsageError: If one of them is not finished.
    """
    return [read_run(run.name, settings.folder(run), run.arguments) for run in runs]


def read_finished(settings: StudySettings, runs: Sequence[StudyRun]) -> list[StudyRow]:
    """Read those of the runs that are finished.

    Raises:
        UsageError: If none is.
    """
    done = [run for run in runs if (settings.folder(run) / "model").is_dir()]
    if not done:
        raise UsageError("No run of the study is finished.", fix="train at least one")
    return read_study(settings, done)


def require_plots() -> None:
    """Check that plots can be drawn.

    Raises:
        UsageError: If matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("Can't draw the study.", "the package matplotlib is missing", install_hint("report"))


def with_scores(
    rows: Sequence[StudyRow],
    metrics: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> list[StudyRow]:
    """Add the scores of a benchmark's report to the runs of the same label.

    Raises:
        UsageError: If the report has none of the runs.
    """
    labels = [row.label for row in rows]
    if not set(labels) & set(metrics):
        why = f"it is about {', '.join(metrics) or 'nothing'}"
        raise UsageError("The report has none of the runs.", why, f"score them under their names, such as {labels[0]}")
    return [row.scored(metrics, intervals) for row in rows]


def conclude(rows: Sequence[StudyRow], lines: Mapping[str, Sequence[StudyRow]], scores: Sequence[str]) -> Study:
    """Fit a power law through every line with enough sizes, and correlate scores with losses of equal bits.

    Args:
        rows: Finished runs.
        lines: Runs whose losses compare, by label.
        scores: Names of the scores.
    """
    fits = {
        label: fit_power_law([row.parameters for row in line], [row.metrics["loss"] for row in line])
        for label, line in lines.items()
        if len({row.parameters for row in line}) >= 4
    }
    correlations: dict[str, float] = {}
    if len({row.bits for row in rows}) == 1:
        for name in scores:
            measured = [row for row in rows if name in row.metrics]
            losses, values = [row.metrics["loss"] for row in measured], [row.metrics[name] for row in measured]
            found = rank_correlation(losses, values)
            if found is not None and len(measured) > 2:
                correlations[name] = found
    return Study(rows, fits, correlations)


def write_study(study: Study, out: Path) -> None:
    """Write `study.json`, `study.md` and `study.png`. Needs matplotlib (`require_plots`)."""
    from bitvar.study.plot import draw_study, table

    write_text(out / REPORT, json.dumps(study.to_json(), indent=1) + "\n")
    lines = [table(study.rows)]
    lines += [f"\n{label}: {fit.describe()}" for label, fit in study.fits.items()]
    lines += [f"\nRank correlation of the loss with {name}: {value:.2f}" for name, value in study.correlations.items()]
    write_text(out / TABLE, "\n".join(lines) + "\n")
    only = next(iter(study.fits.values())) if len(study.fits) == 1 else None
    with atomic_path(out / PLOT) as partial:
        draw_study(study.rows, only).savefig(partial, dpi=150, format="png", metadata={"Software": None})
