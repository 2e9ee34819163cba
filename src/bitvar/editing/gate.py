"""The gate: how far each cell of the latent may change, from 0 to 1.

An edit composes in code space: at each scale it adds `U(source) + gate * (U(new) - U(source))`, where U resizes a
scale's codes to the last grid. Where the gate is 0, the latent equals the source's at every scale, by arithmetic.
Equal latents don't mean equal pixels, since the decoder looks around; `paste` takes care of those.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import bits_to_codes
from bitvar.scales import Grid

GROW: Final = 1 / 64
"""How far a mask is widened where an edit doesn't say, as a share of the longer side."""


def compose(
    source: Float[Tensor, "b d h w"], new: Float[Tensor, "b d h w"], gate: Float[Tensor, "#b 1 h w"]
) -> Float[Tensor, "b d h w"]:
    """Compose two scales' resized codes: exactly `source` where the gate is 0, and exactly `new` where it is 1."""
    return torch.lerp(source, new, gate.expand_as(new))


def make_gate(mask: Image.Image, grid: Grid, *, grow: float, feather: float) -> Float[Tensor, "1 1 h w"]:
    """Make the gate of a mask.

    Args:
        mask: Grey mask of the model's canvas, 255 where it may change.
        grid: Last grid of the schedule, in cells.
        grow: How far the mask is widened, as a share of the canvas's longer side.
        feather: Standard deviation of the blur around it, as a share of the longer side. Cells that the mask touches
            keep their value.
    """
    values = torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255.0)[None, None]
    radius = round(grow * max(mask.size))
    if radius:
        values = F.max_pool2d(values, 2 * radius + 1, stride=1, padding=radius)
    cells = F.adaptive_max_pool2d(values, grid)
    return torch.maximum(cells, _blurred(cells, feather * max(grid))).clamp(0, 1)


def _blurred(values: Float[Tensor, "1 1 h w"], sigma: float) -> Float[Tensor, "1 1 h w"]:
    """Blur by a Gaussian of standard deviation `sigma` in cells, which ends at three of them."""
    radius = math.ceil(3 * sigma)
    if radius == 0:
        return values
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(values, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def gate_at(gate: Float[Tensor, "b 1 h w"], grid: Grid) -> Float[Tensor, "b 1 hk wk"]:
    """Average the gate over the cells of a coarser grid."""
    return pyramid.residual_at(gate, torch.zeros_like(gate), grid)


class GatedSource:
    """Composes every scale with a source image's. Implements `sampling.steering.LatentBlend`.

    Args:
        bits: Bits of the source's scales, `(1, d, h_k, w_k)`, the same for all images.
        gate: Gate of each image, `(b, 1, h, w)`, or of all of them, `(1, 1, h, w)`.
        code_norms: Norm of each scale's codes.
    """

    def __init__(self, bits: Sequence[Bool[Tensor, "1 d _ _"]], gate: Tensor, code_norms: Sequence[float]) -> None:
        self.bits, self.gate, self.code_norms = tuple(bits), gate, tuple(code_norms)

    def blend(self, k: int, new: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Compose the new codes with the source's, by the gate."""
        codes = bits_to_codes(self.bits[k], self.code_norms[k])
        source = pyramid.enlarge(codes, (new.shape[-2], new.shape[-1])).to(new.device)
        return compose(source.expand_as(new), new, self.gate.to(new.device))

    def image(self, index: int) -> "GatedSource":
        """The same blend, with the image's own gate: all images share the source."""
        own = self.gate if len(self.gate) == 1 else self.gate[index : index + 1]
        return GatedSource(self.bits, own, self.code_norms)
