"""The scene judge: from images to detections, with the weights in the package. Knows no prompts and no rules."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.icons.benchmark.classifier import (
    COLOUR_NAMES,
    CONCEPT_NAMES,
    CROP_SIDE,
    STYLE_NAMES,
    ObjectClassifier,
    ObjectFeatures,
    ObjectLogits,
    background_shares,
    concept_fold,
    cut_out,
    extract_features,
    outside_boxes,
)
from bitvar.icons.benchmark.detections import Detection, Detections, Thresholds
from bitvar.icons.benchmark.detector import SIDE, Detector, find_objects
from bitvar.metrics.efficientnet import EfficientNet
from bitvar.weights.digests import verify_folder
from bitvar.weights.tensors import load_tensors

FOLDER: Final = Path(__file__).parents[2] / "pretrained" / "scene_judge"
WEIGHTS: Final = "model.safetensors"
_IMAGES_AT_ONCE: Final = 32
_OBJECTS_AT_ONCE: Final = 64

Box = tuple[float, float, float, float]


class JudgeConfig(Config):
    """Contents of the judge's `config.json`: smallest confidence of an object, and the thresholds of the rules."""

    detection: float = 0.3
    thresholds: Thresholds = Thresholds()
    concepts: tuple[str, ...] = CONCEPT_NAMES
    """The concepts in the order of the head; a package with others can't use the weights."""


class SceneJudge(nn.Module):
    """Detector of objects with their concepts, colours and styles, and of the background, on images of scenes.

    Frozen. It was trained on drawings by other artists than the generator's, except for styles, on features that no
    generator of bitvar shares. It resizes every image to 64 x 64 pixels.
    """

    def __init__(self, config: JudgeConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else JudgeConfig()
        self.detector = Detector()
        self.classifier = ObjectClassifier()
        self.network = EfficientNet()
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path | None = None, device: str | torch.device = "cpu") -> "SceneJudge":
        """Load the judge in `folder`, by default the package's.

        Raises:
            WeightsError: if a file is missing or altered.
            UsageError: if the folder's judge knows other concepts than this package.
        """
        folder = FOLDER if folder is None else folder
        verify_folder(folder)
        config = JudgeConfig.load(folder / "config.json")
        if config.concepts != CONCEPT_NAMES:
            why = f"it knows {len(config.concepts)} concepts in its own order, this package {len(CONCEPT_NAMES)}"
            raise UsageError(f"Can't use the judge in {folder}.", why, "train it with scripts/icons/judge.py")
        judge = cls(config)
        tensors = {name: tensor.float() for name, tensor in load_tensors(folder / WEIGHTS).items()}
        judge.detector.load_state_dict(_with_prefix(tensors, "detector."))
        judge.classifier.load_state_dict(_with_prefix(tensors, "classifier."))
        return judge.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained weights, without the frozen network, in half precision as the folder stores them."""
        parts = {"detector.": self.detector, "classifier.": self.classifier}
        return {
            prefix + name: tensor.half().contiguous()
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        }

    @torch.no_grad()
    def detect(self, images: Float[Tensor, "b 3 H W"]) -> list[Detections]:
        """Detect objects and background on square images in [-1, 1].

        Up to rounding, an image's detections don't depend on the others in its batch.

        Raises:
            UsageError: if the images aren't square.
        """
        if images.shape[-1] != images.shape[-2]:
            why = f"expected square images, got {images.shape[-1]} x {images.shape[-2]}"
            raise UsageError("Can't judge these images.", why, "crop them")
        device = next(self.classifier.parameters()).device
        found: list[Detections] = []
        for chunk in images.split(_IMAGES_AT_ONCE):
            found += self._detect(resize(chunk.to(device)))
        return found

    def _detect(self, images: Float[Tensor, "b 3 64 64"]) -> list[Detections]:
        boxes, outside, backgrounds = find_boxes(self.detector, images, threshold=self.config.detection)
        every = iter(self._classify(images, boxes, backgrounds))
        found = []
        for own, pixels in zip(boxes, outside, strict=True):
            objects = tuple(next(every) for _ in own)
            found.append(Detections(objects, background_shares(pixels), _common_style(objects), self.config.thresholds))
        return found

    def _classify(
        self,
        images: Float[Tensor, "b 3 64 64"],
        boxes: Sequence[Sequence[tuple[float, Box]]],
        backgrounds: Float[Tensor, "b 3"],
    ) -> list[Detection]:
        """Classify every object of every image, in order."""
        found = []
        for chunk in chunks_of_candidates(boxes, _OBJECTS_AT_ONCE):
            features = features_of(self.network, images, chunk, backgrounds)
            found += _to_detections([(each.confidence, each.box) for each in chunk], self.classifier(features))
        return found


class Candidate(NamedTuple):
    """An object that was found: the index of its image, the detector's confidence, and its box."""

    owner: int
    confidence: float
    box: Box


