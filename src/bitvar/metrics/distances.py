"""Distances between each image and its original: PSNR, SSIM, block-mean error and perceptual distances.

Images are in [-1, 1]. The PSNR of 8-bit images mapped there (`v / 127.5 - 1`) equals that of the 8-bit values.
"""

from collections.abc import Callable
from typing import ClassVar, Final, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.config import unknown
from bitvar.errors import UsageError, explain, install_hint
from bitvar.metrics.networks import MobileNet, three_channels

BLOCK_SIDE: Final = 16
"""Side, in pixels, of the blocks of `block_mean_error`; a smaller image is a single block."""

MAX_PSNR: Final = 100.0
"""Upper bound in dB, reached by equal images, so that means stay finite."""


@runtime_checkable
class Distance(Protocol):
    """A perceptual distance between images in [-1, 1]: 0 for equal ones, differentiable in both."""

    title: ClassVar[str]
    """Its name in reports."""

    name: ClassVar[str]
    """Its name among the metrics of a run."""

    min_side: ClassVar[int]
    """Smallest side, in pixels, of the images that it accepts."""

    def __call__(
        self, reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, " b"]: ...


def psnr(reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Compute the peak signal-to-noise ratio of each image in dB, with the range of [-1, 1] as peak; at most 100."""
    error = ((reconstruction.float() - images.float()) / 2).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=10 ** (-MAX_PSNR / 10)).log10()


def ssim(reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Compute the structural similarity of each image (Wang et al. 2004), averaged over its channels.

    The window is an 11 x 11 Gaussian with sigma 1.5.

    Args:
        reconstruction: Reconstructed images, at least 6 pixels a side.
        images: Original images.

    Raises:
        UsageError: without torchmetrics.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise UsageError(_missing("SSIM needs torchmetrics.", "it is not installed")) from None
    unit, original = ((batch.float() + 1) / 2 for batch in (reconstruction, images))
    values = []
    # one channel at a time takes a third of the memory
    for one, other in zip(unit.split(1, dim=1), original.split(1, dim=1), strict=True):
        value = structural_similarity_index_measure(one, other, data_range=1.0, reduction="none")
        assert isinstance(value, Tensor)
        values.append(value.reshape(len(images)))
    return torch.stack(values).mean(dim=0)


def block_mean_error(reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]) -> Float[Tensor, " b"]:
    """Compute the block-mean error: mean absolute difference of the means over 16 x 16 blocks, on a scale of 255.

    Noise averages out in a block; a wrong colour doesn't.
    """
    error = (reconstruction.float() - images.float()) * 127.5
    return F.avg_pool2d(error, min(BLOCK_SIDE, *error.shape[-2:])).abs().mean(dim=(1, 2, 3))


class PerceptualDistance(nn.Module):
    """The MobileNetV2 feature distance: LPIPS without learnt weights, so the two can't be compared.

    At each of the five stages (`MobileNet.stages`), a cell's channels are scaled to length 1; the squared distance of
    two such vectors, between 0 and 4, is averaged over the cells. The distance is the sum over the stages.

    Args:
        network: Feature network; a new one by default.
    """

    title: ClassVar[str] = "MobileNetV2 feature distance"
    name: ClassVar[str] = "mobilenet_distance"
    min_side: ClassVar[int] = 1

    def __init__(self, network: MobileNet | None = None) -> None:
        super().__init__()
        self.network = MobileNet() if network is None else network

    def forward(
        self, reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, " b"]:
        """Compute the distance of each image at its own size."""
        pairs = zip(self.network.stages(reconstruction), self.network.stages(images), strict=True)
        stages = [(F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1) for a, b in pairs]
        return torch.stack([stage.mean(dim=(1, 2)) for stage in stages]).sum(dim=0)


class Lpips(nn.Module):
    """LPIPS (Zhang et al., arXiv 1801.03924), from torchmetrics, with torchvision's AlexNet, which is downloaded.

    Raises:
        UsageError: without these packages, or if AlexNet can't be downloaded.
    """

    title: ClassVar[str] = "LPIPS (AlexNet)"
    name: ClassVar[str] = "lpips"
    min_side: ClassVar[int] = 32

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
        except ImportError:
            what, why = "LPIPS needs torchmetrics and torchvision.", "one of them is not installed"
            raise UsageError(_missing(what, why, "torchvision")) from None
        except (OSError, RuntimeError) as error:
            todo = "check the connection, or use the mobilenet distance, which needs no download"
            raise UsageError("Can't download AlexNet for LPIPS.", str(error), todo) from None

    def forward(
        self, reconstruction: Float[Tensor, "b c H W"], images: Float[Tensor, "b c H W"]
    ) -> Float[Tensor, " b"]:
        """Compute the distance of each image at its own size, at least 32 pixels a side."""
        return self.network(three_channels(reconstruction), three_channels(images)).flatten()


DISTANCES: Final[dict[str, Callable[[], Distance]]] = {"mobilenet": PerceptualDistance, "lpips": Lpips}


def perceptual_distance(name: str, device: torch.device | str = "cpu") -> Distance:
    """Load a perceptual distance by its name in `DISTANCES`.

    Raises:
        UsageError: for an unknown name, or if packages or weights are not available.
    """
    if name not in DISTANCES:
        raise UsageError(unknown("distance", name, list(DISTANCES)))
    distance = DISTANCES[name]()
    return distance.to(device) if isinstance(distance, nn.Module) else distance


def _missing(what: str, why: str, *more: str) -> str:
    return explain(what, why, install_hint("evaluate", *more))
