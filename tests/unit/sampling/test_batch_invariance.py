"""The same image in any batch, byte for byte, in every precision."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bitvar.condition import TextCondition
from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.generate import generate_apart
from tests.support.tiny import tiny_components
from tests.unit.sampling.test_sampling import MODEL, TALL, SamplingParams, same_bits, sample, texts

PROMPTS = (
    "a red dog",
    "two cats on a blue square",
    "a cat",
    "green circle left of a dog",
    "a dog",
    "two red squares on a green circle and a cat",
    "blue",
    "a cat left of a cat left of a dog",
)
SEEDS = (3, 2**32 + 3, 5, 2**62, 0, 9, 10, 2**63 - 1)
MIXED = (None, "a cat", "", "a red square on a dog", "a cat", None, " ", "two dogs")


def rough_pipeline(folder: Path, **changes: Any) -> InfinityPipeline:
    """Weights of usual sizes, so that rounding and prompts change bits."""
    made = tiny_components(folder, width=64, depth=3, **changes)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.transformer.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return InfinityPipeline(made)


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp16"])
def pipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("invariance")).to(dtype=request.param)


def prefix_of(pipe: InfinityPipeline) -> PrefixBits:
    return PrefixBits([scale[0] for scale in pipe("a dog", seed=8, output_type="bits").images[:2]])


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ["plain", "guided", "negative", "mixed", "given", "copies"])
def test_prompts_together_are_what_each_is_alone(pipe: InfinityPipeline, case: str, count: int) -> None:
    prompts, mixed = PROMPTS[:count], MIXED[:count]
    options: dict[str, Any] = {
        "plain": {"guidance_scale": 1.0},
        "guided": {"guidance_scale": [3.0, 2.0, 1.0]},
        "negative": {"guidance_scale": 3.0, "negative_prompt": "a red circle"},
        "mixed": {"guidance_scale": 3.0},
        "given": {"guidance_scale": 2.0, "constraint": prefix_of(pipe)},
        "copies": {"guidance_scale": 2.0, "num_images_per_prompt": 2},
    }[case]
    copies = options.get("num_images_per_prompt", 1)
    seeds = [(seed + i) % 2**63 for seed in SEEDS[:count] for i in range(copies)]
    together = list(
        pipe.stream(prompts, seed=seeds, **options, **({"negative_prompt": mixed} if case == "mixed" else {}))
    )
    for i, prompt in enumerate(prompts):
        own = {"negative_prompt": mixed[i]} if case == "mixed" else {}
        alone = list(pipe.stream(prompt, seed=seeds[i * copies : (i + 1) * copies], **options, **own))
        rows = slice(i * copies, (i + 1) * copies)
        assert [event.metadata for event in alone] == [event.metadata[rows] for event in together]
        for ours, theirs in zip(alone, together, strict=True):
            assert all(torch.equal(a, b[rows]) for a, b in zip(ours.bits, theirs.bits, strict=True))
        for k in (0, -1):  # a preview, and the image
            assert torch.equal(alone[k].pixels, together[k].pixels[rows])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_changes_nothing(pipe: InfinityPipeline) -> None:
    prompts, seeds = PROMPTS[:3], SEEDS[:3]
    two = pipe(prompts, seed=seeds, output_type="pt").images
    torch.set_num_threads(1)
    assert torch.equal(pipe(prompts, seed=seeds, output_type="pt").images, two)


def test_features_of_a_prompt_do_not_depend_on_the_others(pipe: InfinityPipeline) -> None:
    together = pipe.encode_prompts([*PROMPTS, *PROMPTS]).rows()
    for prompt, row, again in zip(PROMPTS, together[:8], together[8:], strict=True):
        alone = pipe.encode_prompts(prompt)
        assert torch.equal(alone.features, row.features)
        assert torch.equal(alone.features, again.features)


def test_one_pass_for_the_batch_can_be_chosen(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    decode = pipe.transformer.decode_scale

    def spy(tokens: torch.Tensor, k: int, state: Any) -> torch.Tensor:
        seen.append(len(tokens))
        return decode(tokens, k, state)

    monkeypatch.setattr(pipe.transformer, "decode_scale", spy)
    options: dict[str, Any] = {"seed": 1, "guidance_scale": 3.0, "negative_prompt": ["a cat", None]}
    out = pipe(PROMPTS[:2], batch_invariant=False, **options)
    assert seen == [4] * 3
    assert [entry["batch_invariant"] for entry in out.metadata] == [False, False]
    seen.clear()
    assert pipe(PROMPTS[:2], **options).metadata[0]["batch_invariant"] is True
    assert seen == [2] * 6


def test_equal_prompts_are_encoded_once(pipe: InfinityPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = pipe.text_encoder
    assert encoder is not None
    seen: list[list[str]] = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda prompts: (seen.append(list(prompts)), encode(prompts))[1])
    for invariant in (True, False):
        pipe.encode_prompts(["a dog", "a cat", "a dog"], batch_invariant=invariant)
    assert seen == [["a dog"], ["a cat"], ["a dog", "a cat"]]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_two_loops_agree(guidance: float) -> None:
    """In fp32 the plain, batched loop is the reference."""
    condition, params = texts(3, 5, 2), SamplingParams(guidance_scale=guidance)
    negative = TextCondition.join([texts(4, seed=8), condition.drop(torch.ones(3, dtype=torch.bool)).rows()[1]])
    negative = TextCondition.join([negative, texts(2, seed=9)])
    for against in (None, negative):
        apart = list(generate_apart(MODEL, condition, TALL, params=params, seeds=[1, 2, 3], negative=against))
        batched = sample(condition, [1, 2, 3], guidance_scale=guidance, negative=against)
        assert same_bits(apart, [result.bits for result in batched])
        assert all(torch.equal(a.latent, b.latent) for a, b in zip(apart, batched, strict=True))


# Negative prompts that are none


@pytest.mark.parametrize("none", ["", " \n", [""], [None], None], ids=repr)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_empty_negative_prompt_means_none(pipe: InfinityPipeline, none: Any, guidance: float) -> None:
    options: dict[str, Any] = {"seed": 4, "guidance_scale": guidance, "output_type": "pt"}
    out = pipe("a red dog", negative_prompt=none, **options)
    assert torch.equal(out.images, pipe("a red dog", **options).images)
    assert out.metadata[0]["negative_prompt"] is None


@pytest.mark.parametrize("invariant", [True, False])
def test_rows_with_and_without_a_negative_prompt_mix(pipe: InfinityPipeline, invariant: bool) -> None:
    options: dict[str, Any] = {"guidance_scale": 3.0, "output_type": "bits", "batch_invariant": invariant}
    out = pipe(PROMPTS[:2], negative_prompt=["a dog", ""], seed=[1, 2], **options)
    assert [entry["negative_prompt"] for entry in out.metadata] == ["a dog", None]
    if invariant:
        first = pipe(PROMPTS[0], negative_prompt="a dog", seed=1, **options).images
        second = pipe(PROMPTS[1], seed=2, **options).images
        assert all(torch.equal(both, torch.cat([a, b])) for both, a, b in zip(out.images, first, second, strict=True))
