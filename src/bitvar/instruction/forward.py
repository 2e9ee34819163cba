"""The teacher-forced forward pass of an instruction editor, for training and likelihood."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.instruction.prefix import FirstBlockAttention, embed_source, prefixed_rope
from bitvar.nn.attention import BlockCausal
from bitvar.scales import ScaleSchedule
from bitvar.transformer import InfinityTransformer
from bitvar.weights.instruction import SourcePositions


def edit_logits(
    model: InfinityTransformer,
    condition: TextCondition,
    source: Float[Tensor, "b _ h w"],
    inputs: Sequence[Float[Tensor, "b _ _ _"]],
    schedule: ScaleSchedule,
    *,
    positions: SourcePositions = "aligned",
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "b l d 2"]:
    """Compute the logits of every bit of every scale of the edited image, as `InfinityTransformer.forward` does.

    Args:
        model: Transformer.
        condition: Text features of `b` instructions.
        source: Features of the source images, from the tokenizer's encoder.
        inputs: Latent so far of the edited image at the grid of each scale from 1 on (`pyramid.next_input`).
        schedule: Schedule with one more scale than there are inputs.
        positions: Rotary positions of the source tokens.
        dtype: Data type of the blocks; None for the parameters'.

    Raises:
        UsageError: If the source has another size than the edited image.
    """
    encoded = model.encode_condition(condition, dtype=dtype)
    prefix = embed_source(model, source, schedule, dtype=dtype)
    x = torch.cat([prefix, model.embed_scales(encoded, list(inputs))], dim=1)
    rope, length = prefixed_rope(model, schedule, positions), schedule.lengths[-1]
    first = FirstBlockAttention(schedule)
    others = BlockCausal((0, *(length + offset for offset in schedule.offsets)))
    for index, block in enumerate(model.blocks):
        x = block(x, encoded.modulation, encoded.memory, rope, attention=others if index else first)
    return model.logits(x[:, length:], encoded)
