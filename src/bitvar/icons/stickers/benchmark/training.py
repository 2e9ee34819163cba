"""Training of the sticker judge: the detector on scenes, the heads on features of crops of every drawing.

The caller gives the drawings; `judge` puts the trained parts together.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor, nn

from bitvar.icons.benchmark.classifier import COLOUR_NAMES, PaintHead, cut_out, extract_features
from bitvar.icons.benchmark.detections import OWN_COLOUR
from bitvar.icons.benchmark.detector import SIDE
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS
from bitvar.icons.dataset.free_scenes import FreeScene, spoil
from bitvar.icons.stickers.artists import ARTISTS, ONE_COLOUR
from bitvar.icons.stickers.benchmark.judge import (
    CONCEPT_NAMES,
    CROP_SIDE,
    FOLDS,
    IMAGE_SIDE,
    WIDTH,
    StickerHeads,
)
from bitvar.icons.stickers.concepts import StickerConcept
from bitvar.icons.stickers.render import draw_scene
from bitvar.icons.stickers.scenes import SceneSampler
from bitvar.icons.stickers.sprites import SpriteStore
from bitvar.imaging.convert import from_pil
from bitvar.metrics.efficientnet import EfficientNet

_AT_ONCE: Final = 32
_BATCH: Final = 128
_SINGLE_SHARE: Final = 0.4
_RATE: Final = 3e-3
_SHRINKAGE: Final = 0.1
_TEMPERATURES: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_EXTENTS: Final = ((0.6, 0.95), (0.18, 0.6))
"""Longer side of an object by the image's, of each view of a drawing."""

_COLOURED_SHARE: Final = 0.4
_WHITE_SHARE: Final = 0.7
_BOX_ERROR: Final = 0.03  # of a box's sides: the spread of a detector's mistakes
_COARSE_SHARE: Final = 0.3  # of images: drawn with fewer pixels, as small models draw
_NONE_SHARE: Final = 0.06  # of crops: made of two objects, so that they show none


@dataclass(frozen=True)
class ObjectSet:
    """Features of crops in half precision, with labels; a concept of -1 is none, a colour of -1 unknown."""

    features: Float[Tensor, "n f"]
    paints: Float[Tensor, "n p"]
    concepts: Int[Tensor, "n"]
    colours: Int[Tensor, "n"]
    artists: Int[Tensor, "n"]
    """Place in `ARTISTS`."""


