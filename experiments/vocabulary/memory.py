r"""Measure the memory of a quantiser's entropy term against the bits of a cell: why the vocabulary can be 2^64.

python experiments/vocabulary/memory.py docs/images/quantizer-memory.png

Two quantisers, forward and backward on the same vectors: this package's (BSQ), whose entropy factorises over the bits,
and a lookup-free one (Yu et al., arXiv 2310.05737) with the entropy over its whole codebook, which assigns every vector
softly to all 2^d codes. Codes, sphere and temperature are the same, so only the entropy differs.

Every point is a fresh process of one thread, measured by its peak resident memory above that after a run on 16
vectors. Its address space is limited, so that a point over the budget fails without exhausting the machine. Linux only.
Writes the plot and, beside it, a JSON file of the same name; prints the table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from bitvar.bits import bits_to_codes, quantize, straight_through
from bitvar.errors import UsageError, explain
from bitvar.files import atomic_path, write_text
from bitvar.tokenizer.losses import EntropyTerms, bit_entropy

VECTORS: Final = 4096
BUDGET_GIB: Final = 8.0
FACTORISED_BITS: Final = (8, 10, 12, 14, 16, 18, 32, 64, 128)
FULL_BITS: Final = (8, 10, 12, 14, 15, 16, 17, 18, 19, 20)
"""Numbers of bits to try, until one doesn't fit."""
BEYOND: Final = (32, 64)
"""Numbers of bits whose memory is only extrapolated."""
SHARPNESS: Final = 20.0
GIB: Final = 2**30
COLOURS: Final = {"BSQ": "#2563eb", "lookup-free": "#c2410c"}


@dataclass(frozen=True)
class Point:
    """One quantiser at one number of bits.

    Attributes:
        memory: Peak in bytes; if it doesn't fit, that of the largest that fits, doubled with every bit.
        seconds: Time of forward and backward; None if it doesn't fit.
    """

    quantizer: str
    bits: int
    memory: int
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Whether the point fits, and was measured."""
        return self.seconds is not None


def full_entropy(residual: Float[Tensor, "b d h w"], *, inverse_temperature: float = 1.0) -> EntropyTerms:
    """Compute the terms of `bit_entropy` over whole codes, O(2^d), as shares of d ln 2, the entropy of d even bits."""
    bits = residual.shape[1]
    vectors = F.normalize(residual.float(), dim=1).movedim(1, -1).reshape(-1, bits)
    numbers = torch.arange(2**bits)[:, None] >> torch.arange(bits)
    codes = ((numbers & 1) * 2.0 - 1) * bits**-0.5
    log_assignment = (2 * inverse_temperature * vectors @ codes.T).log_softmax(dim=1)
    assignment = log_assignment.exp()
    mean = assignment.mean(dim=0)
    unit = bits * torch.tensor(2.0).log()
    per_sample = -(assignment * log_assignment).sum(dim=1).mean() / unit
    return EntropyTerms(per_sample, -(mean * mean.clamp_min(1e-30).log()).sum() / unit)


ENTROPIES: Final[dict[str, Callable[..., EntropyTerms]]] = {"BSQ": bit_entropy, "lookup-free": full_entropy}


def step(quantizer: str, bits: int, vectors: int) -> None:
    """Quantise vectors, compute the entropy penalty, and backpropagate."""
    residual = torch.randn(1, bits, vectors, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    codes = straight_through(bits_to_codes(quantize(residual)), residual)
    terms = ENTROPIES[quantizer](residual, inverse_temperature=SHARPNESS)
    (codes.square().mean() + terms.per_sample - terms.of_mean).backward()


def measure_here(quantizer: str, bits: int, vectors: int, budget: int) -> dict[str, float | None]:
    """Measure this process's peak in bytes and the seconds of a step; None for both if it exceeds the budget."""
    torch.set_num_threads(1)
    for _ in range(2):
        step(quantizer, 2, 16)  # loads what is loaded on first use
    limit = memory_of("VmSize") + budget
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Not getrusage: its peak is that of the parent too, and can't be set back.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = memory_of("VmRSS"), time.perf_counter()
    try:
        step(quantizer, bits, vectors)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        return {"memory": None, "seconds": None}
    return {"memory": memory_of("VmHWM") - before, "seconds": time.perf_counter() - start}


