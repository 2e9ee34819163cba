r"""Measure the cost of a head: two logits a bit against 2^d classes, in parameters, memory and time of a step.

python experiments/head_memory.py docs/images/head-memory.png

A step is the head alone on the same hidden vectors: logits, cross-entropy, gradients to weights and vectors, AdamW.
The vectors are those of 16 images of 85 tokens, of width 256 by default.

Every point is a fresh process of one thread, measured by its peak resident memory above that after a step of a tiny
head. Linux only. Writes the plot and, beside it, a JSON file of the same name; prints the table. About
a minute on one CPU core; the index head of 16 bits needs some two gigabytes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from runpy import run_path
from typing import Any, Final

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from bitvar.errors import UsageError
from bitvar.files import atomic_path, write_text
from bitvar.transformer import bit_losses

TOKENS: Final = 16 * 85
WIDTH: Final = 256
BITS: Final = {"bitwise": (8, 10, 12, 14, 16, 32, 64), "index": (8, 10, 12, 14, 16)}
COLOURS: Final = {"bitwise": "#2563eb", "index": "#c2410c"}
_MEMORY: Final[dict[str, Any]] = run_path(str(Path(__file__).parent / "vocabulary" / "memory.py"))
memory_of: Final[Callable[[str], int]] = _MEMORY["memory_of"]
readable: Final[Callable[[float], str]] = _MEMORY["readable"]


@dataclass(frozen=True)
class Point:
    """One head at one number of bits.

    Attributes:
        parameters: Number of weights and biases.
        memory: Bytes at the peak of a step, including weights and AdamW's averages.
        seconds: Time of the step.
    """

    head: str
    bits: int
    parameters: int
    memory: int
    seconds: float


def outputs(head: str, bits: int) -> int:
    """Compute the number of outputs of a head."""
    return 2 * bits if head == "bitwise" else 2**bits


def step(head: str, bits: int, *, tokens: int, width: int) -> None:
    """Make a head and train it for one step."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, tokens, width, generator=generator).requires_grad_()
    target = torch.rand(1, tokens, bits, generator=generator) > 0.5
    layer = torch.nn.Linear(width, outputs(head, bits))
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    logits = layer(hidden)
    if head == "bitwise":
        loss = bit_losses(logits.unflatten(-1, (bits, 2)), target).mean()
    else:
        loss = F.cross_entropy(logits[0], (target[0].long() << torch.arange(bits)).sum(-1))
    loss.backward()
    optimizer.step()


def measure_here(head: str, bits: int, tokens: int, width: int) -> dict[str, float]:
    """Measure this process's peak in bytes, and the seconds of a step."""
    torch.set_num_threads(1)
    for _ in range(2):
        step(head, 2, tokens=16, width=8)  # loads what is loaded on first use
    # Not getrusage: its peak is that of the parent too, and can't be set back.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = memory_of("VmRSS"), time.perf_counter()
    step(head, bits, tokens=tokens, width=width)
    return {"memory": memory_of("VmHWM") - before, "seconds": time.perf_counter() - start}


def measure(head: str, bits: int, *, tokens: int = TOKENS, width: int = WIDTH) -> Point:
    """Measure one point in a process of its own.

    Raises:
        UsageError: if the process fails, for example out of memory.
    """
    point = [head, *map(str, (bits, tokens, width))]
    # With a fixed threshold every tensor is mapped, and given back, on its own: nothing hides in the heap.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--point", *point]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        why = done.stderr.strip()[-500:] or f"it ended with {done.returncode}"
        raise UsageError(f"The {head} head of {bits} bits can't be measured.", why, "give fewer --tokens")
    return Point(head, bits, (width + 1) * outputs(head, bits), **json.loads(done.stdout))


def table(points: Sequence[Point]) -> str:
    """Write the points as a Markdown table, a row for every number of bits."""
    lines = [
        "| bits | bitwise: parameters | memory | seconds | index: parameters | memory | seconds |",
        "|" + "---|" * 7,
    ]
    cells = {(point.head, point.bits): point for point in points}
    for bits in sorted({point.bits for point in points}):
        row = " | ".join(describe(cells.get((head, bits))) for head in BITS)
        lines.append(f"| {bits} | {row} |")
    return "\n".join(lines)


def describe(point: Point | None) -> str:
    """Write three cells of the table."""
    if point is None:
        return " |  | "
    return f"{point.parameters:,} | {readable(point.memory)} | {point.seconds:.2g}"


def draw(points: Sequence[Point]) -> Figure:
    """Draw parameters and peak memory against the bits of a token, on logarithmic axes."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    both = figure.subplots(1, 2, sharex=True)
    titles = ("Parameters of the head", "Peak memory of a step, MiB")
    for axes, title in zip(both, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("bits of a token")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    for head, colour in COLOURS.items():
        line = [point for point in points if point.head == head]
        bits = [point.bits for point in line]
        both[0].plot(bits, [point.parameters for point in line], "o-", color=colour, markersize=4, label=head)
        both[1].plot(bits, [point.memory / 2**20 for point in line], "o-", color=colour, markersize=4, label=head)
    ticks = sorted({point.bits for point in points})
    both[0].set_xticks(ticks, [str(at) for at in ticks])
    both[0].minorticks_off()
    both[0].legend(frameon=False, labelcolor="linecolor", handlelength=1)
    return figure


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="A head's parameters and memory against the bits of a token.")
    parser.add_argument("out", type=Path, nargs="?", help="the plot, a .png")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="hidden vectors of a step")
    parser.add_argument("--width", type=int, default=WIDTH, help="channels of each")
    parser.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point is not None:
        head, *numbers = options.point
        print(json.dumps(measure_here(head, *map(int, numbers))))  # noqa: T201
        return
    if options.out is None or options.out.suffix != ".png" or min(options.tokens, options.width) < 1:
        parser.error("give a .png to write, and at least one token of one channel")
    try:
        points = [
            measure(head, bits, tokens=options.tokens, width=options.width) for head in BITS for bits in BITS[head]
        ]
    except UsageError as error:
        parser.exit(2, f"{error}\n")
    report = {
        "format": 1,
        "tokens": options.tokens,
        "width": options.width,
        "torch": torch.__version__,
        "points": [asdict(point) for point in points],
    }
    write_text(options.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    with atomic_path(options.out) as partial:
        draw(points).savefig(partial, dpi=150, format="png", metadata={"Software": None})
    print(table(points))  # noqa: T201


if __name__ == "__main__":
    main()
