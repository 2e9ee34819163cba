"""Measurement of a prompt's logits on the bits of an image: the one loop, with every bit given and every logit kept."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.sampling.generate import generate
from bitvar.sampling.params import SamplingParams
from bitvar.sampling.steering import ScaleLogits, Steering
from bitvar.scales import ScaleSchedule


class _Recorder:
    """Keeps the guided logits of every scale. Implements `sampling.steering.LogitsProcessor`."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        self.logits.append(logits.guided())
        return self.logits[-1]

    def image(self, index: int) -> "_Recorder":
        return self


class _Given:
    """Replaces what is drawn by the bits of an image. Implements `sampling.constraint.BitConstraint`."""

    def __init__(self, bits: Sequence[Tensor]) -> None:
        self.bits = bits

    def needs_draw(self, k: int) -> bool:
        return True

    def apply(self, k: int, drawn: Tensor | None, latent: Tensor) -> Tensor:
        return self.bits[k].to(latent.device)

    def image(self, index: int) -> "_Given":
        return self


def prompt_logits(
    model: ScaleDecoder[Any],
    condition: TextCondition,
    schedule: ScaleSchedule,
    bits: Sequence[Tensor],
    *,
    params: SamplingParams,
    negative: TextCondition | None = None,
) -> list[Float[Tensor, "1 _ d 2"]]:
    """Compute the guided logits of a prompt at every scale, given an image's coarser bits.

    Args:
        model: Decoder that computes the logits.
        condition: Text of one prompt.
        schedule: Grids of the image.
        bits: Bits of every scale, `(1, d, h_k, w_k)`.
        params: Settings that guidance is taken from.
        negative: Text that guidance steers away from; None for no text.

    Raises:
        ComputationError: when logits are not finite.
    """
    recorder = _Recorder()
    scales = generate(
        model,
        condition,
        schedule,
        params=params,
        seeds=[0],
        negative=negative,
        constraint=_Given(bits),
        steering=Steering(processor=recorder),
        streamed=False,
    )
    for _ in scales:
        pass
    return recorder.logits
