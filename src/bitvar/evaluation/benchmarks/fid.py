"""FID (Heusel et al., arXiv 1706.08500): the Frechet distance between generated and real images, or their statistics.

A value means nothing without the number of images and the feature network, so no result is without them. Statistics are
`.npz` files, in pytorch-fid's layout (`mu`, `sigma`) or guided-diffusion's (images as `arr_0`, perhaps with both).
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from bitvar.data.layouts import Rejected
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt, GeneratedImage
from bitvar.evaluation.benchmarks.layout import IMAGES, Drawing
from bitvar.evaluation.benchmarks.prompt_sets import SPLIT, PromptSet
from bitvar.evaluation.reconstruction.images import ImageStream, open_record
from bitvar.files import atomic_path
from bitvar.imaging.batches import in_batches
from bitvar.imaging.open import ImageLimits, RefusedError
from bitvar.metrics.frechet import FeatureNetwork, Moments, gaussian_distance
from bitvar.metrics.scorers.folders import file_digest

STATISTICS: Final = ".npz"
_BATCH: Final = 32
_FEW: Final = 2048  # images below which a covariance of Inception's features is singular


class FidLayout:
    """Captions of a captioned set as prompts, and `000000.png` and so on as images.

    Args:
        split: Split of the set; None for all samples.
    """

    name: str = "fid"
    title: str = "FID (arXiv 1706.08500)"
    images_per_prompt: int = 1

    def __init__(self, split: str | None = None) -> None:
        self.split = split

    def read_prompts(self, given: Path | None) -> PromptSet:
        """Read the first caption of each sample."""
        if given is None:
            raise UsageError("Name a captioned set.", "its captions are the prompts", "give a folder, table or index")
        prompts = []
        for number, record in enumerate(ImageStream([given], split=self.split)):
            if isinstance(record, Rejected):
                raise UsageError(f"Can't read {record.name}.", record.detail, "repair it: bitvar data check")
            if not record.captions:
                why = f"{record.name} has no caption"
                raise UsageError(f"{given} holds no prompts.", why, "give a captioned set or an index")
            prompts.append(EvalPrompt(f"{number:06d}", record.captions[0], SPLIT, "caption"))
        if not prompts:
            raise UsageError(f"{given} holds no prompts.", "it has no samples", "check the path and the split")
        return PromptSet(tuple(prompts), f"{given}, split {self.split or 'all'}")

    def drawings(self, prompts: Sequence[EvalPrompt], count: int) -> list[Drawing]:
        names = [(prompt, i, f"_{i}" if i else "") for prompt in prompts for i in range(count)]
        return [Drawing(prompt, i, f"{IMAGES}/{prompt.id}{end}.png") for prompt, i, end in names]

    def finish(self, folder: Path, prompts: Sequence[EvalPrompt], count: int) -> None:
        del folder, prompts, count  # the images are all that there is

    def find(self, images: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
        paths = ((prompt, images / f"{prompt.id}.png") for prompt in prompts)
        return [GeneratedImage(prompt, 0, path) for prompt, path in paths if path.is_file()]


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of the features of a set of images.

    Attributes:
        mean: Mean vector.
        covariance: Unbiased covariance.
        images: Number of images; None if the file doesn't say.
        network: Name of the feature network; None if the file doesn't say.
        source: Where the images come from, for reports.
        sha256: Digest of the file of statistics, or of the names and bytes of all images.
    """

    mean: Float[Tensor, " f"]
    covariance: Float[Tensor, "f f"]
    images: int | None
    network: str | None
    source: str
    sha256: str

    def save(self, path: Path) -> None:
        """Write an `.npz` file that pytorch-fid reads too.

        Raises:
            UsageError: for another suffix.
        """
        if path.suffix != STATISTICS:
            raise UsageError(f"Can't write {path}.", f"statistics are {STATISTICS} files", "name it so")
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                mu=self.mean.numpy(),
                sigma=self.covariance.numpy(),
                num_images=np.asarray(-1 if self.images is None else self.images),
                network=np.asarray(self.network or ""),
            )


