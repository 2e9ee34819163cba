"""MobileNetV2 as a frozen feature network, with its weights in the package."""

import hashlib
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bitvar.config import read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.files import read_plain

FOLDER: Final = Path(__file__).parents[1] / "pretrained" / "mobilenet_v2"
WEIGHTS: Final = "model.safetensors"
WIDTH: Final = 1280
SIDE: Final = 224
"""Side, in pixels, of the images that it was trained on."""

_BLOCKS: Final = (3, 6, 13, 17)
"""Blocks whose outputs are stages, by torchvision's numbers; the first stage is block 1, the end of the stem."""

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)


class MobileNet(nn.Module):
    """MobileNetV2 (Sandler et al., arXiv 1801.04381), trained on ImageNet by torchvision; without its classifier.

    Frozen, in fp32. Batch norms are folded into the convolutions, so training and evaluation mode are the same.
    Gradients flow to the images. Construction draws nothing from the global generator.

    Raises:
        WeightsError: if its file in the package is missing or altered.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = _load_network(FOLDER)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        self.requires_grad_(False)

    def features(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b 1280"]:
        """Compute the features that the classifier would take, after resizing images to 224 x 224 whatever their ratio.

        Args:
            images: Images in [-1, 1], converted by `three_channels`.
        """
        images = three_channels(images)
        if images.shape[-2:] != (SIDE, SIDE):
            images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True)
        return self.network(self._normalized(images)).pooler_output

    def stages(self, images: Float[Tensor, "b c H W"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Compute the feature maps after blocks 1, 3, 6, 13 and 17 for images in [-1, 1] at their own size.

        Cells are 2, 4, 8, 16 and 32 pixels wide; the maps have 16, 24, 32, 96 and 320 channels.
        """
        maps = [self.network.conv_stem(self._normalized(three_channels(images)))]
        x = maps[0]
        for number, block in enumerate(self.network.layer, start=2):
            x = block(x)
            if number in _BLOCKS:
                maps.append(x)
        return maps

    def _normalized(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
        return ((images + 1) / 2 - self.mean) / self.std


def three_channels(images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b 3 H W"]:
    """Convert images to fp32 RGB: the first channel three times if there are fewer than three, else the first three."""
    images = images.float()
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)


def _load_network(folder: Path) -> Any:
    """Load the `transformers` model and fold its batch norms."""
    from transformers.models.mobilenet_v2 import MobileNetV2Config, MobileNetV2Model

    # padding and epsilon as in torchvision, not as in the TensorFlow original
    config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, finegrained_output=True)
    with torch.device("meta"):
        network = MobileNetV2Model(config).eval()
    tensors = {name: tensor.float() for name, tensor in read_weights(folder).items()}
    network.load_state_dict(tensors, assign=True)
    layers: list[Any] = [module for module in network.modules() if hasattr(module, "normalization")]
    for layer in layers:
        layer.convolution = fuse_conv_bn_eval(layer.convolution, layer.normalization)
        layer.normalization = None
    return network


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a frozen network in the package and verify their digest.

    Raises:
        WeightsError: if the file is missing or altered.
    """
    path = folder / WEIGHTS
    try:
        expected = read_json(folder / "SHA256SUMS.json").get(WEIGHTS)
        data = read_plain(path)
    except (UsageError, OSError) as error:
        raise WeightsError(f"Can't read {path}.", str(error), "install bitvar again") from None
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        why = f"its sha256 is {found}, expected {expected}"
        raise WeightsError(f"{path} was altered.", why, "install bitvar again")
    return load(data)
