"""Distillation of classifier-free guidance: a model learns to draw without guidance what it drew with guidance."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bitvar.condition import TextCondition
from bitvar.nn.attention import AttentionFn
from bitvar.sampling.draw import apply_guidance, bit_probability
from bitvar.scales import ScaleSchedule
from bitvar.transformer import InfinityTransformer


class GuidanceTeacher:
    """A frozen copy of a model, which tells the probability of every bit under guidance.

    Every rank holds a whole copy.

    Args:
        model: Model whose present weights teach.
        guidance_scale: Guidance scale to distil.
        device: Device to compute on.
    """

    def __init__(self, model: InfinityTransformer, *, guidance_scale: float, device: torch.device) -> None:
        self.guidance_scale = guidance_scale
        self._model: nn.Module = copy.deepcopy(model).to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def probabilities(
        self,
        condition: TextCondition,
        inputs: list[Float[Tensor, "b _ _ _"]],
        schedule: ScaleSchedule,
        *,
        dtype: torch.dtype,
        attention: AttentionFn | None = None,
    ) -> Float[Tensor, "b l d"]:
        """Compute the guided probability that each bit is a 1, at temperature 1.

        A sample whose text is dropped has nothing to be guided by, and gets the unconditional probability.

        Args:
            condition: Text features of `b` prompts.
            inputs: Latent so far at the grid of each scale from 1 on.
            schedule: Schedule with one more scale than there are inputs.
            dtype: Data type of the activations.
            attention: Implementation of attention over this schedule; None for the model's own.
        """
        free = condition.drop(torch.ones(condition.batch, dtype=torch.bool, device=condition.mask.device))
        given, unconditional = (
            self._model(text, inputs, schedule, dtype=dtype, attention=attention) for text in (condition, free)
        )
        return bit_probability(apply_guidance(given, unconditional, self.guidance_scale))
