"""Validation of a tokenizer: reconstruction quality and bit usage on held-out images, scale by scale."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.imaging.pixels import to_signed
from bitvar.metrics.distances import Distance, psnr
from bitvar.metrics.per_scale import bit_entropy, count_cells, count_set_bits, dead_share, residual_share
from bitvar.scales import Grid
from bitvar.tokenizer import InfinityTokenizer
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
    context: DistributedContext | None = None,
) -> Metrics:
    """Measure a tokenizer on all images. The mean of a scale is over the images whose schedule has that scale.

    Args:
        tokenizer: Tokenizer to measure, unsharded on every rank.
        data: Images to measure on; every image counts once.
        schedules: Grids of each scale, one list per image size.
        perceptual: Perceptual distance to measure too.
        context: Ranks that share the work; None for a single process.

    Returns:
        `psnr` and `psnr/scale_k`: PSNR in dB when decoded from all scales, and from the scales up to k.
        `bit_entropy/scale_k`: Mean entropy of the scale's bits, 1 if used evenly.
        `dead_bits/scale_k`: Share of the scale's bits that hardly ever change.
        `residual/scale_k`: Norm of the residual after scale k, as a share of the features' norm.
        The perceptual distance, under its own name.
    """
    context = context or DistributedContext()
    micro_batches, counted = micro_batches_in_order(
        data.counts, rank=context.rank, num_ranks=context.world, size=VALIDATION_BATCH
    )
    num_scales = max(len(schedules[index]) for index in data.schedules)
    sums = _zeros(num_scales, tokenizer.config.bits)
    for batch, count in zip(data.batches(micro_batches), counted, strict=True):
        images = to_signed(batch.images[:count].to(tokenizer.device))
        if count:
            _add(sums, tokenizer, images, schedules[data.schedules[batch.micro_batch.bucket]], perceptual)
    return _metrics(context.sum(sums), num_scales, tokenizer.config.bits, perceptual)


def _zeros(num_scales: int, bits: int) -> Sums:
    names = ["images", "psnr", "distance"]
    for k in range(num_scales):
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
    reconstruction, quality = images, torch.zeros(())
    for k, step in enumerate(tokenizer.encode_scales(features, grids)):
        reconstruction = tokenizer.decode(step.latent)
        quality = psnr(reconstruction, images).double().sum().cpu()
        sums[f"psnr/scale_{k}"] += quality
        sums[f"residual/scale_{k}"] += residual_share(features, step.latent).sum().cpu()
        sums[f"images/scale_{k}"] += len(images)
        sums[f"cells/scale_{k}"] += count_cells(step.bits)
        for bit, ones in enumerate(count_set_bits(step.bits).tolist()):
            sums[f"ones/scale_{k}/{bit}"] += ones
    sums["psnr"] += quality
    sums["images"] += len(images)
    if perceptual is not None:
        sums["distance"] += perceptual(reconstruction, images).sum().cpu()


def _metrics(sums: Metrics, num_scales: int, bits: int, perceptual: Distance | None) -> Metrics:
    num_images = sums["images"]
    metrics = {"psnr": sums["psnr"] / num_images}
    if perceptual is not None:
        metrics[perceptual.name] = sums["distance"] / num_images
    for k in range(num_scales):
        count, cells = sums[f"images/scale_{k}"], sums[f"cells/scale_{k}"]
        usage = torch.tensor([sums[f"ones/scale_{k}/{bit}"] / cells for bit in range(bits)])
        metrics[f"psnr/scale_{k}"] = sums[f"psnr/scale_{k}"] / count
        metrics[f"residual/scale_{k}"] = sums[f"residual/scale_{k}"] / count
        metrics[f"bit_entropy/scale_{k}"] = bit_entropy(usage)
        metrics[f"dead_bits/scale_{k}"] = dead_share(usage)
    return metrics
