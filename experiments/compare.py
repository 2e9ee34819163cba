r"""Finished runs side by side: losses, shares of right images and Frechet distances, as a plot and a table.

bitvar evaluate scenes data/icons64 -o evaluations/sizes --no-references --guidance 3 --temperature 0.5 \
    --model w64=runs/w64/model --model w96=runs/w96/model
python experiments/compare.py docs/images/sizes.png --by parameters --fit \
    --run w64=runs/w64 --run w96=runs/w96 --scenes evaluations/sizes/report.json

`--by label` draws a row for each run; `--by parameters` draws curves against the size of the transformer, a line for
each number of bits. `--fit` draws L = a + b N^-c through the losses of all runs and says how sure it is: the range of
each number when any one of the runs is left out. Labels are those of the report of `bitvar evaluate scenes`; without
one, the losses are all there is. A label whose run has no images in the report, or the other way round, is named.

Losses are of the whole validation split at a run's end, with averaged weights, nothing flipped. Nats a bit compare at
equal bits of the same tokenizer only; nats a token add the bits of a token up, and compare an index head with a
bitwise one.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitvar.errors import UsageError
from bitvar.files import atomic_path
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.metrics_log import read_metrics
from bitvar.training.export import pick_checkpoint
from bitvar.transformer import InfinityTransformer

FACTS: Final = "facts.json"
SPLITS: Final = ("seen", "unseen", "paraphrase")
PANELS: Final = {
    "loss": "validation loss, nats a bit",
    "seen": "right, seen prompts, %",
    "unseen": "right, unseen prompts, %",
    "paraphrase": "right, paraphrases, %",
    "frechet": "Frechet distance",
}
EXPONENTS: Final = np.geomspace(0.02, 2.0, 400)


@dataclass(frozen=True)
class Row:
    """One finished run.

    Attributes:
        label: of the command line and the report.
        parameters: of the transformer, its text adapter included.
        bits: of a token.
        figures: those of `PANELS` that were measured; shares in %.
        intervals: of the shares, in %.
    """

    label: str
    parameters: int
    bits: int
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def nats_a_token(self) -> float:
        """The loss of a whole token."""
        return self.figures["loss"] * self.bits


@dataclass(frozen=True)
class Fit:
    """L = a + b N^-c, and the range of each number when any one point is left out; None with too few points."""

    floor: float
    factor: float
    exponent: float
    worst: float
    ranges: tuple[tuple[float, float], ...] | None

    def at(self, parameters: np.ndarray) -> np.ndarray:
        """The curve."""
        return self.floor + self.factor * parameters**-self.exponent


def read_run(label: str, run: Path) -> Row:
    """A finished transformer run; one of an index head by the facts beside it.

    Raises:
        UsageError: if it is none, or not finished.
    """
    metrics = read_metrics(run)
    data = json.loads((pick_checkpoint(run) / "config.json").read_text(encoding="utf-8"))
    head = data.pop("head", "bitwise")
    config = TransformerTraining.parse(data, source=str(run))
    step, loss = metrics.get("validation", {}).get("loss", [(0, 0.0)])[-1]
    if step < config.optimization.steps:
        why = f"its last validation was at step {step} of {config.optimization.steps}"
        raise UsageError(f"{run} is not finished.", why, "finish it first")
    if head == "bitwise":
        with torch.device("meta"):
            parameters = sum(p.numel() for p in InfinityTransformer(config.model).parameters())
    else:
        parameters = int(json.loads((run / FACTS).read_text(encoding="utf-8"))["parameters"])
        loss /= config.model.bits
    return Row(label, parameters, config.model.bits, {"loss": loss})


def read_scenes(path: Path) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float]]]]:
    """Figures and intervals by label, of a report of `bitvar evaluate scenes`.

    Raises:
        UsageError: if it is no such report.
    """
    figures: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if report["format"] != 2:
            raise ValueError(f"its format is {report['format']}, not 2")
        for entry in report["candidates"]:
            distance = entry["metrics"].get("frechet", {}).get("distance")
            figures[entry["candidate"]] = {} if distance is None else {"frechet": float(distance)}
        for result in report["results"]:
            if result["skill"] == "mean" and result["split"] in SPLITS:
                label, split = result["candidate"], result["split"]
                figures[label][split] = 100 * result["score"]
                intervals.setdefault(label, {})[split] = (100 * result["low"], 100 * result["high"])
    except FileNotFoundError:
        todo = "make it with bitvar evaluate scenes"
        raise UsageError(f"There is no {path}.", "--scenes names it", todo) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is no report of scenes.", why, "make it again") from None
    return figures, intervals


def fit_power_law(parameters: Sequence[float], losses: Sequence[float]) -> Fit:
    """Least squares, with a >= 0: for each exponent a and b are exact, and the best exponent of a fine list is taken.

    Raises:
        UsageError: for fewer than four points, through three of which a curve of three numbers goes anyway.
    """
    if len(set(parameters)) < 4:
        why = f"there are {len(set(parameters))} sizes, and the curve has three numbers"
        raise UsageError("There is nothing to fit.", why, "give runs of four sizes at least")
    sizes, values = np.asarray(parameters, dtype=float), np.asarray(losses, dtype=float)
    floor, factor, exponent = _fit(sizes, values)
    worst = float(np.abs(floor + factor * sizes**-exponent - values).max())
    ranges = None
    if len(values) > 4:
        kept = [np.arange(len(values)) != i for i in range(len(values))]
        others = np.array([_fit(sizes[keep], values[keep]) for keep in kept])
        ranges = tuple((float(low), float(high)) for low, high in zip(others.min(0), others.max(0), strict=True))
    return Fit(floor, factor, exponent, worst, ranges)


def _fit(sizes: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    best: tuple[float, tuple[float, float, float]] | None = None
    for exponent in EXPONENTS:
        powers = sizes**-exponent
        floor, factor = np.linalg.lstsq(np.stack([np.ones_like(powers), powers], axis=1), values, rcond=None)[0]
        if floor < 0:
            floor, factor = 0.0, float(powers @ values / (powers @ powers))
        wrong = float(((floor + factor * powers - values) ** 2).sum())
        if best is None or wrong < best[0]:
            best = wrong, (float(floor), float(factor), float(exponent))
    assert best is not None
    return best[1]


def describe_fit(fit: Fit) -> str:
    """A sentence for the docs."""
    said = f"L = {fit.floor:.4f} + {fit.factor:.4g} N^-{fit.exponent:.3f}, at most {fit.worst:.4f} off"
    if fit.ranges is None:
        return said + "; four points leave no way to say how sure"
    names = ("a", "b", "c")
    ranges = (f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in zip(names, fit.ranges, strict=True))
    return f"{said}; with any one run left out: {', '.join(ranges)}"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    keys = [key for key in PANELS if any(key in row.figures for row in rows)]
    names = ["run", "parameters", "bits of a token", "nats a token", *(PANELS[key] for key in keys)]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [row.label, f"{row.parameters:,}", str(row.bits), f"{row.nats_a_token:.3f}"]
        lines.append(f"| {' | '.join([*cells, *(cell(row, key) for key in keys)])} |")
    return "\n".join(lines)


def cell(row: Row, key: str) -> str:
    """A figure with its interval; empty if it was not measured."""
    if key not in row.figures:
        return ""
    if key in row.intervals:
        low, high = row.intervals[key]
        return f"{row.figures[key]:.1f} ({low:.0f}-{high:.0f})"
    return f"{row.figures[key]:.4f}" if key == "loss" else f"{row.figures[key]:.1f}"


def draw(rows: Sequence[Row], *, by: str, fit: Fit | None = None) -> Figure:
    """A panel for each figure, `by` "label" or "parameters"."""
    keys = [key for key in PANELS if any(key in row.figures for row in rows)]
    if len({row.bits for row in rows}) > 1 and fit is None:
        keys = [key for key in keys if key != "loss"] or keys  # losses of different bits don't compare
    figure = Figure(figsize=(2.9 * len(keys) + 0.6, 3.0 if by == "parameters" else 1.3 + 0.3 * len(rows)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(keys), squeeze=False, sharey=by == "label")[0]
    for axes, key in zip(panels, keys, strict=True):
        axes.set_title(PANELS[key], loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        if by == "parameters":
            draw_curves(axes, key, rows)
        else:
            draw_labels(axes, key, rows)
    if by == "parameters" and len({row.bits for row in rows}) > 1:
        panels[0].legend(frameon=False, fontsize=8)
    if fit is not None and keys[0] == "loss":
        sizes = np.geomspace(min(row.parameters for row in rows), max(row.parameters for row in rows), 100)
        panels[0].plot(sizes, fit.at(sizes), color="#666666", linewidth=1, linestyle="--", zorder=0)
    return figure


def draw_curves(axes: Axes, key: str, rows: Sequence[Row]) -> None:
    """One figure against parameters, a line for each number of bits."""
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    for bits in sorted({row.bits for row in rows}):
        line = sorted((row for row in rows if row.bits == bits and key in row.figures), key=lambda row: row.parameters)
        if line:
            x, y = [row.parameters for row in line], [row.figures[key] for row in line]
            axes.errorbar(x, y, yerr=reach(line, key), fmt="o-", markersize=4, linewidth=1.4, label=f"{bits} bits")


def draw_labels(axes: Axes, key: str, rows: Sequence[Row]) -> None:
    """One figure, a row for each run."""
    line = [row for row in rows if key in row.figures]
    places = [rows.index(row) for row in line]
    axes.errorbar([row.figures[key] for row in line], places, xerr=reach(line, key), fmt="o", markersize=5)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def reach(rows: Sequence[Row], key: str) -> np.ndarray | None:
    """Distances to the limits of the intervals, `(2, rows)`, where there are any."""
    if not rows or any(key not in row.intervals for row in rows):
        return None
    return np.array([[abs(row.intervals[key][i] - row.figures[key]) for row in rows] for i in (0, 1)])


def collect(runs: Sequence[str], scenes: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """The rows of `LABEL=RUN`, with what reports say of them, and what is missing, in words.

    Raises:
        UsageError: for anything that can't be read, or a label given twice.
    """
    rows: list[Row] = []
    for argument in runs:
        label, equals, path = argument.partition("=")
        if not (label and equals and path) or label in {row.label for row in rows}:
            why = "each --run needs a label of its own, and a folder"
            raise UsageError(f"Can't read --run {argument}.", why, "write --run LABEL=FOLDER")
        rows.append(read_run(label, Path(path)))
    missing: list[str] = []
    for path in scenes:
        figures, intervals = read_scenes(path)
        labels = [row.label for row in rows]
        missing += [f"{path}: {label} is no --run, left out" for label in figures if label not in labels]
        for row in rows:
            row.figures.update(figures.get(row.label, {}))
            row.intervals.update(intervals.get(row.label, {}))
    if scenes:
        missing += [f"{row.label}: no images in any report" for row in rows if not set(SPLITS) & set(row.figures)]
    return rows, missing


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Finished runs side by side.")
    parser.add_argument("out", type=Path, help="the plot, a .png")
    parser.add_argument("--run", action="append", required=True, metavar="LABEL=FOLDER", help="may be repeated")
    parser.add_argument("--scenes", action="append", default=[], type=Path, help="report.json; may be repeated")
    parser.add_argument("--by", choices=("label", "parameters"), default="label")
    parser.add_argument("--fit", action="store_true", help="a power law through the losses")
    options = parser.parse_args()
    try:
        if options.out.suffix != ".png":
            raise UsageError(f"Can't write {options.out}.", "the plot is a .png", "name it so")
        rows, missing = collect(options.run, options.scenes)
        if options.fit and len({row.bits for row in rows}) > 1:
            raise UsageError("There is nothing to fit.", "losses of different bits don't compare", "drop some")
        losses: Mapping[str, float] = {row.label: row.figures["loss"] for row in rows}
        fit = fit_power_law([row.parameters for row in rows], list(losses.values())) if options.fit else None
    except UsageError as error:
        parser.exit(2, f"{error}\n")
    for line in missing:
        sys.stderr.write(line + "\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out) as partial:
        draw(rows, by=options.by, fit=fit).savefig(partial, dpi=150, format="png", metadata={"Software": None})
    print(table(rows))  # noqa: T201
    if fit is not None:
        print(f"\n{describe_fit(fit)}")  # noqa: T201


if __name__ == "__main__":
    main()