def find_boxes(
    detector: Detector, images: Float[Tensor, "b 3 64 64"], *, threshold: float
) -> tuple[list[list[tuple[float, Box]]], list[Float[Tensor, "3 _"]], Float[Tensor, "b 3"]]:
    """Find the boxes of objects, the pixels outside them, and the colour of the background.

    Args:
        detector: Detector.
        images: Images in [-1, 1].
        threshold: Smallest confidence of an object.
    """
    boxes = find_objects(detector(images), threshold=threshold)
    outside = [outside_boxes(image, [box for _, box in own]) for image, own in zip(images, boxes, strict=True)]
    return boxes, outside, torch.stack([pixels.median(dim=1).values for pixels in outside])


def chunks_of_candidates(boxes: Sequence[Sequence[tuple[float, Box]]], size: int) -> Iterator[list[Candidate]]:
    """Yield the objects of all images, in order, `size` at a time."""
    listed = [Candidate(index, *candidate) for index, own in enumerate(boxes) for candidate in own]
    yield from (listed[start : start + size] for start in range(0, len(listed), size))


def features_of(
    network: EfficientNet,
    images: Float[Tensor, "b 3 H W"],
    candidates: Sequence[Candidate],
    backgrounds: Float[Tensor, "b 3"],
    *,
    side: int = CROP_SIDE,
) -> ObjectFeatures:
    """Cut objects out of their images, as crops of `side` pixels, and extract their features.

    Args:
        network: Frozen network.
        images: Images in [-1, 1].
        candidates: Objects.
        backgrounds: Background colour of each image.
        side: Side of the crops in pixels.
    """
    owners = torch.tensor([each.owner for each in candidates], device=images.device)
    corners = torch.tensor([each.box for each in candidates], device=images.device)
    crops = cut_out(images, owners, corners, backgrounds, side=side)
    return extract_features(network, crops, backgrounds[owners])


def resize(images: Float[Tensor, "b 3 H W"], side: int = SIDE) -> Float[Tensor, "b 3 side side"]:
    """Convert square images to a judge's input: fp32, `side` x `side` pixels, in [-1, 1]."""
    images = images.float().clamp(-1.0, 1.0)
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True).clamp(-1.0, 1.0)


def _to_detections(objects: Sequence[tuple[float, Box]], logits: ObjectLogits) -> list[Detection]:
    concepts = logits.concepts.softmax(dim=1)[:, :-1].cpu()
    colours = logits.colours.softmax(dim=1).cpu()
    styles = logits.styles.softmax(dim=2).cpu()
    found = []
    for index, (confidence, box) in enumerate(objects):
        likeliest = CONCEPT_NAMES[int(concepts[index].argmax())]
        style = styles[index, concept_fold(likeliest)]
        found.append(
            Detection(
                box,
                confidence,
                dict(zip(CONCEPT_NAMES, concepts[index].tolist(), strict=True)),
                dict(zip(COLOUR_NAMES, colours[index].tolist(), strict=True)),
                dict(zip(STYLE_NAMES, style.tolist(), strict=True)),
            )
        )
    return found


def _common_style(objects: Sequence[Detection]) -> dict[str, float]:
    """Compute each style's probability for all objects together, from the geometric mean of theirs."""
    if not objects:
        return {}
    means = {
        name: math.exp(sum(math.log(detection.styles[name] + 1e-6) for detection in objects) / len(objects))
        for name in STYLE_NAMES
    }
    total = sum(means.values())
    return {name: value / total for name, value in means.items()}


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
