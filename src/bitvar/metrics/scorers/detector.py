"""Detection of COCO's 80 classes by Mask2Former (Cheng et al., arXiv 2112.01527), as transformers implements it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from bitvar.errors import WeightsError
from bitvar.metrics.scorers.folders import ScorerFolder, normalized
from bitvar.weights.tensors import load_tensors

_MEAN: Final = (123.675 / 255, 116.28 / 255, 103.53 / 255)
_STD: Final = (58.395 / 255, 57.12 / 255, 57.375 / 255)
_SHORT, _LONG, _MULTIPLE = 800, 1333, 32
"""Sides of the scaled image that the published COCO configuration uses, and what the padded sides are multiples of."""

_MAX_OBJECTS: Final = 100


@dataclass(frozen=True)
class Detection:
    """An object.

    Attributes:
        label: Index of its class.
        score: Confidence, 0 to 1: the probability of the class times the mean probability within the mask.
        box: Left, top, right and bottom edge of the mask in pixels.
        mask: Pixels of the object.
    """

    label: int
    score: float
    box: tuple[float, float, float, float]
    mask: Bool[np.ndarray, "H W"]


class Mask2FormerDetector:
    """Instance segmentation.

    Args:
        folder: Mask2Former for instances in the format of transformers, such as the one with Swin-S for COCO.
        num_classes: Number of classes that it must have.
        device: Device of the network.
        sides: Shorter and longest side to which images are scaled.
    """

    def __init__(
        self,
        folder: ScorerFolder,
        num_classes: int,
        device: torch.device | str = "cpu",
        sides: tuple[int, int] = (_SHORT, _LONG),
    ) -> None:
        from transformers import Mask2FormerConfig, Mask2FormerModel

        config: Any = folder.load(Mask2FormerConfig.from_pretrained)
        if config.num_labels != num_classes:
            why = f"it knows {config.num_labels} classes, and COCO has {num_classes}"
            raise WeightsError(f"{folder.name} can't judge these prompts.", why, "give a COCO instance model")
        # the library's class with a head constructs a training loss, which needs scipy
        network: Any = Mask2FormerModel(config)
        head = nn.Linear(config.hidden_dim, num_classes + 1)
        tensors = load_tensors(folder.path / "model.safetensors")
        try:
            network.load_state_dict(_with_prefix(tensors, "model."), strict=True)
            head.load_state_dict(_with_prefix(tensors, "class_predictor."), strict=True)
        except RuntimeError as error:
            why = " ".join(str(error).split())[:200]
            raise WeightsError(f"Can't load a detector from {folder.name}.", why, "check the folder") from None
        self.network = network.eval().requires_grad_(False).to(device)
        self.head, self.sides = head.eval().requires_grad_(False).to(device), sides

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> list[Detection]:
        """Detect all objects of an image, at most 100, whatever their confidence."""
        pixels, (height, width) = self._prepared(image)
        mask = torch.ones_like(pixels[:, 0], dtype=torch.long)
        output = self.network(pixel_values=pixels, pixel_mask=mask, output_hidden_states=True)
        logits = self.head(output.transformer_decoder_intermediate_states[-1].transpose(0, 1))[0]
        masks = F.interpolate(
            output.masks_queries_logits[-1].float(), size=pixels.shape[-2:], mode="bilinear", align_corners=False
        )[..., :height, :width]
        masks = F.interpolate(masks, size=(image.height, image.width), mode="bilinear", align_corners=False)[0]
        return _instances(logits.float(), masks)

    def _prepared(self, image: Image.Image) -> tuple[Float[Tensor, "1 3 H W"], tuple[int, int]]:
        """Scale an image, keeping its ratio, and pad it right and below. Returns it with its size before padding."""
        short, long = self.sides
        scale = min(short / min(image.size), long / max(image.size))
        width, height = (int(side * scale + 0.5) for side in image.size)
        planes = normalized(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), _MEAN, _STD)
        across, down = -width % _MULTIPLE, -height % _MULTIPLE
        return F.pad(planes, (0, across, 0, down))[None].to(self.head.weight), (height, width)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _instances(logits: Float[Tensor, "q c"], masks: Float[Tensor, "q H W"]) -> list[Detection]:
    """Turn queries into objects: the best pairs of query and class, each with the mask of its query."""
    classes = logits.shape[1] - 1  # the last is "nothing"
    best = logits.softmax(dim=-1)[:, :-1].flatten().topk(min(_MAX_OBJECTS, len(logits) * classes))
    found = []
    for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        mask = masks[index // classes]
        inside = mask > 0
        if not bool(inside.any()):
            continue
        quality = mask.sigmoid()[inside].mean().item()
        found.append(Detection(index % classes, score * quality, _box(inside), inside.cpu().numpy()))
    return found


def _box(inside: Bool[Tensor, "H W"]) -> tuple[float, float, float, float]:
    rows, columns = (inside.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def boxes_and_masks(objects: Sequence[Any]) -> list[tuple[Any, Any]]:
    """List the boxes and masks of objects, as a colour classifier takes them."""
    return [(entry.box, entry.mask) for entry in objects]
