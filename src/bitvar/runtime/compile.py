"""Activation checkpointing and torch.compile, block by block."""

import functools
from collections.abc import Sequence

from torch import nn
from torch.utils.checkpoint import checkpoint


def compile_blocks(blocks: Sequence[nn.Module], *, activation_checkpointing: bool, compiled: bool) -> None:
    """Change how blocks run, not what they compute. Call this before sharding the model.

    Args:
        blocks: Modules to change in place.
        activation_checkpointing: Whether to keep only a block's inputs for the backward pass and recompute the rest.
        compiled: Whether to compile each block with torch.compile.
    """
    for block in blocks:
        if activation_checkpointing:
            forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = forward  # type: ignore[method-assign]  # checkpoint() hides the block's own type
        if compiled:
            block.compile()
