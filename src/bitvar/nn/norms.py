"""Norms, computed in fp32 for activations of any dtype."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-6


def layer_norm(x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
    """Apply LayerNorm without affine parameters, and return fp32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=EPSILON)


def modulated_norm(
    x: Float[Tensor, "b l c"], scale: Float[Tensor, "b 1 c"], shift: Float[Tensor, "b 1 c"]
) -> Float[Tensor, "b l c"]:
    """Compute `LN(x) * (1 + scale) + shift` in fp32, and return it in the dtype of `x`."""
    return torch.addcmul(shift.float(), layer_norm(x), 1 + scale.float()).to(x.dtype)


class LayerNorm(nn.Module):
    """LayerNorm with affine parameters, computed in fp32 and returned in the dtype of its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return F.layer_norm(x.float(), x.shape[-1:], self.weight.float(), self.bias.float(), EPSILON).to(x.dtype)


class RMSNorm(nn.Module):
    """RMSNorm, computed in fp32 and returned in the dtype of its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), EPSILON).to(x.dtype)


class PixelNorm(nn.Module):
    """RMSNorm over the channels of each position (Karras et al., arXiv 1710.10196), with its mean square in fp32.

    Positions are independent of one another, so that the result doesn't depend on the image's size.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        square = x.float().square().mean(dim=1, keepdim=True)
        scaled = x * (square + EPSILON).rsqrt().to(x.dtype)
        return torch.addcmul(self.bias.to(x.dtype)[:, None, None], scaled, self.weight.to(x.dtype)[:, None, None])


class GroupNorm(nn.Module):
    """GroupNorm in the dtype of its input. PyTorch accumulates its statistics in fp32."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), EPSILON)
