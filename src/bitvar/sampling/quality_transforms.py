"""Functions of one scale's log-odds that trade likelihood for diversity or detail. They know no model and no prompt.

Each is a pure function, and a `steering.LogitsTransform` around it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.bits import to_cells, to_tokens
from bitvar.sampling.params import ScaleParams
from bitvar.sampling.quality import QualityOptions, spread
from bitvar.sampling.steering import CERTAIN, LogitsTransform, from_margins, margins
from bitvar.scales import Grid, ScaleSchedule

MAX_FACTOR: Final = 8.0
"""Largest factor by which a scale is drawn hotter."""

_STEPS: Final = 20
_FORCED: Final = CERTAIN / 2  # log-odds from which a bit was forced (`steering.force_bits`): it is left as it is


def quality_transforms(
    options: QualityOptions, schedule: ScaleSchedule, params: Sequence[ScaleParams], *, patch_size: int
) -> tuple[LogitsTransform, ...]:
    """Make the transforms of options, in the order in which they apply.

    Args:
        options: Options.
        schedule: Grids that are generated.
        params: Settings of each scale.
        patch_size: Cells a side of a token.
    """
    transforms: list[LogitsTransform] = []
    if options.spatial_guidance is not None:
        strengths = spread(options.spatial_guidance, len(schedule))
        transforms.append(SpatialGuidance(strengths, tuple(schedule.grids), patch_size))
    if options.confidence is not None:
        targets = spread(options.confidence, len(schedule))
        greedy = [scale.top_k == 1 for scale in params]
        temperatures = [0.0 if certain else scale.temperature for certain, scale in zip(greedy, params, strict=True)]
        transforms.append(AdaptiveTemperature(targets, tuple(temperatures)))
    return tuple(transforms)


def mean_confidence(log_odds: Float[Tensor, "b l d"], weights: Float[Tensor, "b l d"]) -> Float[Tensor, "b 1 1"]:
    """Compute the mean over bits of the likelier value's probability.

    Args:
        log_odds: Log-odds of each bit.
        weights: 1 for the bits that count, 0 for the others.
    """
    confidence = torch.sigmoid(log_odds.abs()) * weights
    total = weights.flatten(1).sum(dim=1).clamp(min=1)
    return (confidence.flatten(1).sum(dim=1) / total)[:, None, None]


def factor_for_confidence(log_odds: Float[Tensor, "b l d"], target: float) -> Float[Tensor, "b 1 1"]:
    """Find the factor by which the temperature rises so that the mean confidence falls to a target (DiverseAR).

    Args:
        log_odds: Log-odds of each bit at the temperature of the draw. Bits that were forced don't count.
        target: Mean confidence, above 0.5.

    Returns:
        The factor of each image, from 1, where its confidence is below the target as it is, to `MAX_FACTOR`.
    """
    weights = (log_odds.abs() < _FORCED).float()
    low = torch.ones(len(log_odds), 1, 1, device=log_odds.device)
    high = low * MAX_FACTOR
    for _ in range(_STEPS):
        middle = (low + high) / 2
        too_certain = mean_confidence(log_odds / middle, weights) > target
        low, high = torch.where(too_certain, middle, low), torch.where(too_certain, high, middle)
    return torch.where(mean_confidence(log_odds, weights) > target, high, torch.ones_like(high))


@dataclass(frozen=True)
class AdaptiveTemperature:
    """Draws a scale hotter whose bits are too certain on average, each image by its own factor (DiverseAR).

    The confidence is that of the draw: after guidance, and at the scale's own temperature. Implements
    `steering.LogitsTransform`.

    Attributes:
        targets: Most mean confidence of each scale; 1 leaves a scale as it is.
        temperatures: Temperature of each scale; 0 is a greedy one, which stays so.
    """

    targets: Sequence[float]
    temperatures: Sequence[float]

    def transform(self, k: int, logits: Float[Tensor, "b l d 2"]) -> Float[Tensor, "b l d 2"]:
        if self.targets[k] >= 1 or self.temperatures[k] == 0:
            return logits
        log_odds = margins(logits)
        factor = factor_for_confidence(log_odds / self.temperatures[k], self.targets[k])
        return from_margins(torch.where(log_odds.abs() < _FORCED, log_odds / factor, log_odds))

    def image(self, index: int) -> "AdaptiveTemperature":
        return self


def enlarge_spectrum(cells: Float[Tensor, "b d h w"], grid: Grid) -> Float[Tensor, "b d H W"]:
    """Resize to a grid by the coefficients of the discrete cosine transform, those that are missing being zero."""
    rows, columns = (_resize_matrix(old, new, cells.device) for old, new in zip(cells.shape[-2:], grid, strict=True))
    return rows @ cells @ columns.T


def _cosines(size: int, count: int) -> Tensor:
    """The first `count` rows of the orthonormal DCT-II matrix of a size."""
    k, n = torch.arange(count, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * (n + 0.5) * k) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def _resize_matrix(old: int, new: int, device: torch.device) -> Tensor:
    kept = min(old, new)
    return (_cosines(new, kept).T @ _cosines(old, kept) * math.sqrt(new / old)).float().to(device)


def push_from_prior(
    log_odds: Float[Tensor, "b d h w"], prior: Float[Tensor, "b d h w"], strength: float
) -> Float[Tensor, "b d h w"]:
    """Push log-odds away from a prior: `l + strength (l - prior)`, each bit for itself."""
    return log_odds + strength * (log_odds - prior)


@dataclass
class SpatialGuidance:
    """Pushes each scale's log-odds away from those of the scale before it, enlarged (scaled spatial guidance, SSG).

    What a scale adds to the one before is thereby stressed; it takes no further pass of the model. The scale before
    enters as the model computed it, without this push. Implements `steering.LogitsTransform`.

    Attributes:
        strengths: Strength at each scale; the first one's has no effect.
        grids: Token grid of each scale.
        patch_size: Cells a side of a token.
    """

    strengths: Sequence[float]
    grids: Sequence[Grid]
    patch_size: int
    _before: tuple[int, Tensor] | None = field(default=None, init=False, repr=False)

    def transform(self, k: int, logits: Float[Tensor, "b l d 2"]) -> Float[Tensor, "b l d 2"]:
        before, self._before = self._before, None
        if not any(self.strengths[k : k + 2]):
            return logits
        log_odds = margins(logits)
        cells = to_cells(log_odds, self.grids[k], self.patch_size)
        free = cells.abs() < _FORCED
        if any(self.strengths[k + 1 : k + 2]):
            self._before = (k, torch.where(free, cells, 0.0))
        if before is None or before[0] != k - 1 or not self.strengths[k]:
            return logits
        rows, columns = cells.shape[-2:]
        pushed = push_from_prior(cells, enlarge_spectrum(before[1], (rows, columns)), self.strengths[k])
        return from_margins(to_tokens(torch.where(free, pushed, cells), self.patch_size))

    def image(self, index: int) -> "SpatialGuidance":
        return SpatialGuidance(self.strengths, self.grids, self.patch_size)
