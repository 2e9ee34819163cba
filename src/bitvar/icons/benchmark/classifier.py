"""Classification of objects: crops of an image, features of a frozen network, small heads. Finds no objects."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bitvar.icons.benchmark.detections import OWN_COLOUR
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS
from bitvar.icons.dataset.sources import ARTISTS
from bitvar.metrics.efficientnet import HEAD_CHANNELS, STAGE_CHANNELS, EfficientNet

CROP_SIDE: Final = 128
"""Side, in pixels, of the crops that the network sees."""

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
_PAINT_GAIN: Final = 4.0  # roots of shares are small beside standardised values
_NUM_TEXTURE_STAGES: Final = 3
NUM_TEXTURES: Final = 2 * sum(STAGE_CHANNELS[:_NUM_TEXTURE_STAGES])
_PAINT_DISTANCE: Final = 0.16  # from the background, in [-1, 1] RGB, from which a pixel is the object's
_BACKGROUND_DISTANCE: Final = 45.0  # of RGB 0..255: within it a pixel may have a background's colour
_SMALLEST_OUTSIDE: Final = 0.04  # of the image


class ObjectFeatures(NamedTuple):
    """Features of `n` objects: from the network, of their colours (`paints`), and of the way they are drawn."""

    features: Float[Tensor, "n f"]
    paints: Float[Tensor, "n p"]
    textures: Float[Tensor, "n t"]


class ObjectLogits(NamedTuple):
    """Logits for `n` objects; styles have two rows, by the fold of concepts that the head was trained without."""

    concepts: Float[Tensor, "n 154"]
    """One logit for each concept, and a last one for none of them."""
    colours: Float[Tensor, "n 9"]
    styles: Float[Tensor, "n 2 4"]


class ObjectClassifier(nn.Module):
    """Heads: concepts from features, colours from paints, styles from textures and paints.

    Style has two heads: each was trained on half of the concepts and classifies the other half.
    """

    mean: Tensor
    deviation: Tensor
    texture_mean: Tensor
    texture_deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, width in (("mean", NUM_FEATURES), ("texture_mean", NUM_TEXTURES)):
            self.register_buffer(name, torch.zeros(width))
        for name, width in (("deviation", NUM_FEATURES), ("texture_deviation", NUM_TEXTURES)):
            self.register_buffer(name, torch.ones(width))
        self.concepts = nn.Linear(NUM_FEATURES, len(CONCEPT_NAMES) + 1)
        self.colours = PaintHead()
        self.styles = nn.Linear(NUM_TEXTURES + NUM_PAINTS, 2 * len(STYLE_NAMES))

    def forward(self, seen: ObjectFeatures) -> ObjectLogits:
        """Compute the logits of objects."""
        styles = self.styles(self.style_inputs(seen)).unflatten(1, (2, -1))
        return ObjectLogits(self.concepts(self.concept_inputs(seen)), self.colours(seen.paints), styles)

    def concept_inputs(self, seen: ObjectFeatures) -> Float[Tensor, "n f"]:
        """Standardise the features."""
        return (seen.features - self.mean) / self.deviation

    def style_inputs(self, seen: ObjectFeatures) -> Float[Tensor, "n s"]:
        """Standardise the textures and append the paints."""
        textures = (seen.textures - self.texture_mean) / self.texture_deviation
        return torch.cat([textures, _PAINT_GAIN * seen.paints.sqrt()], dim=1)


class PaintHead(nn.Module):
    """Head that classifies the colour of an object from its paints alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(NUM_PAINTS, 96)
        self.outer = nn.Linear(96, len(COLOUR_NAMES))

    def forward(self, paints: Float[Tensor, "n p"]) -> Float[Tensor, "n 9"]:
        return self.outer(F.silu(self.inner(_PAINT_GAIN * paints.sqrt())))


def concept_fold(concept: str) -> int:
    """Assign a concept to one of two folds, 0 or 1, the same on every machine."""
    return sum(concept.encode()) % 2


