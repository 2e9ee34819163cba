"""What each object is: cut out of a picture, seen through a frozen network, read by linear heads. Finds no objects."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitvar.data.icons.concepts import BACKGROUNDS, COLOURS, CONCEPTS
from bitvar.data.icons.sources import ARTISTS
from bitvar.evaluation.scenes.sight import OWN_COLOUR
from bitvar.metrics.efficientnet import HEAD_CHANNELS, STAGE_CHANNELS, EfficientNet

CROP_SIDE: Final = 128
"""Pixels a side of the cut-outs that the network sees."""

CONCEPT_NAMES: Final = tuple(concept.name for concept in CONCEPTS)
COLOUR_NAMES: Final = (*COLOURS, OWN_COLOUR)
STYLE_NAMES: Final = tuple(artist.key for artist in ARTISTS)
BACKGROUND_NAMES: Final = tuple(BACKGROUNDS)

_CONTEXT: Final = 1.12  # a cut-out's side by the object's longer side
_FRAME: Final = 0.06  # of a cut-out's side: what is kept around the object's box
_TEXTURE_STAGE, _TEXTURE_CELLS = 4, 3
_SHAPE_STAGE, _SHAPE_CELLS = 6, 2
NUM_FEATURES: Final = (
    HEAD_CHANNELS + STAGE_CHANNELS[_SHAPE_STAGE] * _SHAPE_CELLS**2 + STAGE_CHANNELS[_TEXTURE_STAGE] * _TEXTURE_CELLS**2
)
_PAINT_BINS: Final = 6
NUM_PAINTS: Final = _PAINT_BINS**3
_PAINT_SIDE: Final = 32
_PAINT_DISTANCE: Final = 0.16  # from the background, in [-1, 1] RGB, from which a pixel is the object's
_BACKGROUND_DISTANCE: Final = 45.0  # of RGB 0..255: within it a pixel may have a background's colour
_SMALLEST_OUTSIDE: Final = 0.04  # of the picture


class Reading(NamedTuple):
    """Logits for `n` objects; styles by the fold of concepts that the head was trained without."""

    concepts: Float[Tensor, "n 154"]
    """Of each concept, and last of none of them."""
    colours: Float[Tensor, "n 9"]
    styles: Float[Tensor, "n 2 4"]


class Reader(nn.Module):
    """Linear heads on standardised features; the colours' head also sees which paints the object has.

    Style is read by two heads: each was trained on half of the concepts and reads the other half.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_FEATURES))
        self.register_buffer("deviation", torch.ones(NUM_FEATURES))
        self.concepts = nn.Linear(NUM_FEATURES, len(CONCEPT_NAMES) + 1)
        self.colours = PaintHead()
        self.styles = nn.Linear(NUM_FEATURES, 2 * len(STYLE_NAMES))

    def forward(self, features: Float[Tensor, "n f"], paints: Float[Tensor, "n p"]) -> Reading:
        """Logits, of what `object_features` and `object_paints` give."""
        x = (features - self.mean) / self.deviation
        return Reading(self.concepts(x), self.colours(paints), self.styles(x).unflatten(1, (2, -1)))


