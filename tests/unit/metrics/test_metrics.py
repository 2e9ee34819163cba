"""Distances between images and between sets of images, and the network that sees them."""

import json
import math
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from bitvar.errors import UsageError, WeightsError
from bitvar.metrics import networks
from bitvar.metrics.distances import MAX_PSNR, Lpips, PerceptualDistance, perceptual_distance, psnr, ssim
from bitvar.metrics.frechet import InceptionFeatures, Moments, feature_network, frechet_distance
from bitvar.metrics.networks import MobileNet

GOLDEN = {0: 1.0450, 900: 0.7980, 501: 3.1381, 645: 3.0236, 1244: 3.2487, 1: 0.0}
"""Some features of `make_image()`."""


@pytest.fixture(scope="module")
def network() -> MobileNet:
    return MobileNet()


def make_image(height: int = 96, width: int = 128) -> Float[Tensor, "1 3 H W"]:
    """Three ripples of different direction and length, one a channel, in [-1, 1]."""
    y = torch.arange(height)[:, None] / 16
    x = torch.arange(width)[None, :] / 16
    return torch.stack([torch.sin(y * x), torch.cos(3 * y - x), torch.sin(2 * x + y)])[None]


def blurred(images: Float[Tensor, "b c H W"], by: int) -> Float[Tensor, "b c H W"]:
    return F.avg_pool2d(images, 2 * by + 1, stride=1, padding=by, count_include_pad=False)


def test_mobilenet_sees_what_it_saw(network: MobileNet) -> None:
    """Golden; the same tensors classified photographs rightly under torchvision's classifier."""
    with torch.inference_mode():
        features = network.features(make_image())[0]
    assert features[list(GOLDEN)].tolist() == pytest.approx(list(GOLDEN.values()), abs=2e-3)
    assert features.mean().item() == pytest.approx(0.4205, abs=1e-3)


def test_a_image_alone_is_as_in_a_batch(network: MobileNet) -> None:
    images = torch.cat([make_image(), make_image().flip(3)])
    with torch.inference_mode():
        assert torch.allclose(network.features(images)[1:], network.features(images[1:]), atol=1e-4)


@pytest.mark.parametrize(("channels", "like"), [(1, (0, 0, 0)), (2, (0, 0, 0)), (4, (0, 1, 2))])
def test_any_number_of_channels(network: MobileNet, channels: int, like: tuple[int, ...]) -> None:
    images = torch.cat([make_image(), -make_image()], dim=1)[:, :channels]
    with torch.inference_mode():
        assert torch.equal(network.features(images), network.features(images[:, list(like)]))


def test_stages_shrink_by_two(network: MobileNet) -> None:
    shapes = [tuple(stage.shape[1:]) for stage in network.stages(make_image(64, 96))]
    assert shapes == [(16, 32, 48), (24, 16, 24), (32, 8, 12), (96, 4, 6), (320, 2, 3)]


def test_the_network_is_frozen_in_train_mode_too(network: MobileNet) -> None:
    with torch.inference_mode():
        before = network.features(make_image())
        assert torch.equal(network.train().features(make_image()), before)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_making_a_network_draws_no_random_numbers() -> None:
    state = torch.random.get_rng_state()
    MobileNet()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mobilenet_v2"
    shutil.copytree(networks.FOLDER, folder)
    monkeypatch.setattr(networks, "FOLDER", folder)
    data = bytearray((folder / networks.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / networks.WEIGHTS).write_bytes(data)
    with pytest.raises(WeightsError, match="was altered"):
        MobileNet()
    (folder / networks.WEIGHTS).unlink()
    with pytest.raises(WeightsError, match="Can't read"):
        MobileNet()


def test_the_package_says_where_the_weights_are_from() -> None:
    card = (networks.FOLDER / "README.md").read_text(encoding="utf-8")
    assert "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889" in card
    assert "BSD 3-Clause License" in card
    assert set(json.loads((networks.FOLDER / "SHA256SUMS.json").read_text())) == {"README.md", networks.WEIGHTS}


def test_psnr_is_that_of_8_bits() -> None:
    original = torch.randint(0, 250, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    worse = original + torch.tensor([5, 1])[:, None, None, None]
    values = psnr(worse / 127.5 - 1, original / 127.5 - 1)
    assert values.tolist() == pytest.approx([20 * math.log10(255 / 5), 20 * math.log10(255)], abs=1e-3)
    assert psnr(original / 127.5 - 1, original / 127.5 - 1).tolist() == [MAX_PSNR] * 2


def test_ssim_falls_with_blur() -> None:
    images = torch.cat([make_image(), make_image().flip(3)])
    values = [ssim(blurred(images, by), images) for by in (0, 1, 3)]
    assert values[0].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert (values[0] > values[1]).all()
    assert (values[1] > values[2]).all()
    assert ssim(images[:1, :, :6, :6], images[:1, :, :6, :6]).shape == (1,)
    whole = structural_similarity_index_measure(blurred(images, 3) / 2, images / 2, data_range=1.0, reduction="none")
    assert torch.allclose(ssim(blurred(images, 3) - 1, images - 1), whole, atol=1e-5)


def test_the_distance_grows_with_blur(network: MobileNet) -> None:
    images = torch.cat([make_image(), make_image().flip(3)])
    distance = PerceptualDistance(network)
    values = [distance(blurred(images, by), images) for by in (0, 1, 3)]
    assert values[0].tolist() == [0, 0]
    assert (values[1] < values[2]).all()
    assert (values[2] < 4 * 5).all()
    assert torch.allclose(distance(images[1:], blurred(images, 3)[1:]), values[2][1:], atol=1e-4)


def test_the_distance_can_be_climbed_down(network: MobileNet) -> None:
    goal = make_image(64, 64)
    start = blurred(goal, 3).requires_grad_()
    distance = PerceptualDistance(network)
    before = distance(start, goal).sum()
    before.backward()
    assert start.grad is not None
    with torch.no_grad():
        step = start - 0.01 * start.grad / start.grad.abs().max()
        assert distance(step, goal).item() < before.item()
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance(flat, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_moments_are_those_of_all_features() -> None:
    features = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) + 3
    streamed, rest = Moments(7), Moments(7)
    streamed.add(features[:1])
    streamed.add(features[1:20])
    rest.add(features[20:])
    streamed.merge(Moments.from_tensors(rest.tensors()))
    assert streamed.count == 50
    assert torch.allclose(streamed.mean(), features.double().mean(dim=0))
    assert torch.allclose(streamed.covariance(), features.double().T.cov())
    streamed.tensors()["sum"].zero_()
    assert streamed.sum.abs().min() > 0


def test_frechet_distance_is_that_of_gaussians() -> None:
    """Where covariances commute: |m1 - m2|^2 + sum((s1 - s2)^2) over the axes they share, whatever their rotation."""
    generator = torch.Generator().manual_seed(1)
    n, width = 64, 6
    rotation = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator)).Q
    white = torch.linalg.qr(torch.randn(n, width + 1, dtype=torch.float64, generator=generator)).Q
    white = white - white.mean(dim=0)
    white = torch.linalg.qr(white).Q[:, :width] * math.sqrt(n - 1)
    deviations = torch.tensor([[1, 2, 3, 0, 0, 4], [2, 2, 0, 0, 1, 1]], dtype=torch.float64)
    means = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 0, 2, 0, 0, 0]], dtype=torch.float64)
    sets = [Moments(width), Moments(width)]
    for i, moments in enumerate(sets):
        moments.add(((white * deviations[i] + means[i]) @ rotation).double())
    wanted = (deviations[0] - deviations[1]).square().sum() + 5
    assert frechet_distance(*sets) == pytest.approx(wanted.item(), rel=1e-9)


