"""Filling of a masked part of an image from its surroundings, so that it leaves no trace in the coarse bits."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def fill_masked(image: Image.Image, mask: Image.Image, *, grow: float = 0.0) -> Image.Image:
    """Fill a part of an image smoothly with the colours and the opacity around it (pull-push interpolation).

    Args:
        image: Image in RGBA.
        mask: Grey mask of its size; where it is above 0, the image is filled. An image that is masked everywhere is
            returned as it is.
        grow: How far the filled part reaches over the mask, as a share of the longer side, so that the edge of what
            the mask covers doesn't colour the filling.
    """
    unknown = torch.from_numpy(np.asarray(mask) > 0).float()[None, None]
    radius = round(grow * max(image.size))
    known = 1 - F.max_pool2d(unknown, 2 * radius + 1, stride=1, padding=radius)
    if not known.any():
        return image
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    filled = torch.where(known > 0, values, _pull_push(values, known))
    return Image.fromarray(filled[0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy())


def _pull_push(values: Float[Tensor, "1 c h w"], known: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 c h w"]:
    """Average the known values at half the size until none is missing, and enlarge the averages into the gaps."""
    if bool(known.all()):
        return values
    height, width = values.shape[-2:]
    padding = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(known, padding), 2)
    sums = F.avg_pool2d(F.pad(values * known, padding), 2)
    coarse = _pull_push(sums / weight.clamp(min=1e-6), (weight > 0).float())
    enlarged = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(known > 0, values, enlarged)