class QuickNetwork(EfficientNet):
    """The network in bf16, twice as fast where a processor has it; its features differ by rounding."""

    def stages(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the feature maps after each of the seven stages, as fp32."""
        with torch.autocast(images.device.type, torch.bfloat16):
            return [stage.float() for stage in super().stages(images)]

    def head(self, last: Float[Tensor, "b 320 h w"]) -> Float[Tensor, "b 1280 h w"]:
        """Turn the last stage's feature map into the one that the classifier would average, as fp32."""
        with torch.autocast(last.device.type, torch.bfloat16):
            return super().head(last).float()


@torch.no_grad()
def gather_objects(
    concepts: Sequence[StickerConcept],
    store: SpriteStore,
    network: EfficientNet,
    *,
    seed: int,
    log: Callable[[str], None],
) -> ObjectSet:
    """Draw every drawing once for each of `_EXTENTS`, alone, and collect the features of its crop."""
    jobs = [
        (view, place, artist, concept)
        for view in range(len(_EXTENTS))
        for place, concept in enumerate(concepts)
        for artist in (artist.key for artist in ARTISTS if artist.key in concept.drawings)
    ]
    parts: list[tuple[Tensor, Tensor]] = []
    labels: list[tuple[int, int, int]] = []
    keys = [artist.key for artist in ARTISTS]
    for start in range(0, len(jobs), _AT_ONCE):
        rng = np.random.default_rng([seed, start])
        batch = jobs[start : start + _AT_ONCE]
        drawn = [_draw(artist, concept, store, _EXTENTS[view], rng) for view, _, artist, concept in batch]
        backgrounds = torch.stack([torch.tensor(BACKGROUNDS[one.background]) / 127.5 - 1 for one in drawn])
        corners = torch.tensor(np.stack([one.corners for one in drawn]), dtype=torch.float32)
        images = from_pil([one.image for one in drawn])
        crops = cut_out(images, torch.arange(len(batch)), corners, backgrounds, side=CROP_SIDE)
        mixed, sources = _mixtures(crops, [place for _, place, _, _ in batch], rng)
        crops, backgrounds = torch.cat([crops, mixed]), torch.cat([backgrounds, backgrounds[sources]])
        found = extract_features(network, crops, backgrounds)
        parts.append((found.features.half(), found.paints.half()))
        here = [
            (place, COLOUR_NAMES.index(one.colour or OWN_COLOUR), keys.index(artist))
            for one, (_, place, artist, _) in zip(drawn, batch, strict=True)
        ]
        labels += [*here, *((-1, -1, here[source][2]) for source in sources)]
        if start // _AT_ONCE % 10 == 0:
            log(f"features of {start} of {len(jobs)} crops")
    features, paints = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return ObjectSet(features, paints, *(column.contiguous() for column in torch.tensor(labels).unbind(1)))


@dataclass(frozen=True)
class _Drawn:
    image: Image.Image
    corners: Float[np.ndarray, "4"]
    background: str
    colour: str | None


def _draw(
    artist: str, concept: StickerConcept, store: SpriteStore, extents: tuple[float, float], rng: np.random.Generator
) -> _Drawn:
    can = artist in ONE_COLOUR or concept.recolourable
    colour = str(rng.choice(list(COLOURS))) if can and rng.random() < _COLOURED_SHARE else None
    visible = store.visible_backgrounds(artist, concept.name, colour)
    background = str(rng.choice(visible)) if visible and rng.random() > _WHITE_SHARE else "white"
    sprite = store.sprite(artist, concept.name, colour)
    factor = IMAGE_SIDE * float(rng.uniform(*extents)) / max(sprite.size)
    width, height = (max(2, int(side * factor)) for side in sprite.size)
    x, y = (int(rng.integers(0, IMAGE_SIDE + 1 - side)) for side in (width, height))
    canvas = Image.new("RGBA", (IMAGE_SIDE, IMAGE_SIDE), BACKGROUNDS[background])
    canvas.alpha_composite(sprite.resize((width, height), Image.Resampling.LANCZOS), (x, y))
    image = canvas.convert("RGB")
    if rng.random() < _COARSE_SHARE:
        side = int(IMAGE_SIDE * rng.uniform(0.25, 0.6))
        image = image.resize((side, side), Image.Resampling.BOX)
        image = image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR)
    corners = np.array([x, y, x + width, y + height]) + rng.normal(0.0, _BOX_ERROR, 4) * ([width, height] * 2)
    return _Drawn(spoil(image, rng), (corners / IMAGE_SIDE).clip(0, 1).astype(np.float32), background, colour)


def _mixtures(
    crops: Float[Tensor, "n 3 side side"], concepts: Sequence[int], rng: np.random.Generator
) -> tuple[Float[Tensor, "m 3 side side"], list[int]]:
    """Mix crops of two concepts: halves of both, or both at once. Return them with the first crop of each."""
    made, sources = [], []
    for first in range(len(crops)):
        second = int(rng.integers(len(crops)))
        if rng.random() >= _NONE_SHARE or concepts[first] == concepts[second]:
            continue
        one, other = crops[first].clone(), crops[second]
        half, way = crops.shape[-1] // 2, rng.random()
        if way < 0.4:
            one = (one + other) / 2
        elif way < 0.7:
            one[:, half:] = other[:, half:]
        else:
            one[..., half:] = other[..., half:]
        made.append(one)
        sources.append(first)
    return torch.stack(made) if made else crops[:0], sources


