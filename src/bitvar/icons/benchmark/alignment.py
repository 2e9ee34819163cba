"""Text-image alignment by two small towers over frozen networks. Knows no generator and no judge.

The score ranks models, and only beside that of real images and of shuffled prompts: it is no CLIP score. The image
tower stands on EfficientNet-lite0, the text tower on the frozen MiniLM that the embedded model uses, too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.config import Config
from bitvar.evaluation.benchmarks.base import GeneratedImage
from bitvar.evaluation.generation.metrics import MetricResult, short
from bitvar.imaging.batches import in_batches
from bitvar.metrics.efficientnet import HEAD_CHANNELS, STAGE_CHANNELS, EfficientNet
from bitvar.text import TextEncoder
from bitvar.weights.digests import verify_folder
from bitvar.weights.model_folder import read_tensors

FOLDER: Final = Path(__file__).parents[2] / "pretrained" / "scene_alignment"

SIDE: Final = 128
"""Side, in pixels, to which images are resized."""
_CELLS: Final = 4  # a side: the resolution at which positions are kept
_STAGE: Final = 4
NUM_FEATURES: Final = STAGE_CHANNELS[_STAGE] * _CELLS**2 + HEAD_CHANNELS
"""Number of features of an image that the image tower takes."""
_BATCH: Final = 32  # prompts
_IMAGE_BATCH: Final = 16


class AlignmentConfig(Config):
    """Sizes of the two towers.

    Attributes:
        width: Width of both towers, and of their vectors.
        text_width: Width of the text encoder's features.
        text_depth: Number of transformer layers over them.
        num_heads: Number of heads of these layers.
    """

    width: int = 256
    text_width: int = 768
    text_depth: int = 2
    num_heads: int = 4


class AlignmentModel(nn.Module):
    """Two towers whose vectors are close if image and prompt match (CLIP; Radford et al., arXiv 2103.00020)."""

    def __init__(self, config: AlignmentConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.image = nn.Sequential(
            nn.LayerNorm(NUM_FEATURES),
            nn.Linear(NUM_FEATURES, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        self.text_in = nn.Linear(config.text_width, width)
        layer = nn.TransformerEncoderLayer(
            width, config.num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.text = nn.TransformerEncoder(layer, config.text_depth, enable_nested_tensor=False)
        self.text_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed_images(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b w"]:
        """Embed `image_features` as vectors of length 1."""
        return F.normalize(self.image(features.float()), dim=1)

    def embed_prompts(self, condition: TextCondition) -> Float[Tensor, "b w"]:
        """Embed a text encoder's features as vectors of length 1."""
        x = self.text(self.text_in(condition.features.float()), src_key_padding_mask=~condition.mask)
        kept = condition.mask[..., None].float()
        return F.normalize(self.text_out((x * kept).sum(dim=1) / kept.sum(dim=1)), dim=1)

    def loss(self, images: Float[Tensor, "b w"], prompts: Float[Tensor, "b w"]) -> Float[Tensor, ""]:
        """Compute the contrastive loss: cross-entropy of finding each image's own prompt in the batch, and back."""
        logits = images @ prompts.T * self.logit_scale.clamp(max=math.log(100.0)).exp()
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@torch.inference_mode()
def image_features(network: EfficientNet, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b f"]:
    """Compute the features that the image tower takes: a middle stage at 4 x 4 cells, and the last features' mean.

    Args:
        network: Frozen feature network.
        images: Images in [-1, 1], of any size.
    """
    images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    stages = network.stages(images)
    cells = F.adaptive_avg_pool2d(stages[_STAGE], _CELLS).flatten(1)
    return torch.cat([cells, network.head(stages[-1]).mean(dim=(2, 3))], dim=1)


@dataclass(frozen=True)
class Alignment:
    """Alignment of images with their prompts.

    Attributes:
        num_images: Number of images.
        num_prompts: Number of distinct prompts.
        cosine: Mean cosine of an image's vector and its prompt's, times 100.
        found: Share of images whose own prompt is the nearest of all distinct ones.
    """

    num_images: int
    num_prompts: int
    cosine: float
    found: float


class AlignmentScorer:
    """The two towers with the frozen networks before them.

    Args:
        model: Trained towers.
        network: Feature network of the image tower.
        encoder: Text encoder of the text tower.
    """

    def __init__(self, model: AlignmentModel, network: EfficientNet, encoder: TextEncoder) -> None:
        self.model, self.network, self.encoder = model.eval().requires_grad_(False), network, encoder

    @classmethod
    def load(
        cls, encoder: TextEncoder, folder: Path = FOLDER, *, device: str | torch.device = "cpu"
    ) -> "AlignmentScorer":
        """Load the towers in the package, every digest verified.

        Args:
            encoder: Text encoder of the embedded model, with which the towers were trained.
            folder: Folder of configuration and weights.
            device: Device of the networks.

        Raises:
            WeightsError: for missing or altered files.
        """
        verify_folder(folder)
        model = AlignmentModel(AlignmentConfig.load(folder / "config.json"))
        model.load_state_dict({name: tensor.float() for name, tensor in read_tensors(folder).items()})
        return cls(model.to(device), EfficientNet().to(device), encoder)

    def embed_images(self, batches: Iterator[Float[Tensor, "_ 3 H W"]]) -> Float[Tensor, "n w"]:
        """Embed images in [-1, 1], which come in batches."""
        return torch.cat([self.model.embed_images(image_features(self.network, images)) for images in batches])

    def embed_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "n w"]:
        """Embed prompts."""
        batches = [prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH)]
        device = self.model.logit_scale.device
        return torch.cat([self.model.embed_prompts(self.encoder.encode(batch).to(device)) for batch in batches])


def score_alignment(images: Float[Tensor, "n w"], prompts: Float[Tensor, "n w"], texts: Sequence[str]) -> Alignment:
    """Measure the alignment of one or more images from the vectors of both towers.

    Args:
        images: Vector of each image.
        prompts: Vector of each image's prompt.
        texts: Text of each image's prompt; equal ones count as one.
    """
    cosines = (images * prompts).sum(dim=1)
    row = {text: i for i, text in enumerate(texts)}
    column = {text: i for i, text in enumerate(row)}
    nearest = (images @ prompts[list(row.values())].T).argmax(dim=1)
    found = sum(column[text] == near for text, near in zip(texts, nearest.tolist(), strict=True))
    return Alignment(len(texts), len(row), 100 * cosines.mean().item(), found / len(texts))


class AlignmentMetric:
    """The alignment of a candidate's images, and the share of images whose own prompt is the nearest.

    Args:
        scorer: The two towers.
        device: Device of their networks.
    """

    name: str = "alignment"
    title: ClassVar[str] = "two towers over EfficientNet-lite0 and MiniLM"

    def __init__(self, scorer: AlignmentScorer, device: torch.device | str) -> None:
        self.scorer, self.device = scorer, device

    @torch.inference_mode()
    def __call__(self, images: Sequence[GeneratedImage]) -> MetricResult:
        texts = [image.prompt.text for image in images]
        batches = (batch.to(self.device) for batch in in_batches((image.open() for image in images), _IMAGE_BATCH))
        found = score_alignment(self.scorer.embed_images(batches), self.scorer.embed_prompts(texts), texts)
        return MetricResult({key: short(value) for key, value in asdict(found).items()} | {"network": self.title})
