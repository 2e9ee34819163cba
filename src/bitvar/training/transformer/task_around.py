"""The part of a training task around the transformer's task that all of them share."""

from collections.abc import Iterable, Iterator

import torch

from bitvar.training.engine.microbatch import MicroBatch
from bitvar.training.transformer.task import Batch, TransformerTask


class TaskAround:
    """A training task whose data, precision and device are those of a transformer's task, `plain`.

    Args:
        plain: The transformer's task.
    """

    def __init__(self, plain: TransformerTask) -> None:
        self.plain = plain

    @property
    def counts(self) -> tuple[int, ...]:
        return self.plain.counts

    @property
    def dtype(self) -> torch.dtype:
        return self.plain.dtype

    @property
    def device(self) -> torch.device:
        return self.plain.device

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        return self.plain.batches(micro_batches)
