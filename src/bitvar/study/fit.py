"""Power laws through the losses of runs of different size, and rank correlations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitvar.errors import UsageError

EXPONENTS: Final = np.geomspace(0.02, 2.0, 400)


@dataclass(frozen=True)
class PowerLaw:
    """`L = a + b N^-c`, fitted by least squares.

    Attributes:
        floor, factor, exponent: The coefficients a, b and c.
        worst: Largest distance of a point from the curve.
        ranges: Range of each coefficient when any one point is left out; None for four points or fewer.
    """

    floor: float
    factor: float
    exponent: float
    worst: float
    ranges: tuple[tuple[float, float], ...] | None

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """Evaluate the curve."""
        return self.floor + self.factor * sizes**-self.exponent

    def describe(self, variable: str = "N") -> str:
        """Describe the fit in a sentence."""
        said = f"L = {self.floor:.4f} + {self.factor:.4g} {variable}^-{self.exponent:.3f}, at most {self.worst:.4f} off"
        if self.ranges is None:
            return said + "; four points don't tell how certain"
        names = ("a", "b", "c")
        ranges = (f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in zip(names, self.ranges, strict=True))
        return f"{said}; with any one run left out: {', '.join(ranges)}"


def fit_power_law(sizes: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """Fit by least squares with a >= 0: a and b are exact for each exponent, and the best of a fine list is taken.

    Args:
        sizes: Parameters, samples or operations of each run.
        losses: Loss of each run.

    Raises:
        UsageError: For fewer than four sizes, since three coefficients fit any three points.
    """
    if len(set(sizes)) < 4:
        why = f"there are {len(set(sizes))} sizes, and the curve has three numbers"
        raise UsageError("There is nothing to fit.", why, "give runs of four sizes at least")
    x, y = np.asarray(sizes, dtype=float), np.asarray(losses, dtype=float)
    floor, factor, exponent = _fit(x, y)
    worst = float(np.abs(floor + factor * x**-exponent - y).max())
    ranges = None
    if len(y) > 4:
        kept = [np.arange(len(y)) != i for i in range(len(y))]
        others = np.array([_fit(x[keep], y[keep]) for keep in kept])
        ranges = tuple((float(low), float(high)) for low, high in zip(others.min(0), others.max(0), strict=True))
    return PowerLaw(floor, factor, exponent, worst, ranges)


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


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Compute Spearman's correlation, ties sharing their mean rank; None if either has a single value."""
    x, y = _order_statistics(first), _order_statistics(second)
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _order_statistics(values: Sequence[float]) -> np.ndarray:
    _, group, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return ((last - counts + last - 1) / 2)[group]