def read_statistics(path: Path, network: FeatureNetwork) -> FeatureStatistics:
    """Read statistics, or compute them from the images that the file holds.

    Args:
        path: `.npz` file with `mu` and `sigma`, or with images as `arr_0` (`N H W 3`, 8 bits).
        network: Feature network that the statistics must be of.

    Raises:
        UsageError: for a file in no such layout, or of another network.
    """
    try:
        digest = file_digest(path)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            values = {name: file[name] for name in ("mu", "sigma", "num_images", "network") if name in file.files}
            images = file["arr_0"] if "arr_0" in file.files and "mu" not in file.files else None
    except Exception as error:  # a damaged archive raises errors of many types
        why = " ".join(str(error).split())[:200]
        raise UsageError(f"Can't read the statistics {path}.", why, "give an .npz file with mu and sigma") from None
    if images is not None:
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            why = f"its arr_0 is {images.dtype} of shape {images.shape}, not 8-bit images (N, H, W, 3)"
            raise UsageError(f"{path} holds no images.", why, "give a reference batch, or mu and sigma")
        return _statistics(iter(images), network, str(path), digest)
    mean, covariance = values.get("mu"), values.get("sigma")
    if mean is None or covariance is None:
        raise UsageError(
            f"{path} holds no statistics.", "it has no mu and sigma, and no arr_0", "make them: fid statistics"
        )
    if mean.shape != (network.width,) or covariance.shape != (network.width, network.width):
        why = f"mu has shape {mean.shape}, and {network.title} gives {network.width} features"
        raise UsageError(f"{path} is of another network.", why, "choose the network with --feature-network")
    count, name = int(values.get("num_images", -1)), str(values.get("network", ""))
    if name and name != network.title:
        raise UsageError(f"{path} is of another network.", f"it is of {name}", "choose it with --feature-network")
    if np.iscomplexobj(mean) or np.iscomplexobj(covariance) or (np.diagonal(covariance) < 0).any():
        why = "mu and sigma are real, and no variance is negative"
        raise UsageError(f"{path} holds no mean and covariance.", why, "make them again: fid statistics")
    tensors = torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance.astype(np.float64))
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise UsageError(f"{path} holds NaN or infinity.", "its statistics can't be used", "make them again")
    return FeatureStatistics(*tensors, None if count < 0 else count, name or None, str(path), digest)


def measure_images(
    source: Path,
    network: FeatureNetwork,
    *,
    split: str | None = None,
    limit: int | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> FeatureStatistics:
    """Compute the statistics of images, or read them from an `.npz` file.

    Args:
        source: Folder of images at any depth, captioned set, index, or statistics.
        network: Feature network.
        split: Split of a captioned set or index; None for all.
        limit: Number of images after which to stop.
        log: Function that receives lines of progress.

    Raises:
        UsageError: for a source that isn't there, an image that can't be used, or fewer than two images.
    """
    if source.suffix == STATISTICS and source.is_file():
        if split is not None or limit is not None:
            raise UsageError(f"{source} has no single images.", "it holds statistics", "leave --split and --limit out")
        return read_statistics(source, network)
    total = hashlib.sha256()

    def pixels() -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for number, record in enumerate(ImageStream([source], split=split, limit=limit), 1):
            try:
                image = np.asarray(open_record(record, ImageLimits(min_side=8)))
            except RefusedError as error:
                fix = "repair or remove it: FID of another set of images is another number"
                raise UsageError(f"Can't read {record.name}.", str(error), fix) from None
            total.update(f"{record.name} {hashlib.sha256(image.tobytes()).hexdigest()}\n".encode())
            if number % 1000 == 0:
                log(f"{source}: {number:,} images")
            yield image

    statistics = _statistics(pixels(), network, str(source), "")
    return FeatureStatistics(**{**vars(statistics), "sha256": total.hexdigest()})


@torch.inference_mode()
def _statistics(
    images: Iterator[UInt8[np.ndarray, "H W 3"]], network: FeatureNetwork, source: str, digest: str
) -> FeatureStatistics:
    moments = Moments(network.width)
    for batch in in_batches(images, _BATCH):
        moments.add(network(batch.to(_device_of(network))))
    if moments.count < 2:
        why = f"{source} has {moments.count} images"
        raise UsageError("Can't compute a covariance.", why, "give at least two images")
    return FeatureStatistics(moments.mean(), moments.covariance(), moments.count, network.title, source, digest)


def _device_of(network: FeatureNetwork) -> torch.device:
    module = getattr(network, "network", None)
    return (
        next(iter(module.parameters()), torch.empty(0)).device
        if isinstance(module, torch.nn.Module)
        else torch.device("cpu")
    )


def compute_fid(generated: FeatureStatistics, reference: FeatureStatistics, network: FeatureNetwork) -> dict[str, Any]:
    """Compute the distance of two sets, as the JSON values of a report."""
    value = gaussian_distance(generated.mean, generated.covariance, reference.mean, reference.covariance)
    counts = [entry.images for entry in (generated, reference) if entry.images is not None]
    return {
        "fid": value,
        "feature_network": network.title,
        "images": _described(generated),
        "reference": _described(reference),
        "few_images": bool(counts) and min(counts) < _FEW,
    }


def _described(statistics: FeatureStatistics) -> dict[str, Any]:
    return {"source": statistics.source, "count": statistics.images, "sha256": statistics.sha256}


def write_fid(report: dict[str, Any], path: Path) -> None:
    """Write a report."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
