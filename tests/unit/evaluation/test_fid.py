"""FID beside independent computations, its statistics files, and what it refuses."""

import json
from pathlib import Path
from typing import Any, ClassVar

import mpmath
import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.fid import FeatureStatistics, compute_fid, measure_images, read_statistics
from bitvar.metrics.frechet import Moments, frechet_distance, gaussian_distance


class Patches:
    """Twelve features: the means of an image's quarters."""

    title: ClassVar[str] = "means of quarters"
    width: ClassVar[int] = 12

    def __call__(self, images: Float[Tensor, "b c H W"]) -> Float[Tensor, "b f"]:
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def by_high_precision(first: np.ndarray, second: np.ndarray) -> float:
    """The distance with 60 digits: the trace of the root is the sum of the roots of the eigenvalues of the product."""
    with mpmath.workdps(60):
        means, covariances = [], []
        for rows in (first, second):
            n, width = rows.shape
            exact = mpmath.matrix(rows.tolist())
            mean = mpmath.matrix([mpmath.fsum(exact[i, j] for i in range(n)) / n for j in range(width)])
            centred = mpmath.matrix(n, width)
            for i in range(n):
                for j in range(width):
                    centred[i, j] = exact[i, j] - mean[j]
            means.append(mean)
            covariances.append(centred.T * centred / (n - 1))
        values = mpmath.eig(covariances[0] * covariances[1], left=False, right=False)
        root = mpmath.fsum(mpmath.re(mpmath.sqrt(value)) for value in values)
        trace = mpmath.fsum(c[i, i] for c in covariances for i in range(c.rows))
        return float(mpmath.fsum(x**2 for x in means[0] - means[1]) + trace - 2 * root)


def moments(rows: np.ndarray) -> Moments:
    made = Moments(rows.shape[1])
    made.add(torch.from_numpy(rows))
    return made


@pytest.mark.parametrize("count", [30, 6], ids=["full rank", "fewer images than features"])
def test_the_distance_equals_one_of_sixty_digits(count: int) -> None:
    rng = np.random.default_rng(count)
    first = rng.normal(size=(count, 8)) @ rng.normal(size=(8, 8))
    second = rng.normal(size=(25, 8)) + 0.5
    expected = by_high_precision(first, second)
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert expected > 1


def test_the_distance_equals_numpys_eigenvalues_at_width_256() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(600, 256)) * rng.uniform(0.5, 2, 256) + shift for shift in (0.0, 0.1))
    eigenvalues = np.linalg.eigvals(np.cov(first.T) @ np.cov(second.T))
    spread = (
        np.trace(np.cov(first.T)) + np.trace(np.cov(second.T)) - 2 * np.sqrt(eigenvalues.astype(complex)).real.sum()
    )
    expected = np.square(first.mean(0) - second.mean(0)).sum() + spread
    assert frechet_distance(moments(first), moments(second)) == pytest.approx(expected, abs=1e-6)


def test_the_distance_of_equal_gaussians_is_zero() -> None:
    rows = moments(np.random.default_rng(0).normal(size=(40, 8)))
    assert gaussian_distance(rows.mean(), rows.covariance(), rows.mean(), rows.covariance()) == pytest.approx(
        0, abs=1e-9
    )


def images(folder: Path, *, shift: int, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(shift)
    for i in range(count):
        Image.fromarray(rng.integers(shift, shift + 100, (16, 16, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_statistics_stand_for_the_images_they_are_of(tmp_path: Path) -> None:
    network = Patches()
    first, second = images(tmp_path / "a", shift=0), images(tmp_path / "b", shift=100, count=9)
    generated, real = measure_images(first, network), measure_images(second, network)
    report = compute_fid(generated, real, network)
    real.save(tmp_path / "real.npz")
    kept = read_statistics(tmp_path / "real.npz", network)
    assert compute_fid(generated, kept, network)["fid"] == report["fid"]
    assert (kept.images, kept.network) == (9, "means of quarters")
    assert (report["images"]["count"], report["reference"]["count"], report["few_images"]) == (6, 9, True)
    assert report["feature_network"] == "means of quarters"
    json.dumps(report)


def test_statistics_of_pytorch_fid_have_no_number_of_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(12), sigma=np.eye(12))
    kept = measure_images(tmp_path / "s.npz", Patches())
    assert (kept.images, kept.network) == (None, None)
    generated = measure_images(images(tmp_path / "a", shift=0), Patches())
    report = compute_fid(generated, kept, Patches())
    assert report["reference"]["count"] is None and report["fid"] > 0


def test_a_reference_batch_of_guided_diffusion_is_measured(tmp_path: Path) -> None:
    folder = images(tmp_path / "a", shift=0)
    arrays = np.stack([np.asarray(Image.open(folder / f"{i}.png")) for i in range(6)])
    np.savez(tmp_path / "batch.npz", arr_0=arrays)
    kept, own = measure_images(tmp_path / "batch.npz", Patches()), measure_images(folder, Patches())
    torch.testing.assert_close(kept.covariance, own.covariance)
    assert kept.images == 6
    np.savez(tmp_path / "both.npz", arr_0=arrays, mu=np.zeros(12), sigma=np.eye(12), mu_s=np.zeros(3))
    assert measure_images(tmp_path / "both.npz", Patches()).images is None


def _with(**values: Any) -> dict[str, Any]:
    return {"mu": np.zeros(12), "sigma": np.eye(12)} | values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"other": np.zeros(2)}, "holds no statistics"),
        (_with(mu=np.zeros(7)), "gives 12 features"),
        (_with(sigma=np.eye(3)), "gives 12 features"),
        (_with(network=np.asarray("Inception")), "it is of Inception"),
        (_with(sigma=np.full((12, 12), np.nan)), "NaN or infinity"),
        (_with(sigma=-np.eye(12)), "no mean and covariance"),
        (_with(sigma=np.eye(12) * 1j), "no mean and covariance"),
        ({"arr_0": np.zeros((3, 4))}, "not 8-bit images"),
        ({"mu": np.asarray([{}], dtype=object)}, "Can't read the statistics"),
    ],
    ids=["others", "mean", "covariance", "network", "nan", "negative", "complex", "no images", "objects"],
)
def test_other_statistics_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "s.npz", **values)
    with pytest.raises(UsageError, match=message):
        measure_images(tmp_path / "s.npz", Patches())


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    one = images(tmp_path / "one", shift=0, count=1)
    with pytest.raises(UsageError, match="at least two images"):
        measure_images(one, Patches())
    (one / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match="another number"):
        measure_images(one, Patches())
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match="Can't read the statistics"):
        measure_images(tmp_path / "torn.npz", Patches())
    np.savez(tmp_path / "s.npz", mu=np.zeros(12), sigma=np.eye(12))
    with pytest.raises(UsageError, match="no single images"):
        measure_images(tmp_path / "s.npz", Patches(), limit=3)
    statistics = FeatureStatistics(torch.zeros(2), torch.eye(2), 3, "x", "y", "z")
    with pytest.raises(UsageError, match=r"\.npz files"):
        statistics.save(tmp_path / "s.pt")
