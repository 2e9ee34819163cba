"""How well an image goes with a prompt, by two small towers over frozen networks. Knows no generator and no judge.

The score is for ranking models, and only beside that of real images and of shuffled prompts: it is no CLIP score.
EfficientNet-lite0 looks; the words come through the frozen MiniLM that the embedded model reads, too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.config import Config
from bitvar.metrics.efficientnet import HEAD_CHANNELS, STAGE_CHANNELS, EfficientNet
from bitvar.text import TextEncoder
from bitvar.weights.digests import verify_folder
from bitvar.weights.tensors import read_tensors

FOLDER: Final = Path(__file__).parents[2] / "pretrained" / "scene_alignment"

SIDE: Final = 128
"""Pixels a side that images are magnified or reduced to."""
_PLACES: Final = 4  # a side: what is left of where things are
_STAGE: Final = 4
SEEN: Final = STAGE_CHANNELS[_STAGE] * _PLACES**2 + HEAD_CHANNELS
"""Numbers that the image tower takes for an image."""
_BATCH: Final = 32


class AlignmentConfig(Config):
    """Sizes of the two towers.

    Attributes:
        width: of both towers, and of the vectors compared.
        text_width: of the text encoder's features.
        text_depth: transformer layers over them.
        num_heads: of these layers.
    """

    width: int = 256
    text_width: int = 768
    text_depth: int = 2
    num_heads: int = 4


class AlignmentModel(nn.Module):
    """Two towers whose vectors are near where image and prompt go together (Radford et al., arXiv 2103.00020)."""

    def __init__(self, config: AlignmentConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.image = nn.Sequential(
            nn.LayerNorm(SEEN),
            nn.Linear(SEEN, width),
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

    def of_images(self, seen: Float[Tensor, "b f"]) -> Float[Tensor, "b w"]:
        """Vectors of length 1, of what `see` gives."""
        return F.normalize(self.image(seen.float()), dim=1)

    def of_prompts(self, condition: TextCondition) -> Float[Tensor, "b w"]:
        """Vectors of length 1, of a text encoder's features."""
        x = self.text(self.text_in(condition.features.float()), src_key_padding_mask=~condition.mask)
        kept = condition.mask[..., None].float()
        return F.normalize(self.text_out((x * kept).sum(dim=1) / kept.sum(dim=1)), dim=1)

    def loss(self, images: Float[Tensor, "b w"], prompts: Float[Tensor, "b w"]) -> Float[Tensor, ""]:
        """Cross-entropy of finding each image's own prompt in the batch, and each prompt's image."""
        logits = images @ prompts.T * self.logit_scale.clamp(max=math.log(100.0)).exp()
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@torch.inference_mode()
def see(network: EfficientNet, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b f"]:
    """What the image tower takes: a map of a middle stage at 4 x 4 places, and the last features' mean.

    Args:
        network: frozen.
        images: in [-1, 1], of any size.
    """
    images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    stages = network.stages(images)
    places = F.adaptive_avg_pool2d(stages[_STAGE], _PLACES).flatten(1)
    return torch.cat([places, network.head(stages[-1]).mean(dim=(2, 3))], dim=1)


@dataclass(frozen=True)
class Alignment:
    """How well images go with their prompts.

    Attributes:
        num_images: how many.
        num_prompts: distinct ones.
        cosine: mean cosine of an image's vector and its prompt's, times 100.
        found: share of images whose own prompt is the nearest of all the distinct ones.
    """

    num_images: int
    num_prompts: int
    cosine: float
    found: float


class AlignmentScorer:
    """The two towers with the frozen networks before them.

    Args:
        model: trained.
        network: what looks.
        encoder: what reads.
    """

    def __init__(self, model: AlignmentModel, network: EfficientNet, encoder: TextEncoder) -> None:
        self.model, self.network, self.encoder = model.eval().requires_grad_(False), network, encoder

    @classmethod
    def load(
        cls, encoder: TextEncoder, folder: Path = FOLDER, *, device: str | torch.device = "cpu"
    ) -> "AlignmentScorer":
        """From the package, every digest verified.

        Args:
            encoder: the embedded model's text encoder, which the towers were trained with.
            folder: configuration and weights.
            device: for the networks.

        Raises:
            WeightsError: for missing or altered files.
        """
        verify_folder(folder)
        model = AlignmentModel(AlignmentConfig.load(folder / "config.json"))
        model.load_state_dict({name: tensor.float() for name, tensor in read_tensors(folder).items()})
        return cls(model.to(device), EfficientNet().to(device), encoder)

    def of_images(self, batches: Iterator[Float[Tensor, "_ 3 H W"]]) -> Float[Tensor, "n w"]:
        """Vectors of images in [-1, 1], which come in batches."""
        return torch.cat([self.model.of_images(see(self.network, images)) for images in batches])

    def of_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "n w"]:
        """Vectors of prompts."""
        parts = [prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH)]
        device = self.model.logit_scale.device
        return torch.cat([self.model.of_prompts(self.encoder.encode(part).to(device)) for part in parts])


def score_alignment(images: Float[Tensor, "n w"], prompts: Float[Tensor, "n w"], texts: Sequence[str]) -> Alignment:
    """Sum up the vectors of images and of their prompts, row by row; one at least.

    Args:
        images: of each image.
        prompts: of each image's prompt.
        texts: the prompts; equal ones count as one.
    """
    cosines = (images * prompts).sum(dim=1)
    row = {text: i for i, text in enumerate(texts)}
    place = {text: i for i, text in enumerate(row)}
    nearest = (images @ prompts[list(row.values())].T).argmax(dim=1)
    found = sum(place[text] == near for text, near in zip(texts, nearest.tolist(), strict=True))
    return Alignment(len(texts), len(row), 100 * cosines.mean().item(), found / len(texts))
