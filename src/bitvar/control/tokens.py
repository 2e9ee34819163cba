"""Where a control acts: on the input tokens of a transformer, while sampling and in teacher-forced training.

Both use the same tokens and blocks as the plain transformer, which knows nothing of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.nn.attention import AttentionFn
from bitvar.runtime.decoder_around import DecoderAround
from bitvar.sampling.decoder import DecoderState, ScaleDecoder
from bitvar.scales import ScaleSchedule
from bitvar.transformer import InfinityTransformer


class ControlledDecoder(DecoderAround[DecoderState]):
    """A decoder that adds a control to the input tokens of every scale.

    All rows of an image see it: the conditional, the unconditional, and those of other texts.

    Args:
        plain: Decoder that computes the logits.
        additions: What to add to the tokens of each scale, each of shape `(b, l_k, c)` with b = 1 for one control of
            all images. Rows beyond b repeat it in order.
    """

    def __init__(self, plain: ScaleDecoder[Any], additions: Sequence[Float[Tensor, "_ _ c"]]) -> None:
        super().__init__(plain)
        self._additions = [addition.to(plain.device, plain.dtype) for addition in additions]

    def start_decoding(self, condition: TextCondition, schedule: ScaleSchedule) -> DecoderState:
        assert [addition.shape[1] for addition in self._additions] == [h * w for h, w in schedule], "another schedule"
        return self.plain.start_decoding(condition, schedule)

    def next_segment(self, state: DecoderState, rows: int) -> DecoderState:
        return self.plain.next_segment(state, rows)

    def decode_scale(self, tokens: Float[Tensor, "b l c"], k: int, state: DecoderState) -> Float[Tensor, "b l d 2"]:
        addition = self._additions[k]
        return self.plain.decode_scale(tokens + addition.repeat(len(tokens) // len(addition), 1, 1), k, state)


def controlled_logits(
    model: InfinityTransformer,
    condition: TextCondition,
    inputs: list[Float[Tensor, "b _ _ _"]],
    schedule: ScaleSchedule,
    additions: Sequence[Float[Tensor, "b _ c"]],
    *,
    dtype: torch.dtype | None = None,
    attention: AttentionFn | None = None,
) -> Float[Tensor, "b l d 2"]:
    """Compute the logits of every bit of every scale, as the transformer's `forward` does, under a control.

    Args:
        model: Transformer that the control acts on.
        condition: Text features of `b` prompts.
        inputs: Latent so far at the grid of each scale from 1 on.
        schedule: Schedule with one more scale than there are inputs.
        additions: What to add to the tokens of each scale.
        dtype: Data type of the blocks; None for the parameters'.
        attention: Implementation of attention over this schedule; None for plain PyTorch.
    """
    encoded = model.encode_condition(condition, dtype=dtype)
    tokens = model.embed_scales(encoded, inputs)
    controlled = tokens + torch.cat(list(additions), dim=1).to(tokens.dtype)
    return model.forward_tokens(controlled, encoded, schedule, attention=attention)
