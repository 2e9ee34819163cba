"""Batches streamed from files: decoded ahead by workers and, for a transformer, encoded here by frozen encoders.

An image that was sound when the index was built but can't be used now is replaced by another one of its bucket and
reported. Too many such images stop the run.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bitvar.data.captions import NUM_DRAWS, CaptionChoice
from bitvar.data.index import Group, SampleIndex
from bitvar.data.listing import ImageSource
from bitvar.data.records import Rejected
from bitvar.data.views import NUM_DRAWS as NUM_VIEW_DRAWS
from bitvar.data.views import View
from bitvar.data.writing import json_lines
from bitvar.errors import UsageError
from bitvar.files import write_text
from bitvar.finite import require_finite
from bitvar.imaging.convert import channels_first
from bitvar.imaging.open import ImageLimits, RefusedError
from bitvar.imaging.pixels import to_signed
from bitvar.scales import ScaleSchedule, schedule_of_ratio
from bitvar.text import TextEncoder
from bitvar.tokenizer import ImageTokenizer
from bitvar.training.engine.metrics_log import read_json_lines
from bitvar.training.engine.microbatch import MicroBatch, Purpose, draw_uniform
from bitvar.training.transformer.long_captions import CaptionLimit
from bitvar.training.transformer.task import Batch

_MAX_TRIES = 20
_MIN_SEEN = 200
"""Number of samples before the share of bad ones is checked."""

Size = tuple[int, int]


class LoadedMicroBatch(NamedTuple):
    """A micro-batch as a worker has read it.

    Attributes:
        micro_batch: Samples that were asked for.
        images: Pixels as bytes, `(b, c, H, W)`.
        captions: One caption per image.
        refused: Samples that were replaced, with the reasons.
    """

    micro_batch: MicroBatch
    images: Tensor
    captions: list[str]
    refused: list[Rejected]


class MicroBatchReader(Dataset[LoadedMicroBatch]):
    """Reads and decodes the samples of a micro-batch. Runs in workers, so it holds nothing large.

    Args:
        index: Index of the images.
        groups: Group of the index for each bucket.
        sizes: Width and height in pixels to which the images of each bucket are scaled and cropped.
        captions: How a caption is drawn; None for the first.
        limits: Limits on the size and shape of an image.
        view: Channels to read and how to draw a crop; None for RGB and the largest center crop.
    """

    def __init__(
        self,
        index: ImageSource,
        groups: Sequence[Group],
        sizes: Sequence[Size],
        captions: CaptionChoice | None,
        limits: ImageLimits | None = None,
        view: View | None = None,
    ) -> None:
        self.index, self.groups, self.sizes = index, groups, sizes
        self.captions, self.limits, self.view = captions, limits or ImageLimits(), view or View()

    def __getitem__(self, micro_batch: MicroBatch) -> LoadedMicroBatch:
        none = [None] * len(micro_batch)
        texts, crops = none, none
        if self.captions is not None:
            texts = draw_uniform(micro_batch.generators(Purpose.CAPTION), NUM_DRAWS).tolist()
        if self.view.is_random:
            crops = draw_uniform(micro_batch.generators(Purpose.CROP), NUM_VIEW_DRAWS).tolist()
        refused: list[Rejected] = []
        drawn = zip(micro_batch.samples.tolist(), texts, crops, strict=True)
        read = [self._read(micro_batch.bucket, number, text, crop, refused) for number, text, crop in drawn]
        return LoadedMicroBatch(
            micro_batch, torch.stack([image for image, _ in read]), [text for _, text in read], refused
        )

    def _read(
        self,
        bucket: int,
        number: int,
        draws: Sequence[float] | None,
        crop: Sequence[float] | None,
        refused: list[Rejected],
    ) -> tuple[UInt8[Tensor, "c H W"], str]:
        """Read a sample of the bucket, or the next one after it that can be read."""
        group = self.groups[bucket]
        for step in range(min(_MAX_TRIES, group.count)):
            place = group.start + (number + step) % group.count
            sample = self.index[place]
            try:
                data = self.index.verified(place, sample.image.read(max_bytes=self.limits.max_bytes))
                pixels = self.view.see(data, self.limits, self.sizes[bucket], crop)
            except RefusedError as error:
                refused.append(Rejected(sample.name, error.reason, error.detail))
                continue
            captions = sample.captions
            text = captions[0] if self.captions is None or draws is None else self.captions.text(captions, draws)
            return channels_first(pixels), text
        last = refused[-1]
        raise UsageError(
            f"{_MAX_TRIES} samples in a row can't be read, the last one {last.name}.",
            f"{last.reason}: {last.detail}",
            "is the data still where the index says? `bitvar data check` the index, or make it anew",
        )


@dataclass
class BadSamples:
    """The budget of samples that can't be used. A report names each of them once.

    Attributes:
        report: File that gets a JSON line for each bad sample of this rank.
        max_fraction: Largest share of bad samples among those seen.
        log: Receives a line of text if an existing report is damaged, which is then rewritten.
    """

    report: Path
    max_fraction: float
    log: Callable[[str], None] = lambda line: None
    seen: int = 0
    bad: int = 0
    named: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        strange: list[str] = []
        rows = read_json_lines(self.report, accept=lambda row: isinstance(row.get("name"), str), log=strange.append)
        self.named |= {row["name"] for row in rows}
        if strange:
            self.log(strange[0])
            write_text(self.report, json_lines(rows))

    def count(self, samples: int, refused: Sequence[Rejected]) -> None:
        """Count the samples of a micro-batch.

        Args:
            samples: Number of samples.
            refused: Samples that can't be used.

        Raises:
            UsageError: If the budget is spent.
        """
        self.seen += samples
        self.bad += len(refused)
        new = {refusal.name: refusal for refusal in refused if refusal.name not in self.named}
        if new:
            self.named |= set(new)
            with self.report.open("a", encoding="utf-8") as file:
                file.write(json_lines(vars(refusal) for refusal in new.values()))
        if self.seen >= _MIN_SEEN and self.bad > self.max_fraction * self.seen:
            raise UsageError(
                f"{self.bad} of {self.seen} samples could not be used.",
                f"more than --max-bad-fraction {self.max_fraction:g}; {self.report} names them",
                "repair the data and rebuild the index, or allow more",
            )


class IndexData:
    """Batches of one split of an index. Implements `transformer.task.TransformerData`.

    Args:
        index: Index of images and captions.
        split: Split of the index.
        schedules: Schedules of the model; the images of each ratio use the nearest one.
        stride: Pixels per token side.
        tokenizer: Frozen tokenizer, on the device where it computes.
        text_encoder: Frozen text encoder, on the device where it computes.
        bad: Budget of samples that can't be used.
        workers: Number of reading processes; 0 to read in this one.
        max_samples: Samples of each group to use; None for all.
        max_text_tokens: Length in tokens that longer captions are cut to, which is logged; None for no limit.

    Raises:
        UsageError: If the split has no samples.
    """

    def __init__(
        self,
        index: SampleIndex,
        split: str,
        *,
        schedules: Sequence[ScaleSchedule],
        stride: int,
        tokenizer: ImageTokenizer,
        text_encoder: TextEncoder,
        bad: BadSamples,
        workers: int = 0,
        max_samples: int | None = None,
        max_text_tokens: int | None = None,
    ) -> None:
        self.index = index
        self.groups = [
            group.model_copy(update={"count": min(group.count, max_samples or group.count)})
            for group in index.groups
            if group.split == split
        ]
        if not self.groups:
            known = ", ".join(sorted({group.split for group in index.groups}))
            raise UsageError(f"The index has no split {split!r}.", f"it has: {known}", "make it anew")
        self.counts = tuple(group.count for group in self.groups)
        self.schedules = tuple(schedule_of_ratio(schedules, float(group.ratio)) for group in self.groups)
        grids = [schedules[index][-1] for index in self.schedules]
        self.sizes = [(w * stride, h * stride) for h, w in grids]
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.bad, self.workers = bad, workers
        self.limit = CaptionLimit(max_text_tokens, text_encoder.num_tokens, bad.log)

    def batches(self, micro_batches: Iterable[MicroBatch], captions: CaptionChoice | None) -> Iterator[Batch]:
        for loaded in self.read(micro_batches, captions):
            self.bad.count(len(loaded.micro_batch), loaded.refused)
            with torch.inference_mode():
                features = self.tokenizer.features(to_signed(loaded.images.to(self.tokenizer.device)))
                condition = self.text_encoder.encode(self.limit.fit(loaded.captions))
            require_finite(features, "the frozen tokenizer's features")
            require_finite(condition.features[condition.mask], "the frozen text encoder's features")
            # Cloned, because tensors of inference mode can't take micro_batch in a training step.
            yield Batch(loaded.micro_batch, features.clone(), condition.clone())

    def read(self, micro_batches: Iterable[MicroBatch], captions: CaptionChoice | None) -> Iterator[LoadedMicroBatch]:
        """Yield the decoded images and chosen captions of each micro-batch, in order."""
        view = View(channels=self.tokenizer.config.image_channels)
        reader = MicroBatchReader(self.index, self.groups, self.sizes, captions, view=view)
        return read_micro_batches(
            reader, micro_batches, workers=self.workers, pinned=self.tokenizer.device.type == "cuda"
        )


def read_micro_batches(
    reader: MicroBatchReader, micro_batches: Iterable[MicroBatch], *, workers: int = 0, pinned: bool = False
) -> Iterator[LoadedMicroBatch]:
    """Read micro-batches in order, ahead of the caller.

    Args:
        reader: Reads one micro-batch.
        micro_batches: Micro-batches to read.
        workers: Number of reading processes; 0 to read in this one.
        pinned: Whether to pin the memory, for faster copies to a GPU.
    """
    if workers == 0:
        return (reader[micro_batch] for micro_batch in micro_batches)
    sampler, as_it_is = cast("Any", micro_batches), cast("Any", _as_it_is)
    loader = DataLoader(
        reader, sampler=sampler, batch_size=None, num_workers=workers, collate_fn=as_it_is, pin_memory=pinned,
        worker_init_fn=_end_with_the_run,
    )  # fmt: skip
    with _sigterm_blocked():
        return iter(loader)


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM while workers start, so that all their threads start with it blocked.

    A library may start threads in a worker before `worker_init_fn` runs. A thread that does not block SIGTERM would end
    the worker.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_the_run(worker: int) -> None:
    """Let SIGTERM end a worker only if the main process sent it.

    Clusters send SIGTERM to every process of a job, and the main one needs its next batch to finish its step and save.
    """
    main = multiprocessing.parent_process()
    if main is None or not hasattr(signal, "sigwaitinfo"):  # macOS can't tell who sends
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_await_sigterm, args=(main.pid,), daemon=True).start()


def _await_sigterm(sender: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)


def _as_it_is(loaded: LoadedMicroBatch) -> LoadedMicroBatch:
    return loaded
