"""Where two prompts disagree about an image: a mask that nobody has to draw.

Both prompts' probabilities are computed on the image's own bits. Where the target prompt finds those bits less likely
than the source prompt does, the image has to change. MLN (arXiv 2604.14591) localises edits of category tokens by
attention; with bits, the probabilities themselves say it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.bits import to_cells, to_tokens
from bitvar.editing.processors import probability
from bitvar.sampling.params import ScaleParams
from bitvar.scales import Grid


def disagreement(
    bits: Sequence[Bool[Tensor, "1 d _ _"]],
    source: Sequence[Float[Tensor, "1 _ c 2"]],
    target: Sequence[Float[Tensor, "1 _ c 2"]],
    *,
    params: Sequence[ScaleParams],
    patch_size: int,
) -> Float[Tensor, "1 1 h w"]:
    """Compute how much less likely the target prompt finds each cell of an image than the source prompt does.

    Args:
        bits: The image's bits of every scale, in tokenizer cells.
        source: Guided logits of the source prompt on these bits, for every scale.
        target: Those of the target prompt.
        params: Settings of each scale.
        patch_size: Side of a token in tokenizer cells.

    Returns:
        The mean fall of a bit's probability, summed over all scales but the first, which covers the whole image, on
        the last scale's grid; divided by its maximum. All zeros where the prompts agree.
    """
    last: Grid = (bits[-1].shape[-2], bits[-1].shape[-1])
    total = torch.zeros(1, 1, *last, device=bits[-1].device)
    for k in range(min(1, len(bits) - 1), len(bits)):
        before, after = probability(source[k], params[k]), probability(target[k], params[k])
        own = to_tokens(bits[k].float(), patch_size) > 0.5
        fall = torch.where(own, before - after, after - before).clamp(min=0)
        grid = (bits[k].shape[-2] // patch_size, bits[k].shape[-1] // patch_size)
        cells = to_cells(fall, grid, patch_size).mean(dim=1, keepdim=True)
        total = total + F.interpolate(cells, size=last, mode="bilinear", align_corners=False)
    highest = total.max()
    return total / highest if highest > 0 else total


def make_local_gate(
    disagreements: Float[Tensor, "b 1 h w"], *, threshold: float, grow: int
) -> Float[Tensor, "b 1 h w"]:
    """Make a gate that is 1 where the disagreement exceeds a threshold, or touches such a cell, and 0 elsewhere.

    Args:
        disagreements: Disagreement of each image, from 0 to 1.
        threshold: Share of the largest disagreement that counts.
        grow: Number of cells by which the gate is widened.
    """
    chosen = (disagreements > threshold).float()
    return F.max_pool2d(chosen, 2 * grow + 1, stride=1, padding=grow) if grow else chosen
