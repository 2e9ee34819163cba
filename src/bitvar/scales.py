"""Scale schedules: the grids that an image is generated on and the position of each token. Knows no bits or models."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from bitvar.errors import UsageError

Grid = tuple[int, int]
"""Rows and columns of cells."""

MAX_SIDE: Final = 1 << 12
"""Maximum rows or columns of a grid: a side of 65,536 pixels in official models."""

MAX_SCALES: Final = 64
"""Maximum number of scales in a schedule."""

MAX_TOKENS: Final = 1 << 22
"""Maximum number of tokens in a schedule. The largest official schedules have 10,521."""


@dataclass(frozen=True)
class ScheduleStep:
    """One step of generation.

    Attributes:
        index: Index in the schedule, from 0.
        grid: Rows and columns of its tokens.
        bits: Number of bits per token.
        sees: Indices of the steps whose tokens it attends to, its own included.
    """

    index: int
    grid: Grid
    bits: int
    sees: tuple[int, ...]


@dataclass(frozen=True)
class ScaleSchedule:
    """Grids of one image, coarse to fine, in transformer tokens.

    Attributes:
        grids: Grid `(h_k, w_k)` of every scale. The first is `(1, 1)`, and neither side ever shrinks.
        reference: Grid that RoPE positions refer to. For every official schedule it is the last grid of the 1M budget
            at the same aspect ratio.
    """

    grids: tuple[Grid, ...]
    reference: Grid

    def __post_init__(self) -> None:
        self._check_bounds()
        if not self.grids or self.grids[0] != (1, 1):
            raise UsageError(
                f"A schedule must begin with the grid (1, 1), got {list(self.grids)}.",
                "the first scale is the single token made from the text",
                "begin the list of grids with [1, 1]",
            )
        for before, after in zip(self.grids, self.grids[1:], strict=False):
            if after[0] < before[0] or after[1] < before[1]:
                raise UsageError(
                    f"A schedule must not shrink, got {before} before {after}.",
                    "every scale refines the one before it",
                    "order the grids from coarse to fine",
                )

    def _check_bounds(self) -> None:
        for what, grid in (*((f"grid {k}", grid) for k, grid in enumerate(self.grids)), ("reference", self.reference)):
            if len(grid) != 2 or not all(1 <= side <= MAX_SIDE for side in grid):
                raise UsageError(
                    f"The {what} of a schedule is {grid}.",
                    f"a grid has two sides, rows and columns, of 1 to {MAX_SIDE:,} tokens",
                    f"use two sides from 1 to {MAX_SIDE:,}",
                )
        tokens = sum(h * w for h, w in self.grids)
        if len(self.grids) > MAX_SCALES or tokens > MAX_TOKENS:
            raise UsageError(
                f"A schedule has {len(self.grids):,} scales and {tokens:,} tokens.",
                f"at most {MAX_SCALES} scales and {MAX_TOKENS:,} tokens are allowed",
                "use fewer or smaller grids",
            )

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, k: int) -> Grid:
        return self.grids[k]

    def __iter__(self) -> Iterator[Grid]:
        return iter(self.grids)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of each scale."""
        return tuple(h * w for h, w in self.grids)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Index of each scale's first token, followed by the total number of tokens."""
        return (0, *accumulate(self.lengths))

    @property
    def num_tokens(self) -> int:
        return self.offsets[-1]

    def steps(self, bits: int) -> tuple["ScheduleStep", ...]:
        """List the steps of generation, coarse to fine. Each scale attends to itself and every coarser one.

        Args:
            bits: Number of bits per token.
        """
        return tuple(ScheduleStep(k, grid, bits, tuple(range(k + 1))) for k, grid in enumerate(self.grids))

    @property
    def cached_tokens(self) -> int:
        """Number of tokens that a later scale attends to: all but the last scale's."""
        return self.offsets[-2]

    def tokens(self, k: int) -> slice:
        """Slice of scale `k` in the sequence of all tokens."""
        return slice(self.offsets[k], self.offsets[k + 1])

    def first(self, num_scales: int | None) -> "ScaleSchedule":
        """Keep the first scales only, at the same positions. None keeps all."""
        return self if num_scales is None else ScaleSchedule(self.grids[:num_scales], self.reference)

    def latent_grids(self, patch_size: int) -> tuple[Grid, ...]:
        """List the grids in tokenizer cells. Each token covers `patch_size` x `patch_size` cells."""
        return tuple((h * patch_size, w * patch_size) for h, w in self.grids)

    def scale_index(self) -> Int[Tensor, " l"]:
        """Return the index of every token's scale."""
        return torch.repeat_interleave(torch.arange(len(self)), torch.tensor(self.lengths))

    def positions(self) -> Int[Tensor, "l 2"]:
        """Compute every token's row and column on the reference grid: `round(i * h_ref / h_k)`, half to even."""
        return torch.cat([_cell_positions(grid, self.reference) for grid in self.grids])


