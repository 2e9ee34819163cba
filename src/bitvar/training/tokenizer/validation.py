"""What a tokenizer loses on held-out images, scale by scale, and how it uses its bits."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import Distance, psnr
from bitvar.scales import Grid
from bitvar.tokenizer import InfinityTokenizer, losses
from bitvar.training.engine.distributed import DistributedContext
from bitvar.training.engine.loop import Metrics
from bitvar.training.engine.microbatch import micro_batches_in_order
from bitvar.training.tokenizer.data import ImageData

VALIDATION_BATCH = 64
Sums = dict[str, Tensor]


@torch.no_grad()
def measure_reconstruction(
    tokenizer: InfinityTokenizer,
    data: ImageData,
    schedules: Sequence[Sequence[Grid]],
    *,
    perceptual: Distance | None = None,
    ranks: DistributedContext | None = None,
) -> Metrics:
    """Means over all images, of every size that has the scale.

    Args:
        tokenizer: whole on every rank.
        data: every image counts once.
        schedules: cells of each scale, one list a size.
        perceptual: a distance to measure too.
        ranks: who share the work; one if None.

    Returns:
        `psnr` and `psnr/scale_k`, in dB, when decoded from all scales or from those up to k. `bit_entropy/scale_k`, 1
        for bits used evenly; `dead_bits/scale_k`, the share that hardly ever changes; `residual/scale_k`, how long what
        is left to say after scale k is, as a share of the features' length. And the distance, under its name.
    """
    ranks = ranks or DistributedContext()
    parts, counted = micro_batches_in_order(data.counts, rank=ranks.rank, ranks=ranks.world, size=VALIDATION_BATCH)
    most = max(len(schedules[which]) for which in data.schedules)
    sums = _zeros(most, tokenizer.config.bits)
    for batch, count in zip(data.batches(parts), counted, strict=True):
        images = to_signed(batch.images[:count].to(tokenizer.device))
        if count:
            _add(sums, tokenizer, images, schedules[data.schedules[batch.part.bucket]], perceptual)
    return _metrics(ranks.sum(sums), most, tokenizer.config.bits, perceptual)


def _zeros(scales: int, bits: int) -> Sums:
    names = ["images", "psnr", "distance"]
    for k in range(scales):
        names += [f"{name}/scale_{k}" for name in ("images", "cells", "psnr", "residual")]
        names += [f"ones/scale_{k}/{bit}" for bit in range(bits)]
    return {name: torch.zeros((), dtype=torch.float64) for name in names}


def _add(
    sums: Sums,
    tokenizer: InfinityTokenizer,
    images: Float[Tensor, "b c H W"],
    grids: Sequence[Grid],
    perceptual: Distance | None,
) -> None:
    features = tokenizer.features(images)
    length = features.flatten(1).norm(dim=1).clamp(min=1e-6)
    reconstruction, quality = images, torch.zeros(())
    for k, step in enumerate(tokenizer.encode_scales(features, grids)):
        reconstruction = tokenizer.decode(step.latent)
        quality = psnr(reconstruction, images).double().sum().cpu()
        sums[f"psnr/scale_{k}"] += quality
        sums[f"residual/scale_{k}"] += ((features - step.latent).flatten(1).norm(dim=1) / length).sum().cpu()
        sums[f"images/scale_{k}"] += len(images)
        sums[f"cells/scale_{k}"] += len(images) * step.bits.shape[2] * step.bits.shape[3]
        for bit, ones in enumerate(step.bits.sum(dim=(0, 2, 3)).tolist()):
            sums[f"ones/scale_{k}/{bit}"] += ones
    sums["psnr"] += quality
    sums["images"] += len(images)
    if perceptual is not None:
        sums["distance"] += perceptual(reconstruction, images).sum().cpu()


def _metrics(sums: Metrics, scales: int, bits: int, perceptual: Distance | None) -> Metrics:
    num_images = sums["num_images"]
    metrics = {"psnr": sums["psnr"] / num_images}
    if perceptual is not None:
        metrics[perceptual.name] = sums["distance"] / num_images
    for k in range(scales):
        count, cells = sums[f"images/scale_{k}"], sums[f"cells/scale_{k}"]
        usage = torch.tensor([sums[f"ones/scale_{k}/{bit}"] / cells for bit in range(bits)])
        metrics[f"psnr/scale_{k}"] = sums[f"psnr/scale_{k}"] / count
        metrics[f"residual/scale_{k}"] = sums[f"residual/scale_{k}"] / count
        metrics[f"bit_entropy/scale_{k}"] = losses.binary_entropy(usage).mean().item()
        metrics[f"dead_bits/scale_{k}"] = losses.dead_share(usage)
    return metrics
