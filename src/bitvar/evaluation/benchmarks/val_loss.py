"""The official validation loss and bit accuracy of a model, scale by scale, on any captioned set or index.

The official script draws self-correction's random flips anew in every run. Here each image's flips depend on the seed
and its number alone, so that the same command gives the same numbers. The loss on clean inputs is measured too.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.data.layouts import RawSample, Record, Rejected
from bitvar.data.views import View
from bitvar.errors import UsageError
from bitvar.evaluation.reconstruction.images import ImageStream
from bitvar.finite import require_finite
from bitvar.imaging.convert import channels_first
from bitvar.imaging.open import ImageLimits, RefusedError
from bitvar.imaging.pixels import to_signed
from bitvar.pipeline import InfinityPipeline
from bitvar.scales import ScaleSchedule, nearest_schedule
from bitvar.training.engine.microbatch import Purpose, make_generator
from bitvar.training.transformer.long_captions import CaptionLimit
from bitvar.training.transformer.self_correction import random_flip, teacher_forcing
from bitvar.transformer import bit_losses, token_weights

CLEAN: Final = "clean"
"""Inputs without flips."""
CORRECTED: Final = "self_correction"
"""Inputs with flips, as the official script measures."""

_LIMITS: Final = ImageLimits(min_side=8)


@dataclass(frozen=True)
class ValLossSettings:
    """Settings of the measurement.

    Attributes:
        split: Split of the set; None for all samples.
        limit: Number of samples; None for all.
        flip_strength: Largest share of flipped bits a scale, 0.2 in the official script; 0 measures clean inputs alone.
        seed: Seed of the flips.
        pixels: Number of pixels of an image; the model's schedules nearest to it are used. None for its largest.
        batch_size: Number of samples at once.
    """

    split: str | None = "val"
    limit: int | None = None
    flip_strength: float = 0.2
    seed: int = 0
    pixels: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class _Sample:
    number: int
    pixels: Float[Tensor, "c H W"]
    caption: str
    schedule_index: int


@dataclass
class ScaleSums:
    """Sums over images, in fp64.

    Attributes:
        images: Number of images.
        loss, reweighted_loss: Sums of the losses, with all tokens equal and weighted by scale.
        accuracy: Sum of the shares of right bits.
        by_scale: For each scale: images that have it, and sums of loss, right bits and right tokens.
    """

    images: int = 0
    loss: float = 0.0
    reweighted_loss: float = 0.0
    accuracy: float = 0.0
    by_scale: list[list[float]] = field(default_factory=list)

    def add(self, losses: Float[Tensor, "b l"], right: Bool[Tensor, "b l d"], schedule: ScaleSchedule) -> None:
        """Add a batch: the loss of every token, and which bits are right."""
        losses, bits = losses.double().cpu(), right.double().mean(dim=-1).cpu()
        tokens = right.all(dim=-1).double().cpu()
        self.images += len(losses)
        for reweighted, name in ((False, "loss"), (True, "reweighted_loss")):
            weights = token_weights(schedule, reweighted=reweighted).double()
            setattr(self, name, getattr(self, name) + (losses @ weights).sum().item())
        self.accuracy += bits.mean(dim=1).sum().item()
        while len(self.by_scale) < len(schedule):
            self.by_scale.append([0.0] * 4)
        for k in range(len(schedule)):
            part = schedule.tokens(k)
            values = (len(losses), *(x[:, part].mean(dim=1).sum().item() for x in (losses, bits, tokens)))
            self.by_scale[k] = [a + b for a, b in zip(self.by_scale[k], values, strict=True)]

    def report(self) -> dict[str, Any]:
        """Return the means."""
        return {
            "loss": self.loss / self.images,
            "reweighted_loss": self.reweighted_loss / self.images,
            "bit_accuracy": self.accuracy / self.images,
            "scales": [
                {"images": int(n), "loss": loss / n, "bit_accuracy": bits / n, "token_accuracy": tokens / n}
                for n, loss, bits, tokens in self.by_scale
            ],
        }


@torch.inference_mode()
def measure_val_loss(
    pipeline: InfinityPipeline,
    source: Path,
    settings: ValLossSettings,
    *,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure the validation loss of a model.

    Args:
        pipeline: Model, with its text encoder and tokenizer.
        source: Captioned set (a folder or a table) or index.
        settings: Settings.
        log: Function that receives lines of progress.

    Returns:
        The JSON values of a report: losses in nats a bit, accuracies as shares, all settings, and what was measured.

    Raises:
        UsageError: for a source without captions, or an image that can't be used.
        WeightsError: for a model without a text encoder.
    """
    if not 0 <= settings.flip_strength <= 1:
        raise UsageError(f"The flip strength {settings.flip_strength} is no share.", fix="give a number from 0 to 1")
    schedules = pipeline.transformer.config.all_schedules()
    digest, used = hashlib.sha256(), set()
    sums = {CLEAN: ScaleSums()} | ({CORRECTED: ScaleSums()} if settings.flip_strength > 0 else {})
    for batch in _batches(pipeline, source, settings, schedules, digest, log):
        used.add(batch[0].schedule_index)
        _add_batch(pipeline, batch, schedules[batch[0].schedule_index], settings, sums)
        if sums[CLEAN].images % (10 * settings.batch_size) < len(batch):
            log(f"{sums[CLEAN].images:,} images")
    if not sums[CLEAN].images:
        where = f" in the split {settings.split!r}" if settings.split else ""
        raise UsageError(f"{source} has no samples{where}.", "there is nothing to measure", "choose another --split")
    return {
        "format": 1,
        "benchmark": "validation loss (arXiv 2412.04431), nats a bit",
        "model": {"name": pipeline.model_name, "sha256": pipeline.components.digest},
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
        "data": {
            "source": str(source), "split": settings.split, "images": sums[CLEAN].images,
            "sha256": digest.hexdigest(),
        },
        "settings": {
            "limit": settings.limit, "flip_strength": settings.flip_strength, "seed": settings.seed,
            "batch_size": settings.batch_size,
            "sizes": [_size_text(pipeline, schedules[index]) for index in sorted(used)],
        },
        "results": {name: entry.report() for name, entry in sums.items()},
    }  # fmt: skip


