"""Guidance's two halves, conditional and unconditional, computed one after the other, with half of the activations.

Each half keeps a cache of its own, so the caches together are as large as before.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.runtime.decoder_around import DecoderAround
from bitvar.runtime.optimization import DecoderOptimization
from bitvar.sampling.decoder import DecoderState, ScaleDecoder
from bitvar.scales import ScaleSchedule


class SequentialGuidance(DecoderOptimization):
    """Computes the rows of a pass in two halves."""

    name: ClassVar[str] = "sequential-guidance"
    exact: ClassVar[bool] = True
    only_by_name: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps")

    @staticmethod
    def available() -> bool:
        return True

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return HalvesApart(plain)


@dataclass(frozen=True)
class HalvesState:
    """The states of the halves; one state if the rows are not to be halved.

    Attributes:
        halves: States of equal numbers of rows, in the order of the rows.
    """

    halves: tuple[DecoderState, ...]

    @property
    def rows(self) -> int:
        return sum(half.rows for half in self.halves)

    @property
    def start(self) -> Tensor:
        return torch.cat([half.start.to(self.halves[0].start.device) for half in self.halves])


class HalvesApart(DecoderAround[HalvesState]):
    """A decoder that computes the first half of the rows before the second. An odd number of rows stays together.

    Without guidance, two images of a batch are two halves as well.

    Args:
        plain: Decoder of the first half.
        second: Decoder of the second half, perhaps on another device; None for the same one.
    """

    def __init__(self, plain: ScaleDecoder[Any], second: ScaleDecoder[Any] | None = None) -> None:
        super().__init__(plain)
        self._decoders = (plain, second or plain)

    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> HalvesState:
        half = condition.batch // 2
        if condition.batch % 2:
            return HalvesState((self.plain.start_decoding(condition, schedule),))
        halves = [
            TextCondition(condition.features[rows], condition.mask[rows], condition.dropped[rows])
            for rows in (slice(0, half), slice(half, None))
        ]
        decoders = zip(self._decoders, halves, strict=True)
        return HalvesState(tuple(decoder.start_decoding(part, schedule) for decoder, part in decoders))

    def next_segment(self, state: HalvesState, rows: int) -> HalvesState:
        kept, left = [], rows
        for decoder, half in zip(self._decoders, state.halves, strict=False):
            if left:
                count = min(left, half.rows)
                kept.append(half if count == half.rows else decoder.next_segment(half, count))
                left -= count
        return HalvesState(tuple(kept))

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: HalvesState) -> Float[Tensor, "b l d 2"]:
        parts = tokens.split([half.rows for half in state.halves])
        halves = [
            decoder.decode_scale(part.to(decoder.device), k, half)  # a card goes on while the next half is prepared
            for decoder, part, half in zip(self._decoders, parts, state.halves, strict=False)
        ]
        return torch.cat([half.to(self.device) for half in halves])
