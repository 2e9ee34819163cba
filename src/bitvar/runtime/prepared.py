"""Prepared forms of weights: made on first use, and made again when the weights have changed."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

P = TypeVar("P")


class _Kept(NamedTuple, Generic[P]):
    """A prepared form, with what it was made from: holding the source keeps its address from being used again."""

    source: Tensor
    version: int
    prepared: P


class Prepared(Generic[P]):
    """Prepared forms of one layer's weights, by the dtype that they compute in. A copy or a pickle begins empty.

    Threads may call it together: at worst, both prepare the same.

    Args:
        prepare: Makes the form, from weights of the dtype to compute in.
    """

    def __init__(self, prepare: Callable[[Tensor], P]) -> None:
        self._prepare = prepare
        self._kept: dict[torch.dtype, _Kept[P]] = {}

    def of(self, weight: Tensor, dtype: torch.dtype) -> P:
        """Return the prepared form of weights as they are now.

        Args:
            weight: Weights of the layer, always the same layer's.
            dtype: Dtype to compute in.
        """
        kept, version = self._kept.get(dtype), _version(weight)
        if kept is None or kept.version != version or kept.source.data_ptr() != weight.data_ptr():
            kept = _Kept(weight.detach(), version, self._prepare(weight.detach().to(dtype)))
            current = {key: form for key, form in self._kept.items() if form.source.data_ptr() == weight.data_ptr()}
            self._kept = {**current, dtype: kept}  # forms of weights that are gone would hold their memory
        return kept.prepared

    def __reduce__(self) -> tuple[type["Prepared[P]"], tuple[Callable[[Tensor], P]]]:
        return Prepared, (self._prepare,)


def _version(weight: Tensor) -> int:
    """Count the changes made to a tensor in place, as far as PyTorch does."""
    return 0 if weight.is_inference() else weight._version
