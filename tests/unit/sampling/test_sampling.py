"""The one loop, against a sampler that recomputes everything at every scale."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import bits_to_codes
from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.draw import apply_guidance, bit_probability, draw_bits
from bitvar.sampling.generate import ScaleResult, generate
from bitvar.sampling.noise import uniform_noise
from bitvar.sampling.params import SamplingParams, ScaleParams
from bitvar.scales import ScaleSchedule, code_norms_of
from bitvar.training.transformer.self_correction import teacher_forcing
from bitvar.transformer import InfinityTransformer, TransformerConfig

TALL = ScaleSchedule(((1, 1), (2, 1), (3, 2), (6, 4)), (12, 8))


def rough_model(patch_size: int = 1, **changes: Any) -> InfinityTransformer:
    config = TransformerConfig(
        depth=2, width=32, num_heads=2, bits=12, patch_size=patch_size, text_width=12, max_text_tokens=8, **changes
    )
    model = InfinityTransformer(config).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


MODEL = rough_model()


def texts(*lengths: int, seed: int = 5) -> TextCondition:
    generator = torch.Generator().manual_seed(seed)
    return TextCondition.from_list([torch.randn(length, 12, generator=generator) for length in lengths])


def sample(condition: TextCondition, seeds: Sequence[int], **options: Any) -> list[ScaleResult]:
    params = SamplingParams(**{name: options.pop(name) for name in SamplingParams.__annotations__ if name in options})
    return list(generate(MODEL, condition, TALL, params=params, seeds=seeds, **options))


def same_bits(ours: Sequence[ScaleResult], theirs: Sequence[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a.bits, b) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def slow_bits(
    condition: TextCondition,
    seed_values: Sequence[int],
    guidance: Sequence[float],
    negative: TextCondition | None = None,
) -> list[Tensor]:
    """No cache, no dropped rows, no joined batch: at every scale the whole model runs over all scales so far, twice."""
    negative = negative or condition.drop(torch.ones(condition.batch, dtype=torch.bool))
    latent = torch.zeros(condition.batch, 12, *TALL[-1])
    inputs: list[Tensor] = []
    bits: list[Tensor] = []
    for k, grid in enumerate(TALL):
        if k:
            inputs.append(torch.nn.functional.interpolate(latent, size=grid, mode="bilinear"))
        so_far = ScaleSchedule(TALL.grids[: k + 1], TALL.reference)
        with_text, without = (MODEL(c, inputs, so_far)[:, so_far.tokens(k)] for c in (condition, negative))
        logits = guidance[k] * with_text + (1 - guidance[k]) * without
        one = logits.softmax(-1)[..., 1]
        drawn = torch.stack([uniform_noise(seed, k, one.shape[1:]) for seed in seed_values]) < one
        bits.append(drawn.transpose(1, 2).reshape(condition.batch, 12, *grid))
        latent = pyramid.add_scale(latent, bits_to_codes(bits[-1]))
    return bits


@pytest.mark.parametrize("guidance", [1.0, 3.0, [3.0, 2.0, 1.0, 1.0], [1.0, 1.0, 3.0, 1.0], [1.0, 1.0, 1.0, 2.5]])
@pytest.mark.parametrize("negative", [False, True])
def test_sampling_equals_full_recomputation(guidance: float | list[float], negative: bool) -> None:
    condition, steer = texts(3, 5), texts(4, 2, seed=8) if negative else None
    ours = sample(condition, [1, 2], guidance_scale=guidance, negative=steer)
    spread = guidance if isinstance(guidance, list) else [guidance] * 4
    assert same_bits(ours, slow_bits(condition, (1, 2), spread, steer))


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, [2] * 4), (3.0, [4] * 4), ([3.0, 2.0, 1.0, 1.0], [4, 4, 2, 2])])
def test_no_work_is_done_for_unguided_scales(
    guidance: float | list[float], rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    decode = MODEL.decode_scale
    monkeypatch.setattr(
        MODEL, "decode_scale", lambda tokens, k, state: (seen.append(len(tokens)), decode(tokens, k, state))[1]
    )
    sample(texts(3, 5), [1, 2], guidance_scale=guidance)
    assert seen == rows


def test_guidance_and_negative_prompts_matter() -> None:
    plain = [result.bits for result in sample(texts(3), [1], guidance_scale=1.0)]
    assert not same_bits(sample(texts(3), [1], guidance_scale=4.0), plain)
    guided = [result.bits for result in sample(texts(3), [1], guidance_scale=4.0)]
    assert not same_bits(sample(texts(3), [1], guidance_scale=4.0, negative=texts(4, seed=7)), guided)


@pytest.mark.parametrize("code_norms", [(1.0,), (2.0, 1.4, 1.0)], ids=str)
@pytest.mark.parametrize("patch_size", [1, 2])
def test_the_samplers_inputs_equal_the_teacher_forced_ones(
    patch_size: int, code_norms: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = rough_model(patch_size, code_norms=code_norms)
    grids = TALL.latent_grids(patch_size)
    features = torch.randn(2, 12 // patch_size**2, *grids[-1], generator=torch.Generator().manual_seed(3))
    norms = code_norms_of(code_norms, len(TALL))
    steps = list(pyramid.encode(features, grids, norms))
    given = PrefixBits([step.bits for step in steps])
    expected = teacher_forcing(features, TALL, patch_size=patch_size, code_norms=norms)
    fed: list[Tensor] = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda resized, k: (fed.append(resized), embed(resized, k))[1])
    results = list(generate(model, texts(3, 5), TALL, params=SamplingParams(), seeds=[0, 1], constraint=given))
    assert len(fed) == len(expected.inputs)
    for ours, theirs in zip(fed, expected.inputs, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(results[-1].latent, steps[-1].latent)


@torch.no_grad()
def test_the_samplers_logits_equal_the_teacher_forced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(1, 12, 6, 4, generator=torch.Generator().manual_seed(3))
    prefix = [step.bits for step in pyramid.encode(features, TALL.grids)][:3]  # the last scale's logits are asked for
    got: list[Tensor] = []
    decode = MODEL.decode_scale

    def spy(tokens: Tensor, k: int, state: Any) -> Tensor:
        got.append(decode(tokens, k, state))
        return got[-1]

    monkeypatch.setattr(MODEL, "decode_scale", spy)
    sample(texts(3), [0], guidance_scale=1.0, constraint=PrefixBits(prefix))
    full = MODEL(texts(3), teacher_forcing(features, TALL, patch_size=1).inputs, TALL)
    assert (torch.cat(got, dim=1) - full).abs().max() < 1e-5 * full.abs().max()


def test_the_same_seed_gives_the_same_bits_in_any_batch() -> None:
    condition = texts(3, 5, 2)
    together = sample(condition, [11, 12, 13])
    for row, seed in ((0, 11), (1, 12), (2, 13)):
        features = [condition.features[row, condition.mask[row]]]
        alone = sample(TextCondition.from_list(features), [seed])
        assert same_bits(alone, [result.bits[row : row + 1] for result in together])


def test_the_order_of_a_batch_does_not_matter() -> None:
    condition = texts(3, 5, 2)
    rows = [condition.features[row, condition.mask[row]] for row in range(3)]
    forward = sample(condition, [11, 12, 13])
    backward = sample(TextCondition.from_list(rows[::-1]), [13, 12, 11])
    assert same_bits(backward, [result.bits.flip(0) for result in forward])


def test_other_seeds_give_other_bits() -> None:
    assert not same_bits(sample(texts(3), [1]), [result.bits for result in sample(texts(3), [2])])


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}])
def test_greedy_sampling_takes_the_likelier_bit_whatever_the_seed(options: dict[str, Any]) -> None:
    first = sample(texts(3), [1], **options)
    assert same_bits(sample(texts(3), [2], **options), [result.bits for result in first])


def test_temperature_may_differ_per_scale() -> None:
    greedy = sample(texts(3), [1], temperature=0.0)
    mixed = [sample(texts(3), [seed], temperature=[0.0, 0.0, 0.0, 1.0]) for seed in (1, 2)]
    for result in mixed:
        assert same_bits(result[:3], [entry.bits for entry in greedy[:3]])
    assert not torch.equal(mixed[0][3].bits, mixed[1][3].bits)


@pytest.mark.parametrize("name", ["guidance_scale", "temperature"])
@pytest.mark.parametrize("length", [2, 3, 5])
def test_a_list_must_name_every_scale(name: str, length: int) -> None:
    with pytest.raises(UsageError, match=f"{name} has {length} values[\\s\\S]*4 scales"):
        sample(texts(3), [1], **{name: [1.5] * length})


def test_a_list_of_one_is_for_every_scale() -> None:
    assert [p.temperature for p in SamplingParams(temperature=[0.7]).scales(3)] == [0.7] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"guidance_scale": [3.0, -1.0]},
        {"top_k": -1},
        {"top_p": 1.1},
        {"temperature": float("nan")},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"Bad value for '{next(iter(options))}'"):
        SamplingParams(**options)


def test_a_prefix_is_taken_as_it_is() -> None:
    free = sample(texts(3), [1])
    prefix = [~free[0].bits, free[1].bits.roll(1, dims=1)]
    results = sample(texts(3), [1], constraint=PrefixBits(prefix))
    assert same_bits(results[:2], prefix)
    assert not torch.equal(results[2].bits, free[2].bits)


def test_a_prefix_that_was_drawn_leads_to_the_same_place() -> None:
    free = sample(texts(3), [1], temperature=0.0)
    results = sample(texts(3), [1], temperature=0.0, constraint=PrefixBits([free[k].bits for k in range(3)]))
    assert torch.equal(results[-1].bits, free[-1].bits)
    assert torch.equal(results[-1].latent, free[-1].latent)


def test_the_latent_is_the_sum_of_the_scales_so_far() -> None:
    latent = torch.zeros(1, 12, 6, 4)
    for k, result in enumerate(sample(texts(3), [1])):
        assert result.k == k
        assert result.bits.shape == (1, 12, *TALL[k])
        latent = pyramid.add_scale(latent, bits_to_codes(result.bits))
        torch.testing.assert_close(result.latent, latent)


def test_closing_the_iterator_cancels_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = MODEL.decode_scale
    monkeypatch.setattr(
        MODEL, "decode_scale", lambda tokens, k, state: (decoded.append(k), decode(tokens, k, state))[1]
    )
    results = generate(MODEL, texts(3), TALL, params=SamplingParams(), seeds=[1])
    assert decoded == []  # nothing happens before it is asked for
    next(results)
    next(results)
    results.close()
    assert list(results) == []
    assert decoded == [0, 1]


def test_sampling_leaves_gradients_as_the_caller_set_them() -> None:
    results = generate(MODEL, texts(3), TALL, params=SamplingParams(), seeds=[1])
    next(results)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


# Five standard deviations: a right sampler fails one such test in 1.7 million (two-sided normal tail, 5.7e-7).
SIGMAS = 5


@pytest.mark.parametrize("margin", [-3.0, -0.5, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_bits_are_drawn_with_their_probability(margin: float, temperature: float) -> None:
    draws = 40_000
    logits = torch.tensor([0.0, margin]).expand(1, draws // 8, 8, 2)
    bits = draw_bits(logits, ScaleParams(temperature=temperature), uniform_noise(4, 0, logits.shape[:3]))
    expected = torch.tensor([0.0, margin / temperature]).softmax(0)[1].item()
    sigma = (expected * (1 - expected) / draws) ** 0.5
    assert abs(bits.float().mean().item() - expected) < SIGMAS * sigma


def test_bits_are_drawn_independently() -> None:
    noise = torch.stack([uniform_noise(seed, 0, (10_000, 4)) for seed in (1, 2)])
    bits = draw_bits(torch.zeros(2, 10_000, 4, 2), ScaleParams(), noise).float() - 0.5
    streams = bits.permute(0, 2, 1).reshape(8, -1)
    correlation = (streams @ streams.T) / (0.25 * 10_000)
    assert (correlation - torch.eye(8)).abs().fill_diagonal_(0).max() < SIGMAS / 100  # 28 pairs: 1.6e-5


@pytest.mark.parametrize(("top_p", "certain"), [(0.97, True), (0.99, False), (0.0, False), (0.5, True)])
def test_top_p_makes_a_bit_certain_once_its_probability_is_reached(top_p: float, certain: bool) -> None:
    logits = torch.tensor([[0.02, 0.98], [0.98, 0.02]]).log()
    one = bit_probability(logits, top_p=top_p)
    expected = [1.0, 0.0] if certain else [0.98, 0.02]
    assert one.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("top_k", [0, 2, 900])
def test_top_k_above_one_changes_nothing(top_k: int) -> None:
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bit_probability(logits, top_k=top_k), logits.softmax(-1)[:, 1])


def test_probabilities_are_fp32_for_bf16_logits() -> None:
    assert bit_probability(torch.randn(3, 2).bfloat16()).dtype == torch.float32


def test_guidance_is_linear_and_one_is_off() -> None:
    cond, uncond = torch.randn(2, 1, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(apply_guidance(cond, uncond, 3.5), 3.5 * cond - 2.5 * uncond)
    torch.testing.assert_close(apply_guidance(cond, uncond, 1.0), cond)
    torch.testing.assert_close(apply_guidance(cond, uncond, 0.0), uncond)
