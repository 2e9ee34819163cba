"""Self-contained HTML report of a run: curves, sample sheets over time, and signs of trouble.

The report reads only files that every run writes (`metrics.jsonl`, `samples/`, `checkpoints/`), so it works while a run
is in progress and after it was killed.
"""

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError, install_hint
from bitvar.training.engine.metrics_log import from_one, read_metrics
from bitvar.training.engine.retention import best_checkpoint, list_checkpoints, validated_at
from bitvar.training.monitor.health import IMAGES, Metrics, Series, find_trouble

CURVES: Final = (
    ("Loss", ("loss",), False),
    ("Reconstruction, PSNR in dB from the first k scales", ("psnr/",), False),
    ("Loss of each scale, in nats per bit (validation)", ("loss/",), False),
    ("Bit accuracy of each scale (validation)", ("accuracy/",), False),
    ("Entropy of the mean bit, at most 1 (validation)", ("bit_entropy/",), False),
    ("Fraction of dead bits (validation)", ("dead_bits/",), False),
    ("Residual after each scale, relative to the norm of the features (validation)", ("residual/",), False),
    ("Perceptual distance", ("mobilenet_distance", "lpips"), False),
    ("Gradient norm, before clipping", ("gradient_norm",), True),
    ("Learning rate", ("learning_rate",), False),
    ("Samples per second", ("samples_per_second",), False),
    ("Utilization of the device's peak FLOPS", ("utilization",), False),
)
"""Curves of the report: title, metric names or prefixes, and whether the axis is logarithmic."""

NUM_SHEETS: Final = 4

STYLE: Final = """
:root { color-scheme: light dark; --line: #8883; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .3rem; }
p { margin: .2rem 0; } .dim { opacity: .7; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(28rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .8rem; background: #fff; color: #222; }
figure img, figure svg { width: 100%; height: auto; display: block; }
.trouble { border-left: 4px solid #d97706; padding: .3rem .8rem; margin: .5rem 0; }
.well { border-left: 4px solid #16a34a; padding: .3rem .8rem; margin: .5rem 0; }
pre { overflow: auto; border: 1px solid var(--line); border-radius: 8px; padding: .8rem; font-size: 13px; }
"""


def build_report(run: Path, *, log: Callable[[str], None] = lambda line: None) -> str:
    """Build the HTML page of a run.

    Args:
        run: Folder of the run.
        log: Receives a line of text if lines of `metrics.jsonl` were skipped. The page says so too.

    Raises:
        UsageError: If the folder has no metrics, or matplotlib is missing.
    """
    told: list[str] = []
    metrics, configuration = read_metrics(run, log=told.append), _newest_configuration(run)
    for line in told:
        log(line)
    curves = [
        f"<figure><h3>{html.escape(title)}</h3>{_chart(series, logarithmic)}</figure>"
        for title, names, logarithmic in CURVES
        if (series := _pick(metrics, names))
    ]
    return "\n".join(
        (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(run.name)}</title>",
            f"<style>{STYLE}</style><h1>{html.escape(run.name)}</h1>",
            _summary(metrics, told, best_line(run)),
            "<h2>Health</h2>",
            _health(metrics, _batch_size(configuration)),
            "<h2>Curves</h2>",
            f"<div class=curves>{''.join(curves)}</div>",
            _sheets(_sheet_paths(run)),
            _configuration(configuration),
            "</html>",
        )
    )


def best_line(run: Path) -> list[str]:
    """Format a line that names the checkpoint with the best validation metric; empty if no checkpoint has one."""
    best = best_checkpoint(run / "checkpoints")
    figure = None if best is None else validated_at(best)
    return [] if best is None or figure is None else [f"best validation: {figure.name} {figure.value:.4g}, {best.name}"]


def _summary(metrics: Metrics, told: Sequence[str], best: Sequence[str]) -> str:
    rows = []
    for phase, series in metrics.items():
        if loss := series.get("loss") or series.get("psnr"):
            name = "loss" if series.get("loss") else "PSNR"
            rows.append(f"{phase}: step {loss[-1][0]:,}, {name} {loss[-1][1]:.4g}")
    times = [value for series in metrics.values() for _, value in series.get("time", ())]
    rows.append(f"{(max(times) - min(times)) / 60:.0f} minutes from the first log line to the last")
    rows += [*best, *told]
    return f"<p class=dim>{'<br>'.join(map(html.escape, rows))}</p>"


def _health(metrics: Metrics, batch_size: int) -> str:
    trouble = find_trouble(metrics, batch_size=batch_size)
    if not trouble:
        return "<p class=well>No known sign of trouble.</p>"
    return "".join(
        f"<div class=trouble><p>{html.escape(w.what)}</p><p class=dim>Try: {html.escape(w.todo)}.</p></div>"
        for w in trouble
    )


def _pick(metrics: Metrics, names: Sequence[str]) -> dict[str, Series]:
    """Pick the series of one chart: a metric in both phases, or every scale of a prefix in validation."""
    picked: dict[str, Series] = {}
    for wanted in names:
        if wanted.endswith("/"):
            found = metrics.get("validation", {})
            picked |= {from_one(n.removeprefix(wanted)): s for n, s in found.items() if n.startswith(wanted)}
        else:
            picked |= {phase: series[wanted] for phase, series in metrics.items() if wanted in series}
    return picked


def _chart(series: dict[str, Series], logarithmic: bool) -> str:
    """Draw series over the steps as SVG."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UsageError(
            "Can't draw the curves.", "the package matplotlib is missing", install_hint("report")
        ) from None
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes: Any = figure.add_subplot()
    for name, points in series.items():
        few = len(points) < 40
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1.4, marker="o" if few else None, markersize=3)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if logarithmic:
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small")
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _sheet_paths(run: Path) -> list[Path]:
    """List the sample sheets of a run by step."""
    found = (run / "samples").glob("step-*.png")
    return sorted(path for path in found if path.stem.removeprefix("step-").isdecimal() and path.is_file())


def _sheets(paths: Sequence[Path]) -> str:
    """Format a few sample sheets, spread evenly over the run and including the last one."""
    if not paths:
        return ""
    count = min(NUM_SHEETS, len(paths))
    shown = [paths[round(i * (len(paths) - 1) / max(1, count - 1))] if count > 1 else paths[-1] for i in range(count)]
    figures = []
    for path in dict.fromkeys(shown):
        data = base64.b64encode(path.read_bytes()).decode()
        step = int(path.stem.partition("-")[2])
        figures.append(
            f'<figure><h3>step {step:,}</h3><img alt="samples" src="data:image/png;base64,{data}"></figure><br>'
        )
    return f"<h2>Samples</h2>{''.join(figures)}"


def _newest_configuration(run: Path) -> str | None:
    """Read the configuration in the newest checkpoint that has one, as text."""
    known = [checkpoint / "config.json" for checkpoint in list_checkpoints(run / "checkpoints")]
    configs = [path for path in known if path.is_file()]
    return configs[-1].read_text(encoding="utf-8", errors="replace") if configs else None


def _configuration(text: str | None) -> str:
    return "" if text is None else f"<h2>Configuration</h2><pre>{html.escape(text)}</pre>"


def _batch_size(text: str | None) -> int:
    """Read the batch size in a configuration; `IMAGES`, which is large enough for every check, if it has none."""
    try:
        size = IMAGES if text is None else json.loads(text)["optimization"]["batch_size"]
    except (ValueError, KeyError, TypeError, RecursionError):  # the file of a damaged checkpoint
        return IMAGES
    return size if type(size) is int and size > 0 else IMAGES
