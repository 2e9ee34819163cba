"""Several prompts in one image: in regions, from a scale on, or everywhere in part. One rule covers all three."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bitvar.editing.images import open_rgba
from bitvar.editing.spec import MixedPrompt
from bitvar.errors import UsageError
from bitvar.sampling.params import spread_over_scales
from bitvar.sampling.steering import ScaleLogits
from bitvar.scales import Grid

_FINE: Final = 1024
"""Side of the mask of a box."""


@dataclass(frozen=True)
class PromptMixture:
    """Mixes the guided logits of the references over the prompt's, one after the other, each by its own weight.

    Implements `sampling.steering.LogitsProcessor`.

    Attributes:
        weights: For each scale, the weight of every reference in each bit's logits, `(1, l, 1)`, from 0 to 1.
    """

    weights: Sequence[Sequence[Float[Tensor, "1 _ 1"]]]

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        mixed = logits.guided()
        for weight, reference in zip(self.weights[k], logits.references, strict=True):
            mixed = torch.lerp(mixed, logits.guided(reference), weight[..., None].to(mixed))
        return mixed

    def image(self, index: int) -> "PromptMixture":
        return self


def prompt_weights(mix: Sequence[MixedPrompt], grids: Sequence[Grid]) -> list[list[Float[Tensor, "1 _ 1"]]]:
    """Compute the weight of each further prompt in every token of every scale.

    Args:
        mix: Further prompts, with masks or boxes as shares of the image, the scales where they apply, and weights.
        grids: Grid of every scale, in tokens.

    Raises:
        UsageError: for a list of weights that doesn't name every scale, or scales that the size doesn't have.
    """
    masks = [_mask_of(mixed) for mixed in mix]
    values = [spread_over_scales("The weight of a mixed prompt", mixed.weight, len(grids)) for mixed in mix]
    for mixed in mix:
        if mixed.first_scale >= len(grids):
            why = f"it begins at scale {mixed.first_scale + 1}, and this size is generated in {len(grids)} scales"
            raise UsageError(f"The prompt {mixed.prompt!r} would never apply.", why, "begin at an earlier scale")
    weights = []
    for k, grid in enumerate(grids):
        row = []
        for mixed, mask, value in zip(mix, masks, values, strict=True):
            last = len(grids) - 1 if mixed.last_scale is None else mixed.last_scale
            share = value[k] if mixed.first_scale <= k <= last else 0.0
            row.append(share * F.interpolate(mask, size=grid, mode="area").flatten(2).transpose(1, 2))
        weights.append(row)
    return weights


def _mask_of(mixed: MixedPrompt) -> Float[Tensor, "1 1 h w"]:
    """Return where a prompt applies, fine enough for every grid."""
    if mixed.mask is not None:
        grey = np.asarray(open_rgba(mixed.mask.decode(), "the mask of a region").convert("L"), dtype=np.float32)
        return torch.from_numpy(grey / 255.0)[None, None]
    mask = torch.zeros(1, 1, _FINE, _FINE)
    left, top, width, height = (round(_FINE * share) for share in mixed.box or (0.0, 0.0, 1.0, 1.0))
    mask[..., top : top + max(1, height), left : left + max(1, width)] = 1.0
    return mask
