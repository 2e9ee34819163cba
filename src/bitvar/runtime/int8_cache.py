"""A cache of keys and values in 8 bits: half the memory of bf16, lossy. Each head of each token has a scale of its own.

A scale attends to its own keys and values as computed, and to those of earlier scales as restored from 8 bits, one
block at a time.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.runtime.decoder_around import DecoderAround
from bitvar.runtime.optimization import DecoderOptimization
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.scales import ScaleSchedule
from bitvar.transformer import InfinityTransformer
from bitvar.transformer.model import DecodeState

_LARGEST: Final = 127


@dataclass(frozen=True)
class Int8LayerCache:
    """Keys and values that one block reads and writes while it decodes one scale.

    Attributes:
        codes: Integers of shape `(2, b, n, capacity, e)`: keys, then values.
        steps: Tensor of shape `(2, b, n, capacity, 1)` in fp32, which the integers are to be multiplied by.
        start: Number of tokens before this scale.
    """

    codes: Int8[Tensor, "2 b n capacity e"]
    steps: Float[Tensor, "2 b n capacity 1"]
    start: int

    def extend(
        self, k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"]
    ) -> tuple[Float[Tensor, "b n m e"], Float[Tensor, "b n m e"]]:
        """Store this scale's keys and values, and return the earlier ones as restored, followed by these.

        The last scale lies beyond the capacity, since no later scale reads it.
        """
        before, end = slice(0, self.start), self.start + k.shape[2]
        earlier = self.codes[:, :, :, before] * self.steps[:, :, :, before]
        new = torch.stack([k, v])
        if end <= self.codes.shape[3]:
            steps = new.float().abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST
            self.steps[:, :, :, self.start : end] = steps
            self.codes[:, :, :, self.start : end] = (new.float() / steps).round_().to(torch.int8)
        keys, values = torch.cat([earlier.to(k.dtype), new], dim=3)
        return keys, values


@dataclass(frozen=True)
class Int8KVCache:
    """Keys and values of every block as integers.

    Attributes:
        codes: Integers of shape `(blocks, 2, b, n, capacity, e)`.
        steps: Tensor of shape `(blocks, 2, b, n, capacity, 1)` in fp32.
    """

    codes: Int8[Tensor, "blocks 2 b n capacity e"]
    steps: Float[Tensor, "blocks 2 b n capacity 1"]

    @staticmethod
    def allocate(shape: tuple[int, int, int, int], *, capacity: int, device: torch.device) -> "Int8KVCache":
        """Allocate an empty cache; the arguments are those of `KVCache.allocate`."""
        blocks, rows, heads, head_dim = shape
        sizes = (blocks, 2, rows, heads, capacity)
        codes = torch.empty(*sizes, head_dim, dtype=torch.int8, device=device)
        return Int8KVCache(codes, torch.empty(*sizes, 1, device=device))

    @property
    def rows(self) -> int:
        return self.codes.shape[2]

    @property
    def capacity(self) -> int:
        return self.codes.shape[4]

    @property
    def num_bytes(self) -> int:
        return self.codes.nbytes + self.steps.nbytes

    def layer(self, block: int, start: int) -> Int8LayerCache:
        """Return the cache of one block, for a scale that follows `start` decoded tokens."""
        return Int8LayerCache(self.codes[block], self.steps[block], start)

    def narrow(self, *, rows: int, capacity: int) -> "Int8KVCache":
        """Return a view of the first `rows` rows and `capacity` tokens, on the same memory."""
        assert rows <= self.rows and capacity <= self.capacity, "a cache does not grow"
        return Int8KVCache(*(part[:, :, :rows, :, :capacity] for part in (self.codes, self.steps)))


class Int8Cache(DecoderOptimization):
    """Keeps keys and values of the decoded scales in 8 bits."""

    name: ClassVar[str] = "int8-cache"
    exact: ClassVar[bool] = False
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps")

    @staticmethod
    def available() -> bool:
        return True

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return Int8CacheDecoder(plain, self.transformer)


class Int8CacheDecoder(DecoderAround[DecodeState]):
    """A transformer that decodes into a cache of 8 bits.

    Args:
        plain: The transformer, or what stands in for it and takes a cache.
        transformer: The transformer, which knows the size of a cache.
    """

    def __init__(self, plain: ScaleDecoder[Any], transformer: InfinityTransformer) -> None:
        super().__init__(plain)
        self._transformer = transformer

    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> DecodeState:
        shape = self._transformer.cache_shape(condition.batch)
        cache = Int8KVCache.allocate(shape, capacity=schedule.cached_tokens, device=self.device)
        return self._transformer.start_decoding(condition, schedule, cache=cache)

    def next_segment(self, state: DecodeState, rows: int) -> DecodeState:
        return self.plain.next_segment(state, rows)

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: DecodeState) -> Float[Tensor, "b l d 2"]:
        return self.plain.decode_scale(tokens, k, state)