def memory_of(field: str) -> int:
    """Read a size of this process, in bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(quantizer: str, bits: int, *, vectors: int = VECTORS, budget: int) -> Point | None:
    """Measure one point in a process of its own; None if it doesn't fit.

    Raises:
        RuntimeError: if the process fails in another way.
    """
    point = [quantizer, str(bits), str(vectors), str(budget)]
    # With a fixed threshold every tensor is mapped, and given back, on its own: nothing hides in the heap.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, __file__, "--point", *point], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        why = done.stderr.strip()[-500:] or f"it ended with {done.returncode}"
        raise RuntimeError(
            explain(f"{quantizer} at {bits} bits can't be measured.", why, "free some memory, or report it")
        )
    found = json.loads(done.stdout)
    return None if found["memory"] is None else Point(quantizer, bits, found["memory"], found["seconds"])


def measure_all(budget: int, vectors: int) -> list[Point]:
    """Measure every point of the table.

    Raises:
        UsageError: if the budget is too small for BSQ, or for the lookup-free quantiser at its fewest bits.
    """
    points: list[Point] = []
    for quantizer, tried in (("BSQ", FACTORISED_BITS), ("lookup-free", FULL_BITS)):
        for bits in tried:
            point = measure(quantizer, bits, vectors=vectors, budget=budget)
            if point is None:
                break
            points.append(point)
        else:
            continue
        if quantizer == "BSQ" or bits == tried[0]:
            why = f"{quantizer} at {bits} bits does not fit"
            raise UsageError(f"A budget of {readable(budget)} shows nothing.", why, "give a larger --budget")
        largest = points[-1]
        for at in (bits, *(at for at in BEYOND if at > bits)):
            points.append(Point(quantizer, at, largest.memory * 2 ** (at - largest.bits), None))
    return points


def table(points: Sequence[Point]) -> str:
    """Write the points as a Markdown table, a row for every number of bits."""
    lines = ["| bits of a cell | codes | BSQ | lookup-free, full codebook |", "|---|---|---|---|"]
    cells = {(point.quantizer, point.bits): describe(point) for point in points}
    for bits in sorted({point.bits for point in points}):
        row = " | ".join(cells.get((quantizer, bits), "") for quantizer in COLOURS)
        lines.append(f"| {bits} | 2^{bits} | {row} |")
    return "\n".join(lines)


def describe(point: Point) -> str:
    """Write a cell of the table."""
    if point.seconds is None:
        return f"does not fit: would need {readable(point.memory)}"
    return f"{readable(point.memory)}, {point.seconds:.2g} s"


def readable(size: float) -> str:
    """Write a number of bytes in the unit that leaves a number below 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.3g} YiB"


def draw(points: Sequence[Point], budget: int) -> Figure:
    """Draw peak memory against the bits of a cell, both on logarithmic axes."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    labels = {"BSQ": "BSQ, factorised entropy", "lookup-free": "lookup-free, entropy of the whole codebook"}
    for name, colour in COLOURS.items():
        fitting = [point for point in points if point.quantizer == name and point.fits]
        bits, sizes = [point.bits for point in fitting], [point.memory / 2**20 for point in fitting]
        axes.plot(bits, sizes, "o-", color=colour, markersize=4, linewidth=1.6)
        middle = len(bits) // 2
        axes.annotate(labels[name], (bits[middle], sizes[middle]), (12, -12), textcoords="offset points", color=colour)
        over = next((point for point in points if point.quantizer == name and not point.fits), None)
        if over is not None:
            needs = over.memory / 2**20
            axes.plot([bits[-1], over.bits], [sizes[-1], needs], ":", color=colour, linewidth=1.6)
            axes.plot(over.bits, needs, "o", markerfacecolor="white", markeredgecolor=colour, markersize=5)
            said = f"{over.bits} bits do not fit: {readable(over.memory)}"
            axes.annotate(said, (over.bits, needs), (9, 0), textcoords="offset points", va="center", color=colour)
    axes.axhline(budget / 2**20, color="#666666", linewidth=0.8, linestyle="--")
    most = max(point.bits for point in points if point.fits)
    axes.annotate(
        f"budget, {readable(budget)}",
        (most, budget / 2**20),
        (0, -9),
        textcoords="offset points",
        ha="right",
        color="#666666",
    )
    axes.set_xticks([8, 16, 32, 64, 128], ["8", "16", "32", "64", "128"])
    axes.set_yticks([1, 32, 1024, 32768], ["1 MiB", "32 MiB", "1 GiB", "32 GiB"])
    axes.minorticks_off()
    axes.set_xlabel("bits of a cell")
    axes.set_title("Peak memory of quantiser and entropy, forward and backward", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="A quantiser's memory against the bits of a cell.")
    parser.add_argument("out", type=Path, nargs="?", help="the plot, a .png")
    parser.add_argument("--budget", type=float, default=BUDGET_GIB, help="GiB that a point may take")
    parser.add_argument("--vectors", type=int, default=VECTORS)
    parser.add_argument("--point", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point is not None:
        quantizer, *numbers = options.point
        print(json.dumps(measure_here(quantizer, *map(int, numbers))))  # noqa: T201
        return
    if options.out is None or options.out.suffix != ".png" or options.budget <= 0 or options.vectors < 1:
        parser.error("give a .png to write, a budget above 0, and at least one vector")
    budget = round(options.budget * GIB)
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        if budget > available:
            why = f"this machine has {readable(available)} free"
            raise UsageError(f"A budget of {readable(budget)} is too much.", why, "give a smaller --budget")
        points = measure_all(budget, options.vectors)
    except UsageError as error:
        parser.exit(2, f"{error}\n")
    report = {
        "format": 1,
        "vectors": options.vectors,
        "budget": budget,
        "torch": torch.__version__,
        "points": [{**asdict(point), "fits": point.fits} for point in points],
    }
    write_text(options.out.with_suffix(".json"), json.dumps(report, indent=1) + "\n")
    with atomic_path(options.out) as partial:
        draw(points, budget).savefig(partial, dpi=150, format="png", metadata={"Software": None})
    print(table(points))  # noqa: T201


if __name__ == "__main__":
    main()
