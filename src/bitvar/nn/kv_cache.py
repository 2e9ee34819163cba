"""Keys and values of the scales already generated. Sized once; the last scale, which nobody reads, is not kept."""

import torch
from jaxtyping import Float
from torch import Tensor


class KVCache:
    """A preallocated buffer of keys and values for every block.

    Args:
        shape: `(blocks, b, n, e)`.
        capacity: tokens that later scales will read, i.e. all but the last scale's.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], *, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        blocks, batch, heads, head_dim = shape
        self.capacity = capacity
        self.length = 0
        self._kv = torch.empty(blocks, 2, batch, heads, capacity, head_dim, dtype=dtype, device=device)

    def extend(
        self, block: int, k: Float[Tensor, "b n l e"], v: Float[Tensor, "b n l e"]
    ) -> tuple[Float[Tensor, "b n m e"], Float[Tensor, "b n m e"]]:
        """Keys and values of every scale up to the present one, of which `k` and `v` are the newest part."""
        start, end = self.length, self.length + k.shape[2]
        keys, values = self._kv[block]
        if end > self.capacity:  # the last scale: used once, so joined for this block only
            return torch.cat([keys[:, :, :start], k], dim=2), torch.cat([values[:, :, :start], v], dim=2)
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Move past a scale, once every block has seen it."""
        self.length = min(self.length + tokens, self.capacity)

    def keep_rows(self, rows: int) -> None:
        """Forget all but the first `rows` of the batch."""
        self._kv = self._kv[:, :, :rows]

    @property
    def num_bytes(self) -> int:
        return self._kv.numel() * self._kv.element_size()
