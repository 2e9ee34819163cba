"""The Frechet distance between two sets of images in a network's feature space, from moments summed in a stream.

It is biased upwards for fewer than about 2,000 images per set. A value means nothing without the name of the network
and the number of images.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.config import unknown
from bitvar.errors import UsageError, install_hint
from bitvar.finite import require_finite
from bitvar.metrics.networks import WIDTH, MobileNet, three_channels


class Moments:
    """Count, sum and sum of outer products of feature vectors, in fp64 on the CPU: enough for mean and covariance.

    Args:
        width: Width of a feature vector.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.sum = torch.zeros(width, dtype=torch.float64)
        self.outer = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "b f"]) -> None:
        """Add a batch of feature vectors.

        Raises:
            ComputationError: for NaN or infinity, which would spoil the sums.
        """
        require_finite(features, "the features of images")
        features = features.detach().cpu().double()
        self.count += len(features)
        self.sum += features.sum(dim=0)
        self.outer += features.T @ features

    def merge(self, other: "Moments") -> None:
        """Add the vectors that `other` has counted."""
        self.count += other.count
        self.sum += other.sum
        self.outer += other.outer

    def tensors(self) -> dict[str, Tensor]:
        """Copy `count`, `sum` and `outer` for `from_tensors`."""
        return {"count": torch.tensor(self.count), "sum": self.sum.clone(), "outer": self.outer.clone()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Moments":
        """Restore moments from their `tensors()`."""
        moments = cls(len(tensors["sum"]))
        moments.count = int(tensors["count"])
        moments.sum += tensors["sum"]
        moments.outer += tensors["outer"]
        return moments

    def mean(self) -> Float[Tensor, " f"]:
        """Compute the mean of the vectors."""
        return self.sum / self.count

    def covariance(self) -> Float[Tensor, "f f"]:
        """Compute the unbiased covariance of two vectors or more."""
        assert self.count > 1
        mean = self.mean()
        return (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Compute the distance between the Gaussians of two sets (Heusel et al., arXiv 1706.08500), in fp64.

    It is `|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))`. With `C = A A^T`, the last trace is the sum of the
    singular values of `A1^T A2`: real and not negative whatever the rank, even with fewer images than features.

    Raises:
        UsageError: if a set has fewer than two images.
    """
    if min(first.count, second.count) < 2:
        why = f"the sets have {first.count} and {second.count} images"
        raise UsageError("Can't compute the Frechet distance.", why, "give at least two images per set")
    return gaussian_distance(first.mean(), first.covariance(), second.mean(), second.covariance())


def gaussian_distance(
    first_mean: Float[Tensor, " f"],
    first_covariance: Float[Tensor, "f f"],
    second_mean: Float[Tensor, " f"],
    second_covariance: Float[Tensor, "f f"],
) -> float:
    """Compute the Frechet distance between two Gaussians in fp64, as `frechet_distance` explains."""
    means = first_mean.double(), second_mean.double()
    covariances = first_covariance.double(), second_covariance.double()
    overlap = torch.linalg.svdvals(_factor(covariances[0]).T @ _factor(covariances[1])).sum()
    spread = covariances[0].trace() + covariances[1].trace() - 2 * overlap
    return ((means[0] - means[1]).square().sum() + spread).clamp(min=0).item()


def _factor(covariance: Float[Tensor, "f f"]) -> Float[Tensor, "f r"]:
    """Factor a covariance as `A A^T`, with as many columns as its rank; eigenvalues within rounding count as 0."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values.abs().max()
    return vectors[:, kept] * values[kept].sqrt()


@runtime_checkable
class FeatureNetwork(Protocol):
    """A network that maps images to feature vectors."""

    title: ClassVar[str]
    """Its name in reports."""

    width: ClassVar[int]
    """Width of a vector."""

    def __call__(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b f"]:
        """Compute the features of images in [-1, 1], of any size."""
        ...


class MobileNetFeatures:
    """The 1280 features of `MobileNet` at 224 x 224 pixels."""

    title: ClassVar[str] = "MobileNetV2 (torchvision's ImageNet weights)"
    width: ClassVar[int] = WIDTH

    def __init__(self, device: torch.device | str) -> None:
        self.network = MobileNet().to(device)

    def __call__(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b f"]:
        return self.network.features(images)


class InceptionFeatures:
    """The 2048 features of Inception v3 that published FIDs use. torchmetrics and torch-fidelity download the network.

    Raises:
        UsageError: without these packages, or if the network can't be downloaded.
    """

    title: ClassVar[str] = "Inception v3 (torch-fidelity's FID weights)"
    width: ClassVar[int] = 2048

    def __init__(self, device: torch.device | str) -> None:
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            network: Any = NoTrainInceptionV3("inception-v3-compat", [str(self.width)])
        except ImportError:
            what, why = "Inception needs torchmetrics and torch-fidelity.", "one of them is not installed"
            raise UsageError(what, why, install_hint("evaluate", "torch-fidelity")) from None
        except (OSError, RuntimeError) as error:
            todo = "check the connection, or use mobilenet, which needs no download"
            raise UsageError("Can't download the Inception network.", str(error), todo) from None
        self.network = network.to(device)

    def __call__(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b f"]:
        pixels = ((three_channels(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return self.network(pixels)


FEATURE_NETWORKS: Final[dict[str, Callable[[torch.device | str], FeatureNetwork]]] = {
    "mobilenet": MobileNetFeatures,
    "inception": InceptionFeatures,
}


def feature_network(name: str, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Load a feature network by its name in `FEATURE_NETWORKS`.

    Raises:
        UsageError: for an unknown name, or if packages or weights are not available.
    """
    if name not in FEATURE_NETWORKS:
        raise UsageError(unknown("feature network", name, list(FEATURE_NETWORKS)))
    return FEATURE_NETWORKS[name](device)