def test_equal_images_have_a_distance() -> None:
    """Covariances of rank 0."""
    sets = [Moments(3), Moments(3)]
    for moments, value in zip(sets, (1.0, 2.0), strict=True):
        moments.add(torch.full((4, 3), value))
    assert frechet_distance(*sets) == pytest.approx(3)


def test_few_images_of_many_features_have_a_distance() -> None:
    """Covariances of rank 4 in 40 dimensions."""
    features = torch.randn(5, 40, generator=torch.Generator().manual_seed(2))
    sets = [Moments(40), Moments(40), Moments(40)]
    for moments, batch in zip(sets, (features, features, features + 2), strict=True):
        moments.add(batch)
    assert frechet_distance(sets[0], sets[1]) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(sets[0], sets[2]) == pytest.approx(4 * 40, rel=1e-6)
    with pytest.raises(UsageError, match="at least two images"):
        frechet_distance(sets[0], Moments(40))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'mobilenet'"):
        feature_network("mobilnet")
    with pytest.raises(UsageError, match="did you mean 'lpips'"):
        perceptual_distance("lpip")


def test_named_networks_are_what_they_say(network: MobileNet) -> None:
    seer = feature_network("mobilenet", "cpu")
    assert torch.equal(seer(make_image()), network.features(make_image()))
    assert seer.width == 1280
    assert "MobileNetV2" in seer.title
    assert isinstance(perceptual_distance("mobilenet", "cpu"), PerceptualDistance)


@pytest.mark.parametrize(("name", "maker"), [("lpip", Lpips), ("fid", lambda: InceptionFeatures("cpu"))])
def test_what_is_not_installed_is_said(name: str, maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"torchmetrics.image.{name}", None)
    with pytest.raises(UsageError, match=r'pip install -e ".*\[evaluate\]" torch'):
        maker()


def test_ssim_without_torchmetrics_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(UsageError, match="SSIM needs torchmetrics"):
        ssim(make_image(), make_image())


class NoConnection(nn.Module):
    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        raise OSError("no route to host")


class Sums(nn.Module):
    """In the place of a downloaded network: shows what it was given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    @property
    def net(self) -> nn.Module:
        return self

    def forward(self, images: Tensor, originals: Tensor | None = None) -> Tensor:
        if originals is None:
            assert images.dtype == torch.uint8
            return images.float().mean(dim=(2, 3))
        return (images - originals).abs().sum(dim=(1, 2, 3), keepdim=True)


def pretend(monkeypatch: pytest.MonkeyPatch, network: type[nn.Module]) -> None:
    for module, name in (("lpip", "LearnedPerceptualImagePatchSimilarity"), ("fid", "NoTrainInceptionV3")):
        made: Any = SimpleNamespace(**{name: network})
        stand_in: ModuleType = made
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", stand_in)


def test_what_can_not_be_downloaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, NoConnection)
    with pytest.raises(UsageError, match=r"Can't download AlexNet(.|\n)*no route to host"):
        perceptual_distance("lpips")
    with pytest.raises(UsageError, match=r"Can't download the Inception network(.|\n)*no route to host"):
        feature_network("inception")


def test_downloaded_networks_get_what_they_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Sums)
    images = torch.tensor([-1.0, 1.0, 1.5])[None, :, None, None].expand(2, 3, 32, 32)
    assert feature_network("inception")(images)[0].tolist() == [0, 255, 255]
    grey = torch.zeros(2, 1, 32, 32)
    assert perceptual_distance("lpips")(grey, grey + 1).tolist() == [3 * 32 * 32] * 2
