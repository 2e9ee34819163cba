r"""What guidance and temperature do: a grid of evaluations of one model, and their figures as curves.

python experiments/sampling.py docs/images/sampling.png --data data/icons64 --model icons \
    --work evaluations/sampling --guidance 1 --guidance 2 --guidance 3 --guidance 5 \
    --temperature 0.25 --temperature 0.5 --temperature 1

Runs `bitvar evaluate scenes` for every pair in a folder of its own under --work, two images a prompt, on the first
--limit prompts of each skill of the splits seen and unseen; pairs that are done are not run again. Draws the share of
right images, the Frechet distance and the diversity: the mean MobileNetV2 distance between two images of one
prompt. Frechet distances of so few images are too large, all by about as much.

Twelve pairs of 104 prompts, 208 images, take the embedded model about half an hour on one CPU core, most of it in
the Frechet distance's network and in drawing.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from bitvar.errors import UsageError
from bitvar.files import atomic_path
from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import Distance, perceptual_distance

PANELS: Final = {"right": "right images, %", "frechet": "Frechet distance", "diversity": "diversity"}
SPLITS: Final = ("seen", "unseen")
LABEL: Final = "model"
BATCH: Final = 32


@dataclass(frozen=True)
class Cell:
    """What came of one pair.

    Attributes:
        right: share of right images in %, mean of the two splits' means over skills.
        reach: half of the 95 % interval of it, in %.
        frechet: distance to the validation images.
        diversity: distance between two images of one prompt.
        images: how many.
    """

    guidance: float
    temperature: float
    right: float
    reach: float
    frechet: float
    diversity: float
    images: int


def evaluate(options: argparse.Namespace, guidance: float, temperature: float) -> Path:
    """The folder of one pair's evaluation, made if it is not there.

    Raises:
        UsageError: if the evaluation fails.
    """
    folder: Path = options.work / f"g{guidance:g}-t{temperature:g}"
    if not (folder / "report.json").is_file():
        command = [
            *(sys.executable, "-m", "bitvar.cli.main", "evaluate", "scenes", str(options.data), "-o", str(folder)),
            *("--model", f"{LABEL}={options.model}", "--no-references", "--seeds", "2", "--limit", str(options.limit)),
            *("--guidance", f"{guidance:g}", "--temperature", f"{temperature:g}"),
            *(word for split in SPLITS for word in ("--split", split)),
        ]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            why = f"bitvar evaluate scenes ended with {done.returncode}"
            raise UsageError(f"{folder} can't be made.", why, "see what it said above")
    return folder


def read_cell(folder: Path, guidance: float, temperature: float, distance: Distance) -> Cell:
    """The figures of a finished evaluation."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (entry,) = report["candidates"]
    means = [result for result in report["results"] if result["skill"] == "mean"]
    reaches = [(result["high"] - result["low"]) / 2 for result in means]
    return Cell(
        guidance,
        temperature,
        right=100 * sum(result["score"] for result in means) / len(means),
        reach=100 * sum(reach**2 for reach in reaches) ** 0.5 / len(means),
        frechet=float(entry["metrics"]["frechet"]["distance"]),
        diversity=diversity(folder / "images" / LABEL, distance),
        images=int(entry["images"]),
    )


@torch.inference_mode()
def diversity(folder: Path, distance: Distance) -> float:
    """Mean distance between the first and the second image of each prompt of a folder."""
    pairs = [(path, path.with_name(path.name[: -len("0.png")] + "1.png")) for path in sorted(folder.glob("*-0.png"))]
    total = 0.0
    for start in range(0, len(pairs), BATCH):
        first, second = zip(*pairs[start : start + BATCH], strict=True)
        total += distance(load(first), load(second)).sum().item()
    return total / len(pairs)


def load(paths: Sequence[Path]) -> torch.Tensor:
    """Images of one size, in [-1, 1]."""
    rows = []
    for path in paths:
        with Image.open(path) as image:
            rows.append(torch.from_numpy(np.array(image.convert("RGB"))))
    return to_signed(torch.stack(rows).permute(0, 3, 1, 2))


def table(cells: Sequence[Cell]) -> str:
    """The cells as a Markdown table."""
    lines = [f"| guidance | temperature | {' | '.join(PANELS.values())} | images |", "|" + "---|" * 6]
    for cell in cells:
        right = f"{cell.right:.1f} (+- {cell.reach:.1f})"
        figures = f"{right} | {cell.frechet:.1f} | {cell.diversity:.3g}"
        lines.append(f"| {cell.guidance:g} | {cell.temperature:g} | {figures} | {cell.images} |")
    return "\n".join(lines)


def draw(cells: Sequence[Cell]) -> Figure:
    """A panel for each figure against guidance, a line for each temperature."""
    figure = Figure(figsize=(9.6, 3.1), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("guidance")
        axes.spines[["top", "right"]].set_visible(False)
        for temperature in sorted({cell.temperature for cell in cells}):
            line = sorted((c for c in cells if c.temperature == temperature), key=lambda cell: cell.guidance)
            axes.errorbar(
                [cell.guidance for cell in line],
                [getattr(cell, key) for cell in line],
                yerr=[cell.reach for cell in line] if key == "right" else None,
                fmt="o-", markersize=4, linewidth=1.4, label=f"temperature {temperature:g}",
            )  # fmt: skip
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="A model's images over guidance and temperature.")
    parser.add_argument("out", type=Path, help="the plot, a .png")
    parser.add_argument("--data", type=Path, required=True, help="the icon set")
    parser.add_argument("--model", default="icons", help="as of bitvar evaluate scenes")
    parser.add_argument("--work", type=Path, required=True, help="folder of the evaluations")
    parser.add_argument("--guidance", type=float, action="append", required=True, help="may be repeated")
    parser.add_argument("--temperature", type=float, action="append", required=True, help="may be repeated")
    parser.add_argument("--limit", type=int, default=8, help="prompts of each skill in each split")
    options = parser.parse_args()
    try:
        if options.out.suffix != ".png":
            raise UsageError(f"Can't write {options.out}.", "the plot is a .png", "name it so")
        pairs = [(g, t) for t in sorted(set(options.temperature)) for g in sorted(set(options.guidance))]
        folders = [evaluate(options, *pair) for pair in pairs]
        distance = perceptual_distance("mobilenet")
        cells = [read_cell(folder, *pair, distance) for folder, pair in zip(folders, pairs, strict=True)]
    except UsageError as error:
        parser.exit(2, f"{error}\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out) as partial:
        draw(cells).savefig(partial, dpi=150, format="png", metadata={"Software": None})
    print(table(cells))  # noqa: T201


if __name__ == "__main__":
    main()
