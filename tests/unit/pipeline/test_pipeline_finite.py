"""Numbers that are not finite end a call with an error that names part, scale and precision; nothing is yielded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitvar.errors import ComputationError
from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.generate import generate
from bitvar.sampling.params import SamplingParams
from tests.support.tiny import tiny_pipeline
from tests.unit.sampling.test_sampling import TALL, rough_model, texts

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def pipe(tmp_path: Path) -> InfinityPipeline:
    return tiny_pipeline(tmp_path)


def poison(parameter: nn.Parameter | torch.Tensor, value: float) -> None:
    with torch.no_grad():
        parameter.view(-1)[0] = value


def parameter_of(pipe: InfinityPipeline, part: str) -> torch.Tensor:
    assert pipe.text_encoder is not None
    return {
        "text": pipe.text_encoder.model.get_submodule("embeddings.LayerNorm").weight,
        "pooling": pipe.transformer.text.pool.v_bias,
        "block": pipe.transformer.get_submodule("blocks.1.fc2").weight,
        "head": pipe.transformer.head.bias,
        "decoder": pipe.tokenizer.decoder.conv_in.weight,
    }[part]  # type: ignore[return-value]


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("text", "text encoder's features of the prompt are not finite"),
        ("pooling", "transformer's logits at scale 1 of 3 are not finite"),
        ("block", "transformer's logits at scale 1 of 3 are not finite"),
        ("head", "transformer's logits at scale 1 of 3 are not finite"),
        ("decoder", "decoder's pixels at scale 3 of 3 are not finite"),
    ],
)
def test_a_broken_part_is_named(pipe: InfinityPipeline, part: str, words: str, value: float) -> None:
    poison(parameter_of(pipe, part), value)
    with pytest.raises(ComputationError, match=rf"{words}[\s\S]*NaN or infinite, in fp32 on cpu[\s\S]*do:") as caught:
        pipe("a dog", seed=1)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("invariant", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"top_k": 1},
        {"top_p": 0.5},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0},
        {"output_type": "bits"},
    ],
    ids=str,
)
def test_every_way_to_draw_looks_first(pipe: InfinityPipeline, options: dict[str, Any], invariant: bool) -> None:
    poison(pipe.transformer.head.bias, NAN)
    with pytest.raises(ComputationError, match="logits"):
        pipe(["a dog", "a cat"], seed=1, batch_invariant=invariant, **options)


@pytest.mark.parametrize("invariant", [True, False])
def test_a_stream_yields_nothing_of_a_broken_scale(pipe: InfinityPipeline, invariant: bool) -> None:
    poison(pipe.transformer.scale_embedding[2], NAN)
    seen: list[int] = []
    with pytest.raises(ComputationError, match="scale 3 of 3"):
        seen.extend(event.index for event in pipe.stream(["a dog", "a cat"], seed=1, batch_invariant=invariant))
    assert seen == [0, 1]


def test_a_preview_of_a_broken_decoder_fails_and_bits_do_not(pipe: InfinityPipeline) -> None:
    poison(pipe.tokenizer.decoder.conv_in.weight, NAN)
    events = list(pipe.stream("a dog", seed=1))
    for k, event in enumerate(events, start=1):
        with pytest.raises(ComputationError, match=f"decoder's pixels at scale {k} of 3"):
            event.preview()
    assert len(pipe("a dog", seed=1, output_type="bits").images) == 3


def test_the_negative_prompts_features_are_looked_at_too(
    pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = pipe.text_encoder
    assert encoder is not None
    encode = encoder.encode

    def broken(prompts: list[str]) -> Any:
        made = encode(prompts)
        if prompts == ["a cat"]:
            return replace(made, features=made.features * NAN)
        return made

    monkeypatch.setattr(encoder, "encode", broken)
    with pytest.raises(ComputationError, match="features of the negative prompt"):
        pipe("a dog", negative_prompt="a cat", guidance_scale=3.0)


@pytest.mark.parametrize(
    ("part", "words"), [("block", "logits at scale 1"), ("decoder", "pixels at scale 3"), ("text", "features")]
)
def test_an_overflow_of_fp16_is_named_with_its_cure(pipe: InfinityPipeline, part: str, words: str) -> None:
    """Weights that fp16 holds, and sums that it doesn't."""
    pipe.to(dtype="fp16")
    with torch.no_grad():
        parameter_of(pipe, part).fill_(6e4)
        if part == "text":
            assert pipe.text_encoder is not None
            pipe.text_encoder.model.get_submodule("embeddings.LayerNorm").bias.fill_(6e4)  # type: ignore[operator,union-attr]
    with pytest.raises(ComputationError, match=rf"{words}[\s\S]*in fp16 on cpu[\s\S]*bf16 or fp32"):
        pipe("a dog", seed=1)


def test_the_loop_itself_looks() -> None:
    model = rough_model()
    poison(model.head.bias, NAN)
    with pytest.raises(ComputationError, match="logits at scale 1 of 4"):
        next(generate(model, texts(3), TALL, params=SamplingParams(), seeds=[1]))
