"""Detection of objects in a small image: a network that finds their centres and boxes. Knows no concepts."""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SIDE: Final = 64
"""Side, in pixels, of the images that the detector takes."""
STRIDE: Final = 4
GRID: Final = SIDE // STRIDE
_WIDTHS: Final = (24, 48, 96, 96)
_SPREAD: Final = 0.14  # of an object's sides: the width of its peak in the map of middles

Boxes = Sequence[tuple[float, float, float, float]]
"""x0, y0, x1, y1 in 0..1, y downwards."""


class Detector(nn.Module):
    """Network that gives, for each of 16 x 16 cells, the logit of an object's centre and the distances to its sides.

    It is a small U-Net: down to 4 x 4 cells, so that every cell sees the whole image, and up again.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third, last = _WIDTHS
        self.stem = nn.Conv2d(3, first, 4, stride=2, padding=1)
        self.to_grid = _layer(first, second, stride=2)
        self.grid = _layer(second, second)
        self.to_coarse = _layer(second, third, stride=2)
        self.coarse = _layer(third, third)
        self.to_coarsest = _layer(third, last, stride=2)
        self.coarsest = nn.Sequential(_layer(last, last), _layer(last, last))
        self.up_coarse = nn.Sequential(nn.Conv2d(third + last, second, 1), _layer(second, second))
        self.up_grid = nn.Sequential(nn.Conv2d(second + second, second, 1), _layer(second, second))
        self.middle = nn.Conv2d(second, 1, 1)
        self.sides = nn.Conv2d(second, 4, 1)

    def forward(
        self, images: Float[Tensor, "b 3 64 64"]
    ) -> tuple[Float[Tensor, "b 16 16"], Float[Tensor, "b 4 16 16"]]:
        """Compute logits of centres, and distances to the left, top, right and bottom side in shares of the image."""
        grid = self.grid(self.to_grid(F.silu(self.stem(images))))
        coarse = self.coarse(self.to_coarse(grid))
        coarsest = self.coarsest(self.to_coarsest(coarse))
        up = self.up_coarse(torch.cat([coarse, F.interpolate(coarsest, scale_factor=2.0)], dim=1))
        up = self.up_grid(torch.cat([grid, F.interpolate(up, scale_factor=2.0)], dim=1))
        return self.middle(up)[:, 0] - 3.0, F.softplus(self.sides(up)) * 0.25


def _layer(width: int, wider: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, wider, 3, stride=stride, padding=1), nn.GroupNorm(8, wider), nn.SiLU(inplace=True)
    )


def cell_centres() -> Float[Tensor, "2 16 16"]:
    """Compute x and y, in 0..1, of the middle of each cell."""
    line = (torch.arange(GRID) + 0.5) / GRID
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))


def targets(boxes: Boxes) -> tuple[Float[Tensor, "16 16"], Float[Tensor, "4 16 16"], Float[Tensor, "16 16"]]:
    """Build the targets: a map of centres, each cell's distances to its object's sides, and their weights.

    The map has a peak of 1 at each object; cells count for the distances where an object's peak is above 0.3.
    """
    x, y = cell_centres()
    middles = torch.zeros(GRID, GRID)
    distances = torch.zeros(4, GRID, GRID)
    for left, top, right, bottom in boxes:
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
        spread_x, spread_y = (max(_SPREAD * side, 0.35 / GRID) for side in (right - left, bottom - top))
        peak = torch.exp(-(((x - centre_x) / spread_x) ** 2 + ((y - centre_y) / spread_y) ** 2) / 2)
        peak[int(min(centre_y, 0.999) * GRID), int(min(centre_x, 0.999) * GRID)] = 1.0
        nearest = peak > middles
        middles = torch.maximum(middles, peak)
        here = torch.stack([x - left, y - top, right - x, bottom - y])
        distances = torch.where(nearest, here, distances)
    return middles, distances, torch.where(middles > 0.3, middles, torch.zeros(()))


def detection_loss(
    outputs: tuple[Float[Tensor, "b 16 16"], Float[Tensor, "b 4 16 16"]],
    middles: Float[Tensor, "b 16 16"],
    distances: Float[Tensor, "b 4 16 16"],
    weights: Float[Tensor, "b 16 16"],
) -> Float[Tensor, ""]:
    """Compute CornerNet's penalty-reduced focal loss (arXiv 1808.01244, eq. 1) for centres, plus L1 for sides."""
    logits, sides = outputs
    peaks = (middles == 1.0).float()
    probability = torch.sigmoid(logits)
    hit = F.logsigmoid(logits) * (1 - probability) ** 2 * peaks
    miss = F.logsigmoid(-logits) * probability**2 * (1 - middles) ** 4 * (1 - peaks)
    num_objects = peaks.sum().clamp(min=1.0)
    error = ((sides - distances).abs().sum(dim=1) * weights).sum() / weights.sum().clamp(min=1.0)
    return -(hit.sum() + miss.sum()) / num_objects + 5.0 * error


def find_objects(
    outputs: tuple[Float[Tensor, "b 16 16"], Float[Tensor, "b 4 16 16"]], *, threshold: float
) -> list[list[tuple[float, tuple[float, float, float, float]]]]:
    """Find the objects of each image, as (confidence, box), by falling confidence, at `threshold` (0..1) or above.

    A cell is an object's centre if no neighbour's logit is higher; if two boxes share half of the smaller one, the more
    confident one stays.
    """
    logits, sides = outputs
    confidence = torch.sigmoid(logits)
    highest = F.max_pool2d(confidence[:, None], 3, stride=1, padding=1)[:, 0]
    peaks = (confidence == highest) & (confidence >= threshold)
    x, y = cell_centres().to(logits.device)
    corners = torch.stack([x - sides[:, 0], y - sides[:, 1], x + sides[:, 2], y + sides[:, 3]], dim=1).clamp(0.0, 1.0)
    images = []
    for index in range(len(logits)):
        rows, columns = torch.nonzero(peaks[index], as_tuple=True)
        candidates = [
            (float(confidence[index, row, column]), _box(corners[index, :, row, column]))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        kept: list[tuple[float, tuple[float, float, float, float]]] = []
        for candidate in sorted(candidates, reverse=True):
            if all(_shared(candidate[1], other) < 0.5 for _, other in kept):
                kept.append(candidate)
        images.append(kept)
    return images


def _box(corners: Float[Tensor, "4"]) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners.tolist()
    return left, top, right, bottom


def _shared(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Compute the share of the smaller box that the other covers."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / max(smaller, 1e-6)