def _cell_positions(grid: Grid, reference: Grid) -> Int[Tensor, "cells 2"]:
    rows, columns = (
        torch.tensor([round(i * whole / count) for i in range(count)])
        for count, whole in zip(grid, reference, strict=True)
    )
    return torch.cartesian_prod(rows, columns).reshape(-1, 2)


def nearest_schedule(
    schedules: Sequence[ScaleSchedule], *, height: int, width: int, stride: int, tolerance: float = 2.0
) -> ScaleSchedule:
    """Find the schedule whose image size is nearest to the requested one: first in aspect ratio, then in area.

    Args:
        schedules: Schedules that a model was trained on.
        height, width: Requested size in pixels.
        stride: Pixels per token side.
        tolerance: Largest factor by which either side may differ from the schedule's. Infinity accepts any difference,
            for an image that is resized afterwards.

    Raises:
        UsageError: If a side is not a positive number, or the nearest schedule differs by more than `tolerance`.
    """
    if not (0 < height < math.inf and 0 < width < math.inf):
        why = "each side must be a positive number of pixels"
        raise UsageError(f"The size {width}x{height} can't be drawn.", why, "give a size like 512x512")
    sizes = [(schedule, schedule[-1][0] * stride, schedule[-1][1] * stride) for schedule in schedules]
    schedule, h, w = min(sizes, key=lambda entry: _distance(entry[1:], (height, width)))
    if not all(1 / tolerance <= got / asked <= tolerance for got, asked in ((h, height), (w, width))):
        known = ", ".join(f"{w}x{h}" for _, h, w in sizes[:8]) + (", ..." if len(sizes) > 8 else "")
        raise UsageError(
            f"The size {width}x{height} is out of this model's range.",
            f"the nearest size it was trained on is {w}x{h}",
            f"choose a size near one of these (width x height): {known}",
        )
    return schedule


def schedule_of_ratio(schedules: Sequence[ScaleSchedule], ratio: float) -> int:
    """Index of the schedule whose last grid is nearest in height / width. The largest wins a tie."""
    lasts = [schedule[-1] for schedule in schedules]
    return max(nearest_in_ratio(lasts, ratio), key=lambda which: (math.prod(lasts[which]), -which))


def code_norms_of(code_norms: Sequence[float], num_scales: int) -> tuple[float, ...]:
    """List the norm of the codes at each scale of a schedule.

    Norms are aligned at the finest scale. Scales without one of their own use the first norm.

    Args:
        code_norms: Norms of a tokenizer's codes, coarse to fine.
        num_scales: Number of scales in the whole schedule, even if encoding or generation stops earlier.
    """
    behind = len(code_norms) - num_scales
    return tuple(code_norms[max(0, behind + k)] for k in range(num_scales))


def nearest_in_ratio(lasts: Sequence[Grid], ratio: float) -> list[int]:
    """Indices of the grids nearest in height / width: one, or several of different sizes."""
    distances = [round(abs(math.log(h / w / ratio)), 2) for h, w in lasts]
    return [which for which, distance in enumerate(distances) if distance == min(distances)]


def _distance(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float]:
    """Distance between two sizes (height, width): first in aspect ratio, then in area."""
    (h, w), (height, width) = size, wanted
    ratio = abs(math.log2(h / w) - math.log2(height / width))
    return round(ratio, 3), abs(math.log2(h * w / (height * width)))


def fitted_grids(last: Grid, known: Sequence[Sequence[Grid]] = ()) -> tuple[Grid, ...]:
    """Choose grids for an image of any size: the known list nearest in ratio, then in area, stretched to end at `last`.

    A list that ends at `last` is returned unchanged. Otherwise every grid is scaled by the same factors as the last
    one and rounded up, equal neighbours are merged, and halved grids are prepended until the first is (1, 1). Without a
    known list, `last` is halved down to (1, 1).

    Args:
        last: Rows and columns of the image's finest grid.
        known: Grids of known schedules, coarse to fine, in the same unit as `last`.
    """
    nearest = min(known, key=lambda grids: _distance(grids[-1], last), default=(last,))
    h, w = nearest[-1]
    if known and (h, w) == last:
        return tuple(nearest)
    grids = list(dict.fromkeys((-(-i * last[0] // h), -(-j * last[1] // w)) for i, j in nearest))
    while grids[0] != (1, 1):
        grids.insert(0, (-(-grids[0][0] // 2), -(-grids[0][1] // 2)))
    return tuple(grids)
