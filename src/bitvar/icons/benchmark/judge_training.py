"""Training of the scene judge on free scenes: the detector on images, the classifier on features kept in memory.

The caller draws the scenes; `judge` puts the trained parts together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bitvar.icons.benchmark.classifier import (
    COLOUR_NAMES,
    CONCEPT_NAMES,
    CROP_SIDE,
    STYLE_NAMES,
    ObjectClassifier,
    ObjectFeatures,
    concept_fold,
    cut_out,
    extract_features,
    outside_boxes,
)
from bitvar.icons.benchmark.detections import OWN_COLOUR
from bitvar.icons.benchmark.detector import SIDE, Detector, detection_loss, targets
from bitvar.icons.benchmark.judge_calibration import as_images
from bitvar.icons.dataset.free_scenes import FreeScene
from bitvar.metrics.efficientnet import EfficientNet

NONE = len(CONCEPT_NAMES)
"""The class of objects that are none of the concepts."""

_SCENES_AT_ONCE = 16
_BOX_ERROR = 0.04  # of a box's sides: the spread of a detector's mistakes
_NONE_SHARE = 0.08  # of objects that are none of the concepts: halves of two, blends, noise, shuffled pieces


@dataclass(frozen=True)
class JudgeTrainingSet:
    """Features of objects in half precision, with labels for the classifier; -1 where a label is unknown."""

    features: Float[Tensor, "n f"]
    paints: Float[Tensor, "n p"]
    textures: Float[Tensor, "n t"]
    concepts: Int[Tensor, "n"]
    colours: Int[Tensor, "n"]
    artists: tuple[str, ...]

    def select(self, kept: Callable[[str], bool]) -> "JudgeTrainingSet":
        """Select the objects by the artists for whom `kept` is true."""
        rows = torch.tensor([kept(artist) for artist in self.artists])
        artists = tuple(artist for artist in self.artists if kept(artist))
        features = (self.features[rows], self.paints[rows], self.textures[rows])
        return JudgeTrainingSet(*features, self.concepts[rows], self.colours[rows], artists)

    def object_features(self) -> ObjectFeatures:
        """Return the features in single precision, as the classifier takes them."""
        return ObjectFeatures(self.features.float(), self.paints.float(), self.textures.float())


@torch.no_grad()
def gather_training_set(
    scenes: Sequence[FreeScene], network: EfficientNet, *, rng: np.random.Generator
) -> JudgeTrainingSet:
    """Collect every object of the scenes, with the error of a detector on its box, and some crops without an object."""
    found: list[ObjectFeatures] = []
    artists: list[str] = []
    labels: list[tuple[int, int]] = []
    for start in range(0, len(scenes), _SCENES_AT_ONCE):
        chunk = [scene for scene in scenes[start : start + _SCENES_AT_ONCE] if scene.objects]
        crops, backgrounds, owners = _crops(chunk, rng)
        here = [
            (CONCEPT_NAMES.index(item.concept), COLOUR_NAMES.index(item.colour or OWN_COLOUR))
            for scene in chunk
            for item in scene.objects
        ]
        spoilt, sources = _no_objects(crops, backgrounds, [concept for concept, _ in here], rng)
        crops, backgrounds = torch.cat([crops, spoilt]), torch.cat([backgrounds, backgrounds[sources]])
        labels += here + [(NONE, -1)] * len(sources)
        artists += [chunk[owner].artist for owner in (*owners, *(owners[source] for source in sources))]
        found.append(ObjectFeatures(*(part.half() for part in extract_features(network, crops, backgrounds))))
    concepts, colours = torch.tensor(labels).unbind(1)
    features, paints, textures = (torch.cat(parts) for parts in zip(*found, strict=True))
    return JudgeTrainingSet(features, paints, textures, concepts, colours, tuple(artists))


def _crops(
    scenes: Sequence[FreeScene], rng: np.random.Generator
) -> tuple[Float[Tensor, "n 3 128 128"], Float[Tensor, "n 3"], list[int]]:
    """Cut out every object; return the crops, the background of each, and the index of its scene."""
    images = as_images([scene.image for scene in scenes])
    boxes = [[_shares(box, scene.image.width) for box in scene.boxes] for scene in scenes]
    backgrounds = torch.stack(
        [outside_boxes(image, own).median(dim=1).values for image, own in zip(images, boxes, strict=True)]
    )
    owners = [index for index, own in enumerate(boxes) for _ in own]
    corners = torch.tensor([box for own in boxes for box in own], dtype=torch.float32)
    sides = corners[:, 2:] - corners[:, :2]
    corners += torch.from_numpy(rng.normal(0.0, _BOX_ERROR, corners.shape)).float() * sides.repeat(1, 2)
    rows = torch.tensor(owners)
    return cut_out(images, rows, corners, backgrounds), backgrounds[rows], owners


def _no_objects(
    crops: Float[Tensor, "n 3 128 128"],
    backgrounds: Float[Tensor, "n 3"],
    concepts: Sequence[int],
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "m 3 128 128"], list[int]]:
    """Make crops without an object from the cut-outs; return them with the index of the crop they are made of."""
    made, sources = [], []
    for first in range(len(crops)):
        if rng.random() >= _NONE_SHARE:
            continue
        second = int(rng.integers(len(crops)))
        one, other = crops[first], crops[second]
        way = rng.random()
        if way < 0.7 and concepts[first] == concepts[second]:
            continue
        half = CROP_SIDE // 2
        if way < 0.35:
            nothing = (one + other) / 2
        elif way < 0.52:
            nothing = torch.cat([one[:, :half], other[:, half:]], dim=1)
        elif way < 0.7:
            nothing = torch.cat([one[..., :half], other[..., half:]], dim=2)
        elif way < 0.85:
            nothing = _blobs(backgrounds[first], rng)
        else:
            nothing = _shuffled(one, rng)
        made.append(nothing)
        sources.append(first)
    return torch.stack(made) if made else crops[:0], sources


def _blobs(background: Float[Tensor, "3"], rng: np.random.Generator) -> Float[Tensor, "3 128 128"]:
    """Draw coloured noise, coarse or fine, in a random outline."""
    cells = int(rng.integers(4, 33))
    noise = torch.from_numpy(rng.normal(0.0, 0.7, (1, 3, cells, cells))).float()
    outline = torch.from_numpy(rng.normal(0.3, 1.0, (1, 1, 4, 4))).float()
    size = (CROP_SIDE, CROP_SIDE)
    paint = F.interpolate(noise, size=size, mode="bilinear")[0].clamp(-1.0, 1.0)
    inside = F.interpolate(outline, size=size, mode="bicubic")[0] > 0
    return torch.where(inside, paint, background[:, None, None])


def _shuffled(crop: Float[Tensor, "3 128 128"], rng: np.random.Generator) -> Float[Tensor, "3 128 128"]:
    """Shuffle the 4 x 4 pieces of a cut-out."""
    side = CROP_SIDE // 4
    pieces = crop.unfold(1, side, side).unfold(2, side, side).reshape(3, 16, side, side)
    pieces = pieces[:, torch.from_numpy(rng.permutation(16))].reshape(3, 4, 4, side, side)
    return pieces.permute(0, 1, 3, 2, 4).reshape(3, CROP_SIDE, CROP_SIDE)


def train_detector(
    scenes: Sequence[FreeScene],
    *,
    num_steps: int,
    generator: torch.Generator,
    learning_rate: float = 2e-3,
    batch_size: int = 32,
    log: Callable[[str], None] | None = None,
    start: Detector | None = None,
) -> Detector:
    """Train a detector on 64 x 64 scenes, augmented by mirroring and swapping colour channels.

    It starts from random weights, or from those of `start`.
    """
    images = as_images([scene.image for scene in scenes])
    truths = [targets([_shares(box, SIDE) for box in scene.boxes]) for scene in scenes]
    middles, distances, weights = (torch.stack(part) for part in zip(*truths, strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = Detector()
    if start is not None:
        model.load_state_dict(start.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.02)
    for step in range(num_steps):
        warm = min(1.0, (step + 1) / 100)
        optimizer.param_groups[0]["lr"] = learning_rate * warm * (0.51 + 0.49 * math.cos(math.pi * step / num_steps))
        rows = torch.randint(len(images), (batch_size,), generator=generator)
        batch = (images[rows], middles[rows], distances[rows], weights[rows])
        inputs, *truth = _mirrored(*batch) if torch.rand(1, generator=generator) < 0.5 else batch
        if torch.rand(1, generator=generator) < 0.5:
            inputs = inputs[:, torch.randperm(3, generator=generator)]
        loss = detection_loss(model(inputs), *truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if log is not None and (step + 1) % 100 == 0:
            log(f"detector, step {step + 1} of {num_steps}: loss {float(loss.detach()):.3f}")
    return model.eval()


def _mirrored(
    images: Float[Tensor, "b 3 H W"],
    middles: Float[Tensor, "b h w"],
    distances: Float[Tensor, "b 4 h w"],
    weights: Float[Tensor, "b h w"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return images.flip(3), middles.flip(2), distances.flip(3)[:, [2, 1, 0, 3]], weights.flip(2)


def train_classifier(
    training_set: JudgeTrainingSet,
    styles: JudgeTrainingSet,
    *,
    num_epochs: int,
    generator: torch.Generator,
    learning_rate: float = 1e-3,
) -> ObjectClassifier:
    """Train the heads: concepts and colours on `training_set`, styles on the artists of `styles`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = ObjectClassifier()
        features = training_set.object_features()
        model.mean.copy_(features.features.mean(dim=0))
        model.deviation.copy_(features.features.std(dim=0) + 1e-3)
        inputs = model.concept_inputs(features)
        _fit(
            model.concepts,
            inputs,
            training_set.concepts,
            num_epochs=num_epochs,
            learning_rate=learning_rate,
            dropout=0.5,
        )
        known = training_set.colours >= 0
        paints, colours = features.paints[known], training_set.colours[known]
        _fit(model.colours, paints, colours, num_epochs=2 * num_epochs, learning_rate=3 * learning_rate, dropout=0.0)
        fit_styles(model, styles, num_epochs=4 * num_epochs, learning_rate=2 * learning_rate)
    return model.eval().requires_grad_(False)