class PaintHead(nn.Module):
    """The colour of an object from its paints alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(NUM_PAINTS, 96)
        self.outer = nn.Linear(96, len(COLOUR_NAMES))

    def forward(self, paints: Float[Tensor, "n p"]) -> Float[Tensor, "n 9"]:
        return self.outer(F.silu(self.inner(4.0 * paints.sqrt())))


def concept_fold(concept: str) -> int:
    """Which of the two halves of the concepts this one is in: 0 or 1, the same on every machine."""
    return sum(concept.encode()) % 2


def outside_boxes(
    image: Float[Tensor, "3 H W"], boxes: Sequence[tuple[float, float, float, float]]
) -> Float[Tensor, "3 n"]:
    """The pixels two 64ths or more away from all boxes, or a frame two wide where boxes leave almost nothing."""
    height, width = image.shape[-2:]
    y = ((torch.arange(height, device=image.device) + 0.5) / height)[:, None]
    x = ((torch.arange(width, device=image.device) + 0.5) / width)[None]
    outside = torch.ones(height, width, dtype=torch.bool, device=image.device)
    margin = 2 / 64
    for left, top, right, bottom in boxes:
        outside &= ~((x > left - margin) & (x < right + margin) & (y > top - margin) & (y < bottom + margin))
    if float(outside.float().mean()) < _SMALLEST_OUTSIDE:
        outside = (x < margin) | (x > 1 - margin) | (y < margin) | (y > 1 - margin)
    return image[:, outside]


def background_shares(pixels: Float[Tensor, "3 n"]) -> dict[str, float]:
    """For each background colour the share (0..1) of the pixels, RGB in [-1, 1], that are near it and nearest to it."""
    palette = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32, device=pixels.device)
    distances = torch.cdist((pixels.T + 1) * 127.5, palette)
    nearest = torch.where(distances.amin(dim=1) < _BACKGROUND_DISTANCE, distances.argmin(dim=1), len(palette))
    counts = torch.bincount(nearest, minlength=len(palette) + 1)[: len(palette)]
    return dict(zip(BACKGROUND_NAMES, (counts / max(len(nearest), 1)).tolist(), strict=True))


def cut_out(
    images: Float[Tensor, "b 3 H W"],
    owners: Int[Tensor, "n"],
    boxes: Float[Tensor, "n 4"],
    backgrounds: Float[Tensor, "b 3"],
) -> Float[Tensor, "n 3 128 128"]:
    """Each object in a square, what lies beside its box painted in the picture's background.

    Args:
        images: in [-1, 1].
        owners: the picture that each box is on.
        boxes: x0, y0, x1, y1 in 0..1.
        backgrounds: the colour of each picture's background, in [-1, 1].
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    half = (sides.amax(dim=1) * _CONTEXT / 2).clamp(min=0.02)
    line = (torch.arange(CROP_SIDE, device=images.device) + 0.5) / CROP_SIDE * 2 - 1
    x = middle[:, 0, None] + half[:, None] * line
    y = middle[:, 1, None] + half[:, None] * line
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1) * 2 - 1
    crops = F.grid_sample(images[owners], grid, mode="bilinear", padding_mode="border", align_corners=False)
    frame = (half * 2 * _FRAME)[:, None]
    across = (x > boxes[:, 0, None] - frame) & (x < boxes[:, 2, None] + frame) & (x > 0) & (x < 1)
    down = (y > boxes[:, 1, None] - frame) & (y < boxes[:, 3, None] + frame) & (y > 0) & (y < 1)
    inside = (across[:, None, :] & down[:, :, None])[:, None]
    return torch.where(inside, crops, backgrounds[owners][:, :, None, None])


def object_features(network: EfficientNet, crops: Float[Tensor, "n 3 128 128"]) -> Float[Tensor, "n f"]:
    """What the network sees: the mean of its head, 2 x 2 means of its last stage, 3 x 3 of one at stride 16."""
    maps = network.stages(crops)
    last = maps[_SHAPE_STAGE]
    parts = [
        network.head(last).mean(dim=(2, 3)),
        F.adaptive_avg_pool2d(last, _SHAPE_CELLS).flatten(1),
        F.adaptive_avg_pool2d(maps[_TEXTURE_STAGE], _TEXTURE_CELLS).flatten(1),
    ]
    return torch.cat(parts, dim=1)


def object_paints(crops: Float[Tensor, "n 3 128 128"], backgrounds: Float[Tensor, "n 3"]) -> Float[Tensor, "n p"]:
    """A histogram of the object's RGB colours, six soft bins an axis, which adds up to 1.

    Pixels of the background's colour (in [-1, 1], of the object's picture) are left out.
    """
    small = F.interpolate(crops, size=(_PAINT_SIDE, _PAINT_SIDE), mode="area").flatten(2)
    counted = ((small - backgrounds[:, :, None]).norm(dim=1) > _PAINT_DISTANCE).float()
    places = (small + 1) / 2 * (_PAINT_BINS - 1)
    bins = torch.arange(_PAINT_BINS, device=crops.device)
    red, green, blue = (1 - (places[..., None] - bins).abs()).clamp(min=0.0).unbind(1)
    histogram = torch.einsum("np,npr,npg,npb->nrgb", counted, red, green, blue).flatten(1)
    return histogram / histogram.sum(dim=1, keepdim=True).clamp(min=1.0)
