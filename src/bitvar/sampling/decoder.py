"""What the sampling loop needs of whatever computes logits. `InfinityTransformer` is the plain implementation.

Another one may replay captured graphs or run on other hardware: a scale of a schedule, decoded with a number of rows,
is one static shape, and an implementation may decode into the same buffers call after call.
"""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig


@runtime_checkable
class DecoderState(Protocol):
    """A segment's state: consecutive scales that are decoded with the same rows."""

    @property
    def rows(self) -> int: ...

    @property
    def start(self) -> Tensor:
        """Input of scale 0, of shape `(rows, 1, c)`."""
        ...


S = TypeVar("S", bound=DecoderState)


@runtime_checkable
class ScaleDecoder(Protocol[S]):
    """Computes the logits of one scale after another."""

    @property
    def config(self) -> TransformerConfig: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> S:
        """Prepare a segment with as many rows as the condition. It may reuse the buffers of a finished call."""
        ...

    def next_segment(self, state: S, rows: int) -> S:
        """Go on with the first `rows` rows only, keeping what they have decoded."""
        ...

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: S) -> Float[Tensor, "b l d 2"]:
        """Compute the logits of scale `k`, and keep what later scales read of it."""
        ...

    def embed(self, resized: Float[Tensor, "b _ h w"], k: int) -> Float[Tensor, "b l c"]:
        """Embed the latent so far, resized to the grid of scale `k` >= 1."""
        ...