def fit_styles(model: ObjectClassifier, styles: JudgeTrainingSet, *, num_epochs: int, learning_rate: float) -> None:
    """Train the style heads, each on the concepts of the other fold. Draws from the global generator."""
    features = styles.object_features()
    model.texture_mean.copy_(features.textures.mean(dim=0))
    model.texture_deviation.copy_(features.textures.std(dim=0) + 1e-3)
    inputs = model.style_inputs(features)
    truth = torch.tensor([STYLE_NAMES.index(artist) for artist in styles.artists])
    folds = torch.tensor([concept_fold(name) for name in CONCEPT_NAMES] + [-1])[styles.concepts]
    for fold in (0, 1):
        rows = folds == 1 - fold
        head = nn.Linear(inputs.shape[1], len(STYLE_NAMES))
        _fit(head, inputs[rows], truth[rows], num_epochs=num_epochs, learning_rate=learning_rate, dropout=0.3)
        part = slice(fold * len(STYLE_NAMES), (fold + 1) * len(STYLE_NAMES))
        model.styles.weight.data[part] = head.weight.data
        model.styles.bias.data[part] = head.bias.data


def _fit(
    head: nn.Module,
    inputs: Float[Tensor, "n f"],
    truth: Int[Tensor, "n"],
    *,
    num_epochs: int,
    learning_rate: float,
    dropout: float,
) -> None:
    """Fit a head with label-smoothed cross-entropy, AdamW and a linear decay. Draws from the global generator."""
    batch_size = 128
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=0.05)
    num_batches = max(1, len(inputs) // batch_size)
    num_steps = num_epochs * num_batches
    order = torch.randperm(len(inputs))
    for step in range(num_steps):
        if step % num_batches == 0:
            order = torch.randperm(len(inputs))
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / num_steps)
        rows = order[(step % num_batches) * batch_size :][:batch_size]
        loss = F.cross_entropy(head(F.dropout(inputs[rows], dropout)), truth[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _shares(box: tuple[int, int, int, int], size: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return left / size, top / size, right / size, bottom / size