def _add_batch(
    pipeline: InfinityPipeline,
    batch: list[_Sample],
    schedule: ScaleSchedule,
    settings: ValLossSettings,
    sums: dict[str, ScaleSums],
) -> None:
    model, config = pipeline.transformer, pipeline.transformer.config
    norms = config.all_code_norms()[batch[0].schedule_index]
    pixels = torch.stack([sample.pixels for sample in batch]).to(pipeline.device)
    features = pipeline.tokenizer.features(pixels).float()
    require_finite(features, "the tokenizer's features")
    condition: TextCondition = pipeline.encode_prompts([sample.caption for sample in batch], what="caption")
    for name, entry in sums.items():
        flip = None
        if name == CORRECTED:
            generators = [make_generator(settings.seed, sample.number, Purpose.FLIP) for sample in batch]
            last = len(schedule) - 1  # no scale sees the last one's bits
            flip = random_flip(max_strength=settings.flip_strength, num_corrected_scales=last, generators=generators)
        forced = teacher_forcing(features, schedule, patch_size=config.patch_size, code_norms=norms, flip=flip)
        logits = model(condition, forced.inputs, schedule)
        require_finite(logits, "the logits")
        right = (logits[..., 1] > logits[..., 0]) == forced.target_bits
        entry.add(bit_losses(logits, forced.target_bits), right, schedule)


def _batches(
    pipeline: InfinityPipeline,
    source: Path,
    settings: ValLossSettings,
    schedules: list[ScaleSchedule],
    digest: Any,
    log: Callable[[str], None],
) -> Iterator[list[_Sample]]:
    """Yield batches of one schedule. Within a schedule, samples keep the order of the source."""
    waiting: dict[int, list[_Sample]] = {}
    encoder = pipeline.text_encoder
    count = (lambda text: 0) if encoder is None else encoder.num_tokens
    limit = CaptionLimit(pipeline.transformer.config.max_text_tokens, count, log)
    stream = ImageStream([source], split=settings.split, limit=settings.limit)
    for number, record in enumerate(stream):
        sample = _open(pipeline, record, number, settings, schedules, limit)
        digest.update(f"{record.name} {sample.caption} ".encode() + sample.pixels.numpy().tobytes())
        group = waiting.setdefault(sample.schedule_index, [])
        group.append(sample)
        if len(group) == settings.batch_size:
            yield waiting.pop(sample.schedule_index)
    yield from waiting.values()


def _open(
    pipeline: InfinityPipeline,
    record: Record,
    number: int,
    settings: ValLossSettings,
    schedules: list[ScaleSchedule],
    limit: CaptionLimit,
) -> _Sample:
    try:
        if isinstance(record, Rejected):
            raise RefusedError(record.reason, record.detail)
        if not record.captions:
            raise UsageError(
                f"{record.name} has no caption.", "the loss is that of captioned images", "give a captioned set"
            )
        data = _read(record)
        view = View(channels=pipeline.tokenizer.config.image_channels)
        height, width = view.see_whole(data, _LIMITS).shape[:2]
        index = _schedule_index(schedules, pipeline.stride, height / width, settings.pixels)
        rows, columns = (side * pipeline.stride for side in schedules[index][-1])
        pixels = to_signed(channels_first(view.see(data, _LIMITS, (columns, rows)))[None])[0]
    except RefusedError as error:
        fix = "repair the set: bitvar data check; the loss of other images is another number"
        raise UsageError(f"Can't use {record.name}.", str(error), fix) from None
    return _Sample(number, pixels, limit.fit([record.captions[0]])[0], index)


def _read(record: RawSample) -> bytes:
    data = record.image.read(max_bytes=_LIMITS.max_bytes)
    if record.digest is not None and hashlib.sha256(data).digest() != record.digest:
        raise RefusedError("altered", "the image's bytes are not those that were indexed")
    return data


def _schedule_index(schedules: list[ScaleSchedule], stride: int, ratio: float, pixels: int | None) -> int:
    """Find the schedule nearest in aspect ratio, then in number of pixels."""
    largest = max(schedule[-1][0] * schedule[-1][1] * stride**2 for schedule in schedules)
    area = largest if pixels is None else pixels
    height, width = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
    return schedules.index(nearest_schedule(schedules, height=height, width=width, stride=stride, tolerance=math.inf))


def _size_text(pipeline: InfinityPipeline, schedule: ScaleSchedule) -> str:
    rows, columns = schedule[-1]
    return f"{columns * pipeline.stride}x{rows * pipeline.stride}"
