"""The sticker judge: from images to detections, with the weights in the package. Knows no prompts and no rules."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.icons.benchmark.classifier import (
    COLOUR_NAMES,
    NUM_FEATURES,
    ObjectFeatures,
    PaintHead,
    background_shares,
)
from bitvar.icons.benchmark.detections import OWN_COLOUR
from bitvar.icons.benchmark.detector import Detector
from bitvar.icons.benchmark.judge import Candidate, chunks_of_candidates, features_of, find_boxes, resize
from bitvar.icons.stickers.benchmark.rules import Box, Detection, Detections, Thresholds
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.metrics.efficientnet import EfficientNet
from bitvar.weights.digests import verify_folder
from bitvar.weights.tensors import load_tensors

FOLDER: Final = Path(__file__).parents[3] / "pretrained" / "sticker_judge"
WEIGHTS: Final = "model.safetensors"

IMAGE_SIDE: Final = 256
"""Side, in pixels, of the images that objects are cut out of."""
CROP_SIDE: Final = 160
"""Side, in pixels, of the crops that the network sees."""
WIDTH: Final = 384
"""Number of principal components that the heads see."""

FOLDS: Final = (
    ("noto", "emojione", "fluent-flat"),
    ("noto-v1", "fluent", "streamline"),
    ("twemoji", "fluent-3d", "fxemoji"),
    ("high-contrast", "silhouette"),
)
"""Artists whose drawings each head never learnt from; artists with like drawings are apart."""

CONCEPT_NAMES: Final = tuple(concept.name for concept in read_concepts())
_AT_ONCE: Final = 32
_IN_EIGHT_BITS: Final = ("projection", "weight")
_SCALE: Final = "_scale"


def fold_of(artist: str) -> int:
    """Return the head that never learnt from an artist's drawings."""
    return next(fold for fold, artists in enumerate(FOLDS) if artist in artists)


def known_concepts() -> Bool[Tensor, "4 1025"]:
    """Tell which concepts each head has learnt; the last one, none of them, always."""
    known = [
        [any(artist not in artists for artist in concept.drawings) for concept in read_concepts()] for artists in FOLDS
    ]
    return torch.cat([torch.tensor(known), torch.ones(len(FOLDS), 1, dtype=torch.bool)], dim=1)


class JudgeConfig(Config):
    """Contents of the judge's `config.json`: smallest confidence of an object, thresholds, and digest of its concepts.

    A package with other concepts, or the same in another order, can't use the weights.
    """

    detection: float = 0.3
    thresholds: Thresholds = Thresholds()
    concepts_sha256: str = hashlib.sha256("\n".join(CONCEPT_NAMES).encode()).hexdigest()


