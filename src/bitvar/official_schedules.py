"""The published schedules (Han et al., arXiv 2412.04431): the only table of aspect ratios in the project."""

import math
from collections.abc import Sequence
from typing import Final

from bitvar.errors import UsageError
from bitvar.scales import ScaleSchedule

OFFICIAL_STRIDE: Final = 16
"""Pixels per token side in every official model (the stride-8 tokenizer is read in 2x2 patches)."""

BUDGETS: Final[dict[str, int]] = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Pixel budget -> how many grids of the table it uses."""

SQUARES: Final[dict[int, str]] = {256: "0.06M", 512: "0.25M", 1024: "1M"}
"""Pixels of a square image's side -> pixel budget, for those that the paper trains on."""

_SIDES: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "1.0": ((1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64), (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)),
    "1.25": ((1, 2, 3, 5, 10, 15, 20, 25, 30, 35, 45, 55, 70), (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 36, 44, 56)),
    "1.333": ((1, 2, 4, 8, 12, 16, 20, 24, 28, 36, 48, 60, 72), (1, 2, 3, 6, 9, 12, 15, 18, 21, 27, 36, 45, 54)),
    "1.5": ((1, 2, 3, 6, 9, 15, 21, 27, 33, 39, 48, 63, 78), (1, 2, 2, 4, 6, 10, 14, 18, 22, 26, 32, 42, 52)),
    "1.75": ((1, 2, 3, 7, 11, 14, 21, 28, 35, 42, 56, 70, 84), (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48)),
    "2.0": ((1, 2, 4, 6, 10, 16, 22, 30, 38, 46, 60, 74, 90), (1, 2, 2, 3, 5, 8, 11, 15, 19, 23, 30, 37, 45)),
    "2.5": ((1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 65, 80, 100), (1, 2, 2, 4, 6, 8, 10, 12, 16, 20, 26, 32, 40)),
    "3.0": ((1, 2, 6, 9, 15, 21, 27, 36, 45, 54, 72, 90, 111), (1, 2, 2, 3, 5, 7, 9, 12, 15, 18, 24, 30, 37)),
}
_WIDE: Final[dict[str, str]] = {
    "0.8": "1.25", "0.75": "1.333", "0.666": "1.5", "0.571": "1.75", "0.5": "2.0", "0.4": "2.5", "0.333": "3.0",
}  # fmt: skip


def ratio_names() -> tuple[str, ...]:
    """List every official aspect ratio (height / width), as the official files name them."""
    return (*_SIDES, *_WIDE)


def nearest_ratio(ratio: float) -> str:
    """Find the name of the official ratio nearest to an image's height / width."""
    return min(ratio_names(), key=lambda name: abs(math.log2(ratio / float(name))))


def official_schedule(ratio: str, budget: str) -> ScaleSchedule:
    """Look up the official schedule of one ratio and pixel budget.

    Args:
        ratio: Aspect ratio, height / width: one of `ratio_names()`.
        budget: Pixel budget: one of `BUDGETS`.
    """
    for value, choices, name in ((ratio, ratio_names(), "ratio"), (budget, tuple(BUDGETS), "pixel budget")):
        if value not in choices:
            raise UsageError(
                f"Unknown {name} {value!r}.", "the table has none of that name", f"choose from {list(choices)}"
            )
    rows, columns = _SIDES[ratio] if ratio in _SIDES else _SIDES[_WIDE[ratio]][::-1]
    grids = tuple(zip(rows, columns, strict=True))
    return ScaleSchedule(grids=grids[: BUDGETS[budget]], reference=grids[-1])


def official_schedules(budgets: Sequence[str]) -> list[ScaleSchedule]:
    """List every schedule of the given budgets, budget by budget."""
    return [official_schedule(ratio, budget) for budget in budgets for ratio in ratio_names()]
