"""The part of a decoder around another one that both share."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.sampling.decoder import DecoderState, ScaleDecoder
from bitvar.scales import ScaleSchedule
from bitvar.transformer.config import TransformerConfig

S = TypeVar("S", bound=DecoderState)


class DecoderAround(ABC, Generic[S]):
    """A `ScaleDecoder` that asks another one, `plain`, with the same configuration, device and embedding."""

    def __init__(self, plain: ScaleDecoder[Any]) -> None:
        self.plain = plain

    @property
    def config(self) -> TransformerConfig:
        return self.plain.config

    @property
    def device(self) -> torch.device:
        return self.plain.device

    @property
    def dtype(self) -> torch.dtype:
        return self.plain.dtype

    @abstractmethod
    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> S: ...

    @abstractmethod
    def next_segment(self, state: S, rows: int) -> S: ...

    @abstractmethod
    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: S) -> Float[Tensor, "b l d 2"]: ...

    def embed(self, resized: Float[Tensor, "b _ h w"], k: int) -> Float[Tensor, "b l c"]:
        return self.plain.embed(resized, k)