@torch.no_grad()
def fit_heads(heads: StickerHeads, objects: ObjectSet, *, num_epochs: int, generator: torch.Generator) -> None:
    """Fit the components of the features, each fold's head on the other artists' drawings, and the colours on all.

    Heads are linear discriminants: concepts as normal distributions of one covariance. Their one temperature is that of
    the highest likelihood on the drawings of the artists left out.

    Args:
        heads: Heads to fit.
        objects: Features with labels.
        num_epochs: Epochs of the colours.
        generator: Its seed starts the colours and the components.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        features = objects.features.float()
        heads.mean.copy_(features.mean(dim=0))
        heads.deviation.copy_(features.std(dim=0) + 1e-3)
        standard = (features - heads.mean) / heads.deviation
        heads.projection.copy_(torch.pca_lowrank(standard, q=WIDTH, center=False, niter=1)[2].T)
        inputs = standard @ heads.projection.T
        truth = objects.concepts.where(objects.concepts >= 0, len(CONCEPT_NAMES))
        for fold in range(len(FOLDS)):
            rows = ~_left_out(objects, fold)
            heads.weight[fold], heads.bias[fold] = _discriminant(inputs[rows], truth[rows])
        temperature = min(_TEMPERATURES, key=lambda each: _surprise(heads, inputs, truth, objects, each))
        heads.weight.div_(temperature)
        heads.bias.div_(temperature)
        known = objects.colours >= 0
        head = PaintHead()
        _fit(head, objects.paints[known].float(), objects.colours[known], num_epochs=num_epochs)
        heads.colours.load_state_dict(head.state_dict())


def _left_out(objects: ObjectSet, fold: int) -> Bool[Tensor, "n"]:
    return torch.tensor([artist.key in FOLDS[fold] for artist in ARTISTS])[objects.artists]


def _discriminant(
    inputs: Float[Tensor, "n w"], truth: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "1025 w"], Float[Tensor, "1025"]]:
    """Compute Fisher's linear discriminant of the concepts, with a covariance that shrinks towards a sphere."""
    counts = torch.bincount(truth, minlength=len(CONCEPT_NAMES) + 1)
    means = torch.zeros(len(counts), inputs.shape[1]).index_add_(0, truth, inputs) / counts.clamp(min=1)[:, None]
    rest = inputs - means[truth]
    covariance = rest.T @ rest / (len(inputs) - int((counts > 0).sum()))
    sphere = covariance.diagonal().mean() * torch.eye(len(covariance))
    weight = torch.linalg.solve((1 - _SHRINKAGE) * covariance + _SHRINKAGE * sphere, means.T).T
    return weight, -(weight * means).sum(dim=1) / 2


def _surprise(
    heads: StickerHeads,
    inputs: Float[Tensor, "n w"],
    truth: Int[Tensor, "n"],
    objects: ObjectSet,
    temperature: float,
) -> float:
    """Compute the mean negative log-likelihood of the drawings of the artists that each head never learnt from."""
    found = []
    for fold in range(len(FOLDS)):
        rows = _left_out(objects, fold) & heads.known[fold][truth]
        logits = (inputs[rows] @ heads.weight[fold].T + heads.bias[fold]) / temperature
        logits = logits.masked_fill(~heads.known[fold], -torch.inf)
        found.append(F.cross_entropy(logits, truth[rows], reduction="none"))
    return float(torch.cat(found).mean())


@torch.enable_grad()
def _fit(head: nn.Module, inputs: Float[Tensor, "n f"], truth: Int[Tensor, "n"], *, num_epochs: int) -> None:
    """Fit a head with label-smoothed cross-entropy, AdamW and a linear decay. Draws from the global generator."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=0.05)
    num_batches = len(inputs) // _BATCH
    for epoch in range(num_epochs):
        for batch, rows in enumerate(torch.randperm(len(inputs))[: num_batches * _BATCH].split(_BATCH)):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - (epoch + batch / num_batches) / num_epochs)
            loss = F.cross_entropy(head(inputs[rows]), truth[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def draw_scenes(
    concepts: Sequence[StickerConcept], store: SpriteStore, *, number: int, seed: int
) -> Iterator[FreeScene]:
    """Draw scenes as the set has them, for the detector, but fewer of one object. They show nothing held out."""
    sampler, rng = SceneSampler(concepts, store, seed=seed), np.random.default_rng(seed)
    for index in itertools.count():
        scene = sampler.scene("train", index)
        if scene.layout == "single" and rng.random() > _SINGLE_SHARE:
            continue
        drawn, boxes = draw_scene(scene, store, size=2 * SIDE, rng=rng)
        image = Image.new("RGB", drawn.size, "white")
        image.paste(drawn, mask=drawn.getchannel("A"))
        image = spoil(image.resize((SIDE, SIDE), Image.Resampling.BOX), rng)
        halved = tuple((x0 // 2, y0 // 2, -(-x1 // 2), -(-y1 // 2)) for x0, y0, x1, y1 in boxes)
        yield FreeScene(image, halved, (), scene.artist, scene.background or "white")
        number -= 1
        if number == 0:
            return