class StickerHeads(nn.Module):
    """Heads: concepts by a linear discriminant of components for each fold of artists; colours from paints."""

    mean: Tensor
    deviation: Tensor
    projection: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(NUM_FEATURES))
        self.register_buffer("deviation", torch.ones(NUM_FEATURES))
        self.register_buffer("projection", torch.zeros(WIDTH, NUM_FEATURES))
        self.weight = nn.Parameter(torch.zeros(len(FOLDS), len(CONCEPT_NAMES) + 1, WIDTH))
        self.bias = nn.Parameter(torch.zeros(len(FOLDS), len(CONCEPT_NAMES) + 1))
        self.colours = PaintHead()
        self.register_buffer("known", known_concepts(), persistent=False)

    known: Tensor

    def reduce(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n w"]:
        """Compute the principal components of features."""
        return (features - self.mean) / self.deviation @ self.projection.T

    def concepts(self, reduced: Float[Tensor, "n w"]) -> Float[Tensor, "n 4 1025"]:
        """Compute the log-probabilities that each head gives to the concepts it knows, -inf for others."""
        logits = torch.einsum("nw,kcw->nkc", reduced, self.weight) + self.bias
        return logits.masked_fill(~self.known, -torch.inf).log_softmax(dim=2)

    def forward(
        self, seen: ObjectFeatures, heads: Int[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n 1025"], Float[Tensor, "n 9"]]:
        """Compute the probabilities of concepts and colours.

        Args:
            seen: Features of objects.
            heads: Head to ask for each object; -1 asks all: the mean log-probability of those who know a concept.
        """
        each = self.concepts(self.reduce(seen.features))
        mean = each.masked_fill(~self.known, 0.0).sum(dim=1) / self.known.sum(dim=0)
        one = each[torch.arange(len(heads), device=heads.device), heads.clamp(min=0)]
        concepts = torch.where((heads < 0)[:, None], mean.softmax(dim=1), one.exp())
        return concepts, self.colours(seen.paints).softmax(dim=1)


class StickerJudge(nn.Module):
    """Detector of objects with their concepts and colours, and of the background, on images of stickers.

    Frozen. It learnt from the artists that generators learn from: a real image is judged by a head that never learnt
    from its artist. No generator of bitvar shares its features.
    """

    def __init__(self, config: JudgeConfig | None = None) -> None:
        super().__init__()
        self.config = config if config is not None else JudgeConfig()
        self.detector, self.heads, self.network = Detector(), StickerHeads(), EfficientNet()
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path | None = None, device: str | torch.device = "cpu") -> "StickerJudge":
        """Load the judge in `folder`, by default the package's.

        Raises:
            WeightsError: if a file is missing or altered.
            UsageError: if the folder's judge knows other concepts than this package.
        """
        folder = FOLDER if folder is None else folder
        verify_folder(folder)
        config = JudgeConfig.load(folder / "config.json")
        if config.concepts_sha256 != JudgeConfig().concepts_sha256:
            why = "it knows other concepts than this package"
            raise UsageError(f"Can't use the judge in {folder}.", why, "train it with scripts/icons/sticker_judge.py")
        judge = cls(config)
        judge.take(load_tensors(folder / WEIGHTS))
        return judge.to(device)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the trained weights, named as `tensors` names them."""
        for prefix, part in self._trained().items():
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            scales = {name: own.pop(name + _SCALE) for name in list(own) if name + _SCALE in own}
            part.load_state_dict({name: value.float() * scales.get(name, 1.0) for name, value in own.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the trained weights, without the frozen network, as the folder stores them.

        They are in half precision; large ones in eight bits, with a scale for each row.
        """
        found: dict[str, Tensor] = {}
        for prefix, part in self._trained().items():
            for name, tensor in part.state_dict().items():
                if name in _IN_EIGHT_BITS:
                    scale = tensor.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8) / 127
                    found[prefix + name] = (tensor / scale).round().to(torch.int8)
                    found[prefix + name + _SCALE] = scale
                else:
                    found[prefix + name] = tensor.half().contiguous()
        return found

    def _trained(self) -> dict[str, nn.Module]:
        return {"detector.": self.detector, "heads.": self.heads}

    @torch.no_grad()
    def detect(self, images: Float[Tensor, "b 3 256 256"], heads: Sequence[int]) -> list[Detections]:
        """Find objects and background on images in [-1, 1].

        Args:
            images: Images.
            heads: Head to ask about each image's objects; -1 asks all.
        """
        images = images.to(self.heads.weight.device)
        boxes, outside, backgrounds = find_boxes(self.detector, resize(images), threshold=self.config.detection)
        every = iter(self._classify(images, boxes, backgrounds, heads))
        return [
            Detections(tuple(next(every) for _ in own), background_shares(pixels), self.config.thresholds)
            for own, pixels in zip(boxes, outside, strict=True)
        ]

    def _classify(
        self,
        images: Float[Tensor, "b 3 256 256"],
        boxes: Sequence[Sequence[tuple[float, Box]]],
        backgrounds: Float[Tensor, "b 3"],
        heads: Sequence[int],
    ) -> list[Detection]:
        """Classify every object of every image, in order."""
        found = []
        for chunk in chunks_of_candidates(boxes, _AT_ONCE):
            seen = features_of(self.network, images, chunk, backgrounds, side=CROP_SIDE)
            asked = torch.tensor([heads[each.owner] for each in chunk], device=images.device)
            concepts, colours = (part.cpu() for part in self.heads(seen, asked))
            found += [_detection(*row) for row in zip(chunk, concepts, colours, strict=True)]
        return found


def _detection(candidate: Candidate, concepts: Float[Tensor, "1025"], colours: Float[Tensor, "9"]) -> Detection:
    named = dict(zip(COLOUR_NAMES, colours.tolist(), strict=True))
    total = 1.0 - named.pop(OWN_COLOUR)
    likely = {colour: value / max(total, 1e-6) for colour, value in named.items()}
    probabilities = dict(zip(CONCEPT_NAMES, concepts[:-1].tolist(), strict=True))
    return Detection(candidate.box, candidate.confidence, probabilities, likely)