def outside_boxes(
    image: Float[Tensor, "3 H W"], boxes: Sequence[tuple[float, float, float, float]]
) -> Float[Tensor, "3 n"]:
    """Select the pixels at least two 64ths away from all boxes; a frame two wide if boxes leave almost nothing."""
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
    """Compute, for each background colour, the share (0..1) of pixels, RGB in [-1, 1], near it and nearest to it."""
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
    *,
    side: int = CROP_SIDE,
) -> Float[Tensor, "n 3 side side"]:
    """Cut every object out as a square, with everything beside its box painted in the image's background colour.

    Args:
        images: Images in [-1, 1].
        owners: Index of the image that each box is on.
        boxes: Boxes as x0, y0, x1, y1 in 0..1.
        backgrounds: Background colour of each image, in [-1, 1].
        side: Side of the squares in pixels.
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    half = (sides.amax(dim=1) * _CONTEXT / 2).clamp(min=0.02)
    line = (torch.arange(side, device=images.device) + 0.5) / side * 2 - 1
    x = middle[:, 0, None] + half[:, None] * line
    y = middle[:, 1, None] + half[:, None] * line
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1) * 2 - 1
    crops = F.grid_sample(images[owners], grid, mode="bilinear", padding_mode="border", align_corners=False)
    frame = (half * 2 * _FRAME)[:, None]
    across = (x > boxes[:, 0, None] - frame) & (x < boxes[:, 2, None] + frame) & (x > 0) & (x < 1)
    down = (y > boxes[:, 1, None] - frame) & (y < boxes[:, 3, None] + frame) & (y > 0) & (y < 1)
    inside = (across[:, None, :] & down[:, :, None])[:, None]
    return torch.where(inside, crops, backgrounds[owners][:, :, None, None])


def extract_features(
    network: EfficientNet, crops: Float[Tensor, "n 3 side side"], backgrounds: Float[Tensor, "n 3"]
) -> ObjectFeatures:
    """Extract the features of crops, each on the background of its image.

    Features are the mean of the network's head, 2 x 2 means of its last stage and 3 x 3 means of one at stride 16;
    textures are means and deviations of its first stages over the object.
    """
    maps = network.stages(crops)
    last = maps[_SHAPE_STAGE]
    parts = [
        network.head(last).mean(dim=(2, 3)),
        F.adaptive_avg_pool2d(last, _SHAPE_CELLS).flatten(1),
        F.adaptive_avg_pool2d(maps[_TEXTURE_STAGE], _TEXTURE_CELLS).flatten(1),
    ]
    drawn = _is_drawn(crops, backgrounds)[:, None].float()
    textures = [_moments(stage, drawn) for stage in maps[:_NUM_TEXTURE_STAGES]]
    return ObjectFeatures(torch.cat(parts, dim=1), object_paints(crops, backgrounds), torch.cat(textures, dim=1))


def _moments(stage: Float[Tensor, "n c h w"], drawn: Float[Tensor, "n 1 H W"]) -> Float[Tensor, "n d"]:
    """Compute means and standard deviations of a map over the object."""
    weights = F.adaptive_avg_pool2d(drawn, stage.shape[-1])
    weights = weights / weights.sum(dim=(2, 3), keepdim=True).clamp(min=1e-3)
    means = (stage * weights).sum(dim=(2, 3))
    variances = ((stage - means[..., None, None]) ** 2 * weights).sum(dim=(2, 3))
    return torch.cat([means, variances.clamp(min=1e-6).sqrt()], dim=1)


def _is_drawn(crops: Float[Tensor, "n 3 H W"], backgrounds: Float[Tensor, "n 3"]) -> Bool[Tensor, "n H W"]:
    """Mask the pixels whose colour differs from the background's."""
    return (crops - backgrounds[:, :, None, None]).norm(dim=1) > _PAINT_DISTANCE


def object_paints(crops: Float[Tensor, "n 3 side side"], backgrounds: Float[Tensor, "n 3"]) -> Float[Tensor, "n p"]:
    """Compute a histogram of an object's RGB colours, six soft bins an axis, that sums to 1.

    Pixels in the background colour of the object's image (in [-1, 1]) are left out.
    """
    small = F.interpolate(crops, size=(_PAINT_SIDE, _PAINT_SIDE), mode="area")
    counted = _is_drawn(small, backgrounds).flatten(1).float()
    places = (small.flatten(2) + 1) / 2 * (_PAINT_BINS - 1)
    bins = torch.arange(_PAINT_BINS, device=crops.device)
    red, green, blue = (1 - (places[..., None] - bins).abs()).clamp(min=0.0).unbind(1)
    histogram = torch.einsum("np,npr,npg,npb->nrgb", counted, red, green, blue).flatten(1)
    return histogram / histogram.sum(dim=1, keepdim=True).clamp(min=1.0)
