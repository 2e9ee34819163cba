"""The plot and the table of a study. Needs matplotlib."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from bitvar.study.fit import PowerLaw
from bitvar.study.results import SCORES, StudyRow, group_lines

METRICS: Final = {"loss": "validation loss, nats a bit", "accuracy": "bit accuracy, %", **SCORES}

AXES: Final[Mapping[str, tuple[str, Callable[[StudyRow], float]]]] = {
    "parameters": ("parameters", lambda row: row.parameters),
    "compute": ("operations of training", lambda row: row.flops),
    "loss": ("validation loss, nats a bit", lambda row: row.metrics["loss"]),
}
"""Horizontal axes by name: title, and value of a row."""


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        metric: Metric on the vertical axis.
        axis: Name of the horizontal axis.
    """

    metric: str
    axis: str


def draw_study(rows: Sequence[StudyRow], fit: PowerLaw | None = None) -> Figure:
    """Draw loss, accuracy and scores against parameters, loss against compute, and scores against loss.

    A line joins runs of equal bits and samples. Losses of different bits don't compare, so where there are several
    numbers of bits, only scores are drawn, against parameters and compute, if there are any.

    Args:
        rows: Finished runs.
        fit: Power law of the loss in the parameters, drawn dashed.
    """
    known = measured_metrics(rows)
    scores = [name for name in known if name in SCORES]
    by_size = [Panel(name, "parameters") for name in known]
    others = [Panel(name, "compute") for name in known if name not in scores]
    others += [Panel(name, "loss" if "loss" in known else "compute") for name in scores]
    width = max(len(by_size), len(others))
    figure = Figure(figsize=(2.9 * width + 0.6, 5.6))
    figure.set_layout_engine("constrained")
    grid = figure.subplots(2, width, squeeze=False)
    lines = group_lines(rows)
    for panels, row_of_axes in zip((by_size, others), grid, strict=True):
        for axes in row_of_axes[len(panels) :]:
            axes.set_visible(False)
        for panel, axes in zip(panels, row_of_axes, strict=False):
            draw_panel(axes, panel, lines)
    if len(lines) > 1:
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(lines), frameon=False, fontsize=8)
    if fit is not None:
        draw_fit(grid[0][0], rows, fit)
    return figure


def measured_metrics(rows: Sequence[StudyRow]) -> list[str]:
    """List the metrics that the rows have and that compare between them."""
    known = [name for name in METRICS if any(name in row.metrics for row in rows)]
    if len({row.bits for row in rows}) > 1:
        return [name for name in known if name in SCORES] or known
    return known


def draw_panel(axes: Axes, panel: Panel, lines: Mapping[str, Sequence[StudyRow]]) -> None:
    """Draw one metric against one axis."""
    title, place = AXES[panel.axis]
    axes.set_title(METRICS[panel.metric], loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(title)
    if panel.axis != "loss":
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
    for label, line in lines.items():
        measured = [row for row in line if panel.metric in row.metrics and place(row) > 0]
        if measured:
            x, y = [place(row) for row in measured], [row.metrics[panel.metric] for row in measured]
            error = error_bars(measured, panel.metric)
            axes.errorbar(x, y, yerr=error, fmt="o-", markersize=4, linewidth=1.4, label=label)


def draw_labels(rows: Sequence[StudyRow]) -> Figure:
    """Draw a panel for each metric with a line for each run, for runs that don't differ in size."""
    keys = measured_metrics(rows)
    figure = Figure(figsize=(2.9 * len(keys) + 0.6, 1.3 + 0.3 * len(rows)))
    figure.set_layout_engine("constrained")
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False, sharey=True)[0], keys, strict=True):
        axes.set_title(METRICS[key], loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        measured = [row for row in rows if key in row.metrics]
        places = [rows.index(row) for row in measured]
        values = [row.metrics[key] for row in measured]
        axes.errorbar(values, places, xerr=error_bars(measured, key), fmt="o", markersize=5)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure


def draw_fit(axes: Axes, rows: Sequence[StudyRow], fit: PowerLaw) -> None:
    """Draw a power law in the number of parameters over the range of the rows."""
    sizes = np.geomspace(min(row.parameters for row in rows), max(row.parameters for row in rows), 100)
    axes.plot(sizes, fit.at(sizes), color="#666666", linewidth=1, linestyle="--", zorder=0)


def error_bars(rows: Sequence[StudyRow], key: str) -> np.ndarray | None:
    """Compute the distances to the limits of the intervals, `(2, rows)`; None without intervals."""
    if not rows or any(key not in row.intervals for row in rows):
        return None
    return np.array([[abs(row.intervals[key][i] - row.metrics[key]) for row in rows] for i in (0, 1)])


def table(rows: Sequence[StudyRow]) -> str:
    """Write the rows as a Markdown table."""
    keys = [name for name in METRICS if any(name in row.metrics for row in rows)]
    names = ["run", "parameters", "bits of a token", "samples", "nats a token", *(METRICS[key] for key in keys)]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [row.label, f"{row.parameters:,}", str(row.bits), f"{row.samples:,}", f"{row.nats_a_token:.3f}"]
        lines.append(f"| {' | '.join([*cells, *(_cell(row, key) for key in keys)])} |")
    return "\n".join(lines)


def _cell(row: StudyRow, key: str) -> str:
    """Write a metric with its interval; empty if it wasn't measured."""
    if key not in row.metrics:
        return ""
    if key in row.intervals:
        low, high = row.intervals[key]
        return f"{row.metrics[key]:.1f} ({low:.0f}-{high:.0f})"
    return f"{row.metrics[key]:.4f}" if key == "loss" else f"{row.metrics[key]:.1f}"
