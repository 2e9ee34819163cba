"""The scene judge: from images to sights, with the weights in the package. Knows no prompts and no verdicts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.icons.benchmark import classifier, detector
from bitvar.icons.benchmark.classifier import COLOUR_NAMES, CONCEPT_NAMES, STYLE_NAMES, Reader, Reading, concept_fold
from bitvar.icons.benchmark.detections import Sight, Sighting, Thresholds
from bitvar.icons.benchmark.detector import Detector, find_objects
from bitvar.metrics.efficientnet import EfficientNet
from bitvar.weights.digests import verify_folder
from bitvar.weights.tensors import load_tensors

FOLDER: Final = Path(__file__).parents[2] / "pretrained" / "scene_judge"
WEIGHTS: Final = "model.safetensors"
_IMAGES_AT_ONCE: Final = 32
_OBJECTS_AT_ONCE: Final = 64

Box = tuple[float, float, float, float]


class JudgeConfig(Config):
    """What `config.json` holds: from what confidence an object counts, and the thresholds of verdicts."""

    detection: float = 0.3
    thresholds: Thresholds = Thresholds()
    concepts: tuple[str, ...] = CONCEPT_NAMES
    """The concepts in the order of the head; a package with others can't use the weights."""


class SceneJudge(nn.Module):
    """Sees objects with their concepts, colours and styles, and the background, on images of scenes.

    Frozen. It was trained on drawings by other artists than the generator's, styles aside, on features that no
    generator of bitvar shares. It sees every image at 64 x 64 pixels.
    """

    def __init__(self, config: JudgeConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else JudgeConfig()
        self.detector = Detector()
        self.reader = Reader()
        self.network = EfficientNet()
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path | None = None, device: str | torch.device = "cpu") -> "SceneJudge":
        """The judge in `folder`, by default the package's.

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
        judge.detector.load_state_dict(_part(tensors, "detector."))
        judge.reader.load_state_dict(_part(tensors, "classifier."))
        return judge.to(device)

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights as the folder keeps them, in half precision: without the frozen network."""
        parts = {"detector.": self.detector, "classifier.": self.reader}
        return {
            prefix + name: tensor.half().contiguous()
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        }

    @torch.no_grad()
    def look(self, images: Float[Tensor, "b 3 H W"]) -> list[Sight]:
        """What is on each image, in [-1, 1] and square.

        An image is seen alike alone and among others, up to rounding.

        Raises:
            UsageError: if the images aren't square.
        """
        if images.shape[-1] != images.shape[-2]:
            why = f"expected square images, got {images.shape[-1]} x {images.shape[-2]}"
            raise UsageError("Can't judge these images.", why, "crop them")
        device = next(self.reader.parameters()).device
        sights: list[Sight] = []
        for chunk in images.split(_IMAGES_AT_ONCE):
            sights += self._look(as_seen(chunk.to(device)))
        return sights

    def _look(self, images: Float[Tensor, "b 3 64 64"]) -> list[Sight]:
        found = find_objects(self.detector(images), threshold=self.config.detection)
        outside = [
            classifier.outside_boxes(image, [box for _, box in objects])
            for image, objects in zip(images, found, strict=True)
        ]
        backgrounds = torch.stack([pixels.median(dim=1).values for pixels in outside])
        sightings = iter(self._read(images, found, backgrounds))
        sights = []
        for objects, pixels in zip(found, outside, strict=True):
            seen = tuple(next(sightings) for _ in objects)
            shares = classifier.background_shares(pixels)
            sights.append(Sight(seen, shares, _common_style(seen), self.config.thresholds))
        return sights

    def _read(
        self,
        images: Float[Tensor, "b 3 64 64"],
        found: Sequence[Sequence[tuple[float, Box]]],
        backgrounds: Float[Tensor, "b 3"],
    ) -> list[Sighting]:
        """Every object of every image, in order."""
        listed = [(index, *candidate) for index, objects in enumerate(found) for candidate in objects]
        sightings = []
        for start in range(0, len(listed), _OBJECTS_AT_ONCE):
            part = listed[start : start + _OBJECTS_AT_ONCE]
            owners = torch.tensor([index for index, _, _ in part], device=images.device)
            boxes = torch.tensor([box for _, _, box in part], device=images.device)
            crops = classifier.cut_out(images, owners, boxes, backgrounds)
            seen = classifier.look_at(self.network, crops, backgrounds[owners])
            sightings += _sightings([(sure, box) for _, sure, box in part], self.reader(seen))
        return sightings


def as_seen(images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 64 64"]:
    """The images as the judge sees them: fp32, 64 x 64, in [-1, 1]."""
    images = images.float().clamp(-1.0, 1.0)
    if images.shape[-1] == detector.SIDE:
        return images
    return F.interpolate(images, size=(detector.SIDE, detector.SIDE), mode="bilinear", antialias=True).clamp(-1.0, 1.0)


def _sightings(objects: Sequence[tuple[float, Box]], reading: Reading) -> list[Sighting]:
    concepts = reading.concepts.softmax(dim=1)[:, :-1].cpu()
    colours = reading.colours.softmax(dim=1).cpu()
    styles = reading.styles.softmax(dim=2).cpu()
    sightings = []
    for index, (sure, box) in enumerate(objects):
        likeliest = CONCEPT_NAMES[int(concepts[index].argmax())]
        style = styles[index, concept_fold(likeliest)]
        sightings.append(
            Sighting(
                box,
                sure,
                dict(zip(CONCEPT_NAMES, concepts[index].tolist(), strict=True)),
                dict(zip(COLOUR_NAMES, colours[index].tolist(), strict=True)),
                dict(zip(STYLE_NAMES, style.tolist(), strict=True)),
            )
        )
    return sightings


def _common_style(objects: Sequence[Sighting]) -> dict[str, float]:
    """Each style's probability for all objects together, from the geometric mean of theirs."""
    if not objects:
        return {}
    means = {
        name: math.exp(sum(math.log(sighting.styles[name] + 1e-6) for sighting in objects) / len(objects))
        for name in STYLE_NAMES
    }
    total = sum(means.values())
    return {name: value / total for name, value in means.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
