"""Keys and values of the scales already decoded, in buffers that are allocated once and never replaced.

The caller says where a scale's tokens go, so that only the contents of the buffers change. A scale may be decoded again
into the same memory, as a captured graph does.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ScaleCache(Protocol):
    """What one block needs of a cache while it decodes one scale. `LayerCache` is the plain implementation."""

    def extend(
        self, k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"]
    ) -> tuple[Float[Tensor, "b n m e"], Float[Tensor, "b n m e"]]:
        """Store this scale's keys and values, and return those of every scale up to and including it."""
        ...


@runtime_checkable
class DecodingCache(Protocol):
    """What decoding needs of a cache. `KVCache` is the plain implementation."""

    @property
    def rows(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    def layer(self, block: int, start: int) -> ScaleCache:
        """Return the cache of one block, for a scale that follows `start` decoded tokens."""
        ...

    def narrow(self, *, rows: int, capacity: int) -> "DecodingCache":
        """Return a view of the first `rows` rows and `capacity` tokens, on the same memory."""
        ...


@dataclass(frozen=True)
class LayerCache:
    """Keys and values that one block reads and writes while it decodes one scale.

    Attributes:
        keys, values: Buffers of shape `(b, n, capacity, e)`.
        start: Number of tokens before this scale.
    """

    keys: Tensor
    values: Tensor
    start: int

    def extend(
        self, k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"]
    ) -> tuple[Float[Tensor, "b n m e"], Float[Tensor, "b n m e"]]:
        """Store this scale's keys and values, and return those of every scale up to and including it.

        The last scale lies beyond the capacity, since no later scale reads it: it is concatenated and not stored.
        """
        end = self.start + k.shape[2]
        if end > self.keys.shape[2]:
            before = slice(0, self.start)
            return torch.cat([self.keys[:, :, before], k], dim=2), torch.cat([self.values[:, :, before], v], dim=2)
        self.keys[:, :, self.start : end] = k
        self.values[:, :, self.start : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


@dataclass(frozen=True)
class KVCache:
    """Preallocated buffer for the keys and values of every block.

    Attributes:
        buffer: Tensor of shape `(blocks, 2, b, n, capacity, e)`; index 0 of the second axis holds keys, 1 values.
    """

    buffer: Float[Tensor, "blocks 2 b n capacity e"]

    @staticmethod
    def allocate(
        shape: tuple[int, int, int, int], *, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> "KVCache":
        """Allocate an empty cache.

        Args:
            shape: Sizes `(blocks, b, n, e)`: blocks, rows, heads and head width.
            capacity: Number of tokens that later scales attend to: all but the last scale's.
            dtype: Data type of keys and values.
            device: Device of the buffer.
        """
        return KVCache.over(torch.empty(cache_size(shape, capacity), dtype=dtype, device=device), shape, capacity)

    @staticmethod
    def over(memory: Float[Tensor, " m"], shape: tuple[int, int, int, int], capacity: int) -> "KVCache":
        """Lay out a cache over the beginning of a flat piece of memory.

        Args:
            memory: Memory for at least `cache_size(shape, capacity)` values.
            shape: Sizes `(blocks, b, n, e)`, as for `allocate`.
            capacity: Number of tokens, as for `allocate`.
        """
        blocks, rows, heads, head_dim = shape
        used = memory[: cache_size(shape, capacity)]
        return KVCache(used.view(blocks, 2, rows, heads, capacity, head_dim))

    @property
    def rows(self) -> int:
        return self.buffer.shape[2]

    @property
    def capacity(self) -> int:
        return self.buffer.shape[4]

    @property
    def num_bytes(self) -> int:
        return self.buffer.numel() * self.buffer.element_size()

    def layer(self, block: int, start: int) -> LayerCache:
        """Return the cache of one block, for a scale that follows `start` decoded tokens."""
        keys, values = self.buffer[block]
        return LayerCache(keys, values, start)

    def tokens(self, where: slice) -> Float[Tensor, "blocks 2 b n l e"]:
        """Return a view of the keys and values of some tokens, in every block."""
        return self.buffer[:, :, :, :, where]

    def narrow(self, *, rows: int, capacity: int) -> "KVCache":
        """Return a view of the first `rows` rows and `capacity` tokens, on the same memory."""
        assert rows <= self.rows and capacity <= self.capacity, "a cache does not grow"
        return KVCache(self.buffer[:, :, :rows, :, :capacity])


def cache_size(shape: tuple[int, int, int, int], capacity: int) -> int:
    """Number of keys and values, single numbers, in a cache of sizes `(blocks, b, n, e)` for `capacity` tokens."""
    return 2 * math.prod(shape) * capacity
