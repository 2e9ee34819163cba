"""Without streaming, every scale is checked at the end: the same bits, the same errors, nothing before its check."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bitvar.errors import ComputationError
from bitvar.sampling import generate as loop
from bitvar.sampling.generate import ScaleResult, generate, generate_apart
from bitvar.sampling.noise import batch_noise, uniform_noise
from bitvar.sampling.params import SamplingParams
from tests.unit.sampling.test_sampling import MODEL, TALL, texts

BOTH = pytest.mark.parametrize("draw", [generate, generate_apart])


class BrokenFrom:
    """The model, with a NaN among the logits of some scales."""

    def __init__(self, *scales: int) -> None:
        self.scales, self.decoded = scales, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(MODEL, name)

    def decode_scale(self, tokens: Tensor, k: int, state: Any) -> Tensor:
        self.decoded += 1
        logits = MODEL.decode_scale(tokens, k, state)
        if k in self.scales:
            logits[0, -1, 0, 0] = torch.nan
        return logits


def start(draw: Callable[..., Iterator[ScaleResult]], model: Any, *, streamed: bool) -> Iterator[ScaleResult]:
    return draw(model, texts(3, 5), TALL, params=SamplingParams(guidance_scale=2.0), seeds=[1, 2], streamed=streamed)


@BOTH
def test_the_results_are_those_of_a_stream(draw: Callable[..., Iterator[ScaleResult]]) -> None:
    streamed, whole = (list(start(draw, MODEL, streamed=given)) for given in (True, False))
    assert [result.k for result in whole] == [0, 1, 2, 3]
    for one, other in zip(streamed, whole, strict=True):
        assert torch.equal(one.bits, other.bits) and torch.equal(one.latent, other.latent)


@BOTH
def test_nothing_is_yielded_before_every_scale_is_drawn(draw: Callable[..., Iterator[ScaleResult]]) -> None:
    images = 1 if draw is generate else 2
    for streamed, decoded in ((True, 1), (False, 4)):
        model = BrokenFrom()
        next(start(draw, model, streamed=streamed))
        assert model.decoded == decoded * images


@BOTH
def test_the_error_names_the_first_broken_scale(draw: Callable[..., Iterator[ScaleResult]]) -> None:
    for streamed, yielded in ((True, 1), (False, 0)):
        stream = start(draw, BrokenFrom(1, 3), streamed=streamed)
        taken = 0
        with pytest.raises(ComputationError, match="logits at scale 2 of 4"):
            for _ in stream:
                taken += 1
        assert taken == yielded


def test_the_device_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = list[int](), loop._require_finite

    def counted(scales: Any, *given: Any) -> None:
        asked.append(len(scales))
        plain(scales, *given)

    monkeypatch.setattr(loop, "_require_finite", counted)
    list(start(generate_apart, MODEL, streamed=False))
    assert asked == [4]


def test_the_noise_of_a_batch_is_each_images_own() -> None:
    noise = batch_noise([3, 9], 2, (4, 5), torch.device("cpu"))
    assert torch.equal(noise, torch.stack([uniform_noise(3, 2, (4, 5)), uniform_noise(9, 2, (4, 5))]))
