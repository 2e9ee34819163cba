"""Decoding with a small transformer whose rounding shows: every logit and every bit of a call."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.sampling.generate import ScaleResult, generate, generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule
from bitvar.transformer import InfinityTransformer
from tests.support.tiny import TEXT_WIDTH, tiny_transformer

GUIDED_THEN_NOT = [3.0, 2.0, 1.0]


def rough_transformer(device: torch.device, dtype: torch.dtype = torch.float32) -> InfinityTransformer:
    """Weights of usual sizes, so that rounding and prompts change bits."""
    model = tiny_transformer(width=64, depth=3, max_text_tokens=80)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.to(device, dtype)


def texts(*lengths: int, seed: int = 0) -> TextCondition:
    generator = torch.Generator().manual_seed(seed)
    return TextCondition.from_list([torch.randn(length, TEXT_WIDTH, generator=generator) for length in lengths])


class Logits:
    """A decoder that also keeps the logits of every scale: bits alone could agree by chance."""

    def __init__(self, decoder: ScaleDecoder[Any]) -> None:
        self.decoder, self.kept = decoder, list[Tensor]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.decoder, name)

    def decode_scale(self, *given: Any) -> Tensor:
        self.kept.append(self.decoder.decode_scale(*given))
        return self.kept[-1]


def run(
    decoder: ScaleDecoder[Any],
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    guidance: float | Sequence[float] = 3.0,
    apart: bool = False,
) -> list[Tensor]:
    """The logits of every scale, then the bits of every scale."""
    kept = Logits(decoder)
    results = start(kept, condition, schedule, guidance=guidance, apart=apart)
    bits = [result.bits for result in results]
    return kept.kept + bits


def start(
    decoder: Any,
    condition: TextCondition,
    schedule: ScaleSchedule,
    *,
    guidance: float | Sequence[float] = 3.0,
    apart: bool = False,
) -> Iterator[ScaleResult]:
    params = SamplingParams(guidance_scale=guidance)
    draw = generate_apart if apart else generate
    return draw(decoder, condition, schedule, params=params, seeds=range(condition.batch))


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
