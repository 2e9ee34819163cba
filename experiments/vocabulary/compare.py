r"""Plot the gain from a larger vocabulary: reconstruction against the bits of a cell and against bits per pixel.

python experiments/vocabulary/compare.py docs/images/vocabulary.png \
    --report "held-out icons=evaluations/icons/report.json" --report "photographs=evaluations/photographs/report.json"

Reads the reports of `bitvar evaluate reconstruction` whose candidates are tokenizers named by their bits, "d8", "d64".
Draws a panel for each metric in the reports, with a line for each report, and prints the table.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitvar.errors import UsageError
from bitvar.files import atomic_path

PANELS: Final = {"psnr": "PSNR, dB", "ssim": "SSIM", "distance": "perceptual distance", "frechet": "Frechet distance"}
"""Keys of the results, and their names; for the first two, higher is better."""
FORMAT: Final = 3
HIGHER: Final = frozenset({"psnr", "ssim"})
DRAWN: Final = ("psnr", "distance", "frechet")


@dataclass(frozen=True)
class Row:
    """One tokenizer on one set of images; `metrics` holds the measured ones by key."""

    name: str
    bits: int
    images: int
    bits_per_pixel: float
    metrics: dict[str, float]


def read_report(name: str, path: Path) -> tuple[list[Row], list[str]]:
    """Read the tokenizers of a report by their bits, and the names of the other candidates.

    A report with several sizes gives a set for each, "photographs, 64x64".

    Raises:
        UsageError: if the file is missing, is no report, or holds no tokenizer.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["format"] != FORMAT:
            raise ValueError(f"its format is {report['format']}, not {FORMAT}")
        results: list[dict[str, Any]] = report["results"]
        several = len({result["size"] for result in results}) > 1
        rows = [read_row(f"{name}, {result['size']}" if several else name, result) for result in results]
    except FileNotFoundError:
        todo = "check the path, or make it with bitvar evaluate reconstruction"
        raise UsageError(f"There is no {path}.", f"--report {name} names it", todo) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        todo = "make it again with bitvar evaluate reconstruction"
        raise UsageError(f"{path} is no report of reconstruction.", why, todo) from None
    others = [str(result["candidate"]) for result, row in zip(results, rows, strict=True) if row is None]
    found = [row for row in rows if row is not None]
    if not found:
        todo = "name the tokenizers by their bits, such as d32"
        raise UsageError(f"{path} has no tokenizer to compare.", f"it has {others or 'nothing'}", todo)
    return sorted(found, key=lambda row: (row.name, row.bits)), others


def read_row(name: str, result: dict[str, Any]) -> Row | None:
    """Convert a result to a row; None if it is of another kind, or not named by its bits."""
    bits = re.fullmatch(r"d([1-9]\d*)", result["candidate"])
    if result["kind"] != "tokenizer" or bits is None:
        return None
    metrics = {key: float(result[key]) for key in PANELS if result.get(key) is not None}
    return Row(name, int(bits[1]), int(result["images"]), float(result["bits_per_pixel"]), metrics)


def table(rows: Sequence[Row]) -> str:
    """Write the rows as a Markdown table."""
    keys = [key for key in PANELS if any(key in row.metrics for row in rows)]
    lines = [
        f"| set | bits of a cell | bits per pixel | {' | '.join(PANELS[key] for key in keys)} | images |",
        "|" + "---|" * (len(keys) + 4),
    ]
    for row in rows:
        cells = " | ".join(number(key, row.metrics[key]) if key in row.metrics else "" for key in keys)
        lines.append(f"| {row.name} | {row.bits} | {row.bits_per_pixel:.3f} | {cells} | {row.images} |")
    return "\n".join(lines)


def number(key: str, value: float) -> str:
    """Write a number with its significant digits."""
    if key == "psnr":
        return f"{value:.2f}"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def draw(rows: Sequence[Row]) -> Figure:
    """Draw a column for each metric: above against the bits of a cell, below against bits per pixel."""
    keys = [key for key in DRAWN if any(key in row.metrics for row in rows)]
    figure = Figure(figsize=(3.3 * len(keys), 5.2), layout="constrained")
    grid = figure.subplots(2, len(keys), sharex="row", sharey="col", squeeze=False)
    for column, key in enumerate(keys):
        above, below = grid[:, column]
        above.set_title(f"{PANELS[key]}\n{'higher' if key in HIGHER else 'lower'} is better", loc="left", fontsize=10)
        for name in dict.fromkeys(row.name for row in rows):  # an empty line keeps the colours of the others
            line = [row for row in rows if row.name == name and key in row.metrics]
            values = [row.metrics[key] for row in line]
            draw_line(above, name, [row.bits for row in line], values)
            draw_line(below, name, [row.bits_per_pixel for row in line], values)
        above.set_xlabel("bits of a cell")
        below.set_xlabel("bits per pixel")
    bits = sorted({row.bits for row in rows})
    grid[0, 0].set_xscale("log")
    grid[0, 0].set_xticks(bits, [str(at) for at in bits])
    grid[0, 0].minorticks_off()
    grid[1, 0].set_xlim(left=0)
    lines = grid[0, 0].lines
    figure.legend(
        handles=lines, loc="outside upper left", ncols=len(lines), labelcolor="linecolor", frameon=False, handlelength=1
    )
    return figure


def draw_line(axes: Axes, name: str, x: Sequence[float], y: Sequence[float]) -> None:
    """Draw the line of one set in one panel."""
    axes.margins(y=0.18)
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(x, y, "o-", markersize=4, linewidth=1.6, label=name)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Reconstruction against the bits of a cell.")
    parser.add_argument("out", type=Path, help="the plot, a .png")
    parser.add_argument("--report", action="append", required=True, metavar="NAME=FILE", help="may be repeated")
    options = parser.parse_args()
    rows: list[Row] = []
    names: set[str] = set()
    try:
        if options.out.suffix != ".png":
            raise UsageError(f"Can't write {options.out}.", "the plot is a .png", "name it so")
        for report in options.report:
            name, equals, path = report.partition("=")
            if not (name and equals and path) or name in names:
                why = "each --report needs a name of its own, and a file"
                raise UsageError(f"Can't read --report {report}.", why, "write --report NAME=FILE")
            names.add(name)
            found, others = read_report(name, Path(path))
            rows += found
            if others:
                print(f"{path}: no tokenizers named by their bits: {', '.join(others)}", file=sys.stderr)  # noqa: T201
    except UsageError as error:
        parser.exit(2, f"{error}\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out) as partial:
        draw(rows).savefig(partial, dpi=150, format="png", metadata={"Software": None})
    print(table(rows))  # noqa: T201


if __name__ == "__main__":
    main()
