"""The transformer: cached equals uncached, and nothing leaks between prompts, paddings or batches."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bitvar import pyramid
from bitvar.bits import to_cells
from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.nn.attention import BlockCausal, attend
from bitvar.nn.rope import rope_table
from bitvar.official_schedules import official_schedule
from bitvar.scales import ScaleSchedule
from bitvar.training.transformer.self_correction import teacher_forcing
from bitvar.transformer import (
    InfinityTransformer,
    ScheduleConfig,
    TransformerConfig,
    bit_losses,
    bitwise_loss,
    token_weights,
)
from tests.support import oracle

SQUARE = ScaleSchedule(((1, 1), (2, 2), (4, 4)), (8, 8))
TALL = ScaleSchedule(((1, 1), (2, 1), (3, 2), (6, 4)), (12, 8))
OFFICIAL = ScaleSchedule(official_schedule("0.571", "0.06M").grids[:5], official_schedule("0.571", "0.06M").reference)


def config(**changes: Any) -> TransformerConfig:
    sizes: dict[str, Any] = {"depth": 2, "width": 32, "num_heads": 2, "bits": 4, "text_width": 12, "max_text_tokens": 8}
    if changes.get("patch_size") == 2:
        sizes["bits"] = 12
    return TransformerConfig(**(sizes | changes))


def rough_model(seed: int = 0, **changes: Any) -> InfinityTransformer:
    """Every weight large and random, so that every path shows in the logits."""
    model = InfinityTransformer(config(**changes)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def prompts(*lengths: int, seed: int = 5, width: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, width, generator=generator) for length in lengths]


def image(
    model: InfinityTransformer, schedule: ScaleSchedule, batch: int, seed: int = 9
) -> tuple[list[Tensor], Tensor]:
    patch = model.config.patch_size
    shape = (batch, model.config.bits // patch**2, *schedule.latent_grids(patch)[-1])
    features = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    data = teacher_forcing(features, schedule, patch_size=patch)
    return data.inputs, data.target_bits


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < tolerance * theirs.abs().max()


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("schedule", [SQUARE, TALL, OFFICIAL], ids=["square", "tall", "official 0.571"])
@pytest.mark.parametrize("adapter", [0, 1])
@torch.no_grad()
def test_cached_logits_equal_the_full_masked_forward(patch_size: int, schedule: ScaleSchedule, adapter: int) -> None:
    extra = {"text_adapter_depth": 1, "text_adapter_width": 16} if adapter else {}
    model = rough_model(patch_size=patch_size, **extra)
    condition = TextCondition.from_list(prompts(3, 5))
    inputs, _ = image(model, schedule, 2)
    full = model(condition, inputs, schedule)
    state = model.start_decoding(condition, schedule)
    for k in range(len(schedule)):
        tokens = model.embed(inputs[k - 1], k) if k else model.start_tokens(state.condition)
        close(model.decode_scale(tokens, k, state), full[:, schedule.tokens(k)])
    assert state.cache.num_bytes == 2 * 2 * 2 * 32 * 4 * (schedule.num_tokens - schedule.lengths[-1])


@torch.no_grad()
def test_finer_scales_do_not_reach_back() -> None:
    model, condition = rough_model(), TextCondition.from_list(prompts(3))
    inputs, _ = image(model, TALL, 1)
    before = model(condition, inputs, TALL)
    after = model(condition, [*inputs[:-1], inputs[-1] + 1], TALL)
    assert torch.equal(before[:, : TALL.offsets[-2]], after[:, : TALL.offsets[-2]])
    assert not torch.allclose(before[:, TALL.tokens(3)], after[:, TALL.tokens(3)])


@torch.no_grad()
def test_tokens_of_one_scale_see_each_other_and_the_coarser_ones() -> None:
    model, condition = rough_model(), TextCondition.from_list(prompts(3))
    inputs, _ = image(model, TALL, 1)
    before = model(condition, inputs, TALL)
    changed = [part.clone() for part in inputs]
    changed[1][..., -1, -1] += 1  # the last token of scale 2
    moved = (model(condition, changed, TALL) - before).abs().amax(dim=(0, 2, 3))
    assert (moved[: TALL.offsets[2]] == 0).all()
    assert (moved[TALL.offsets[2] :] > 0).all()


def dense_mask(schedule: ScaleSchedule) -> Tensor:
    scale = schedule.scale_index()
    return scale[:, None] >= scale[None, :]


@pytest.mark.parametrize(
    "schedule", [SQUARE, TALL, official_schedule("1.0", "0.06M"), official_schedule("2.0", "0.25M")]
)
def test_attention_in_pieces_equals_the_block_causal_mask(schedule: ScaleSchedule) -> None:
    """Forwards and backwards, whether coarse scales are put together or not."""
    q, k, v = torch.randn(3, 2, 2, schedule.num_tokens, 8, dtype=torch.float64, requires_grad=True).unbind()
    ours = BlockCausal(schedule.offsets)(q, k, v, scale=1.0)
    dense = attend(q, k, v, scale=1.0, mask=dense_mask(schedule)[None, None])
    torch.testing.assert_close(ours, dense)
    weight = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v), retain_graph=True),
        torch.autograd.grad((dense * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_what_inference_has_used_can_be_trained_on() -> None:
    offsets = (0, 1, 5, 12, 90)
    q, k, v = torch.randn(3, 1, 1, 90, 4).unbind()
    with torch.inference_mode():
        BlockCausal(offsets)(q, k, v, scale=1.0)
    q.requires_grad_()
    BlockCausal(offsets)(q, k, v, scale=1.0).sum().backward()
    assert q.grad is not None


@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated", "ignore:flex_attention called without")
@pytest.mark.parametrize("schedule", [SQUARE, official_schedule("2.0", "0.06M")])
@torch.no_grad()
def test_flex_attention_computes_the_same(schedule: ScaleSchedule) -> None:
    """Without its fused kernel, which needs CUDA; whole logits, through a model."""
    from bitvar.runtime.flex_attention import FlexBlockCausal

    model, condition = rough_model(), TextCondition.from_list(prompts(3))
    inputs, _ = image(model, schedule, 1)
    pattern = FlexBlockCausal(schedule.offsets, torch.device("cpu"))
    torch.testing.assert_close(
        model(condition, inputs, schedule, attention=pattern), model(condition, inputs, schedule)
    )


@torch.no_grad()
def test_self_attention_equals_the_oracle() -> None:
    model = rough_model()
    attention = model.blocks[0].self_attention
    attention.logit_scale.copy_(torch.tensor([math.log(4), 9.0]))  # the second is clamped to ln 100
    x = 0.3 * torch.randn(1, TALL.num_tokens, 32, generator=torch.Generator().manual_seed(1))
    ours = attention(x, rope_table(TALL.positions(), 16), BlockCausal(TALL.offsets), None)
    weights = oracle.AttentionWeights(
        *(
            tensor.double().numpy()
            for tensor in (
                attention.qkv.weight,
                attention.q_bias,
                attention.v_bias,
                attention.logit_scale,
                attention.proj.weight,
                attention.proj.bias,
            )
        )
    )
    places = oracle.positions(TALL.grids, TALL.reference)
    expected = oracle.self_attention(x[0].double().numpy(), weights, places, TALL.scale_index().tolist())
    np.testing.assert_allclose(ours[0].numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("adapter", [0, 2])
@torch.no_grad()
def test_padding_changes_nothing(adapter: int) -> None:
    model = rough_model(text_adapter_depth=adapter, text_adapter_width=16 if adapter else None)
    short, long = prompts(3, 7)
    inputs, _ = image(model, SQUARE, 1)
    alone = model(TextCondition.from_list([short]), inputs, SQUARE)
    padded = TextCondition.from_list([short, long])
    features = torch.where(padded.mask[..., None], padded.features, 1e3)  # whatever lies in the padding
    both = model(
        TextCondition(features, padded.mask, padded.dropped), [part.repeat(2, 1, 1, 1) for part in inputs], SQUARE
    )
    close(both[:1], alone)


@torch.no_grad()
def test_the_batch_changes_nothing() -> None:
    model, texts = rough_model(), prompts(3, 2, 5)
    inputs, _ = image(model, TALL, 3)
    together = model(TextCondition.from_list(texts), inputs, TALL)
    for i in range(3):
        alone = model(TextCondition.from_list(texts[i : i + 1]), [part[i : i + 1] for part in inputs], TALL)
        close(together[i : i + 1], alone)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@torch.no_grad()
def test_dropped_prompts_read_the_learned_null_rows() -> None:
    model, texts = rough_model(), prompts(3, 5)
    inputs, _ = image(model, SQUARE, 2)
    condition = TextCondition.from_list(texts)
    dropped = model(condition.drop(torch.tensor([True, False])), inputs, SQUARE)
    null = TextCondition.from_list([model.text.null[:3].clone(), texts[1]])
    close(dropped, model(null, inputs, SQUARE))
    close(dropped[1:], model(condition, inputs, SQUARE)[1:])


@torch.no_grad()
def test_a_dropped_prompts_words_do_not_matter_but_its_length_does() -> None:
    model = rough_model(text_adapter_depth=1, text_adapter_width=16)
    inputs, _ = image(model, SQUARE, 1)
    drop = torch.tensor([True])

    def logits(text: Tensor) -> Tensor:
        return model(TextCondition.from_list([text]).drop(drop), inputs, SQUARE)

    (one,), (other,), (longer,) = prompts(3), prompts(3, seed=6), prompts(4)
    assert torch.equal(logits(one), logits(other))
    assert not torch.allclose(logits(one), logits(longer))


def test_the_first_loss_is_near_ln_2() -> None:
    for patch_size in (1, 2):
        model = InfinityTransformer(config(patch_size=patch_size))
        model.init_weights(torch.Generator().manual_seed(0))
        inputs, bits = image(model, TALL, 4)
        logits = model(TextCondition.from_list(prompts(3, 2, 4, 5)), inputs, TALL)
        for reweighted in (False, True):
            assert bitwise_loss(logits, bits, TALL, reweighted=reweighted).item() == pytest.approx(
                math.log(2), abs=5e-3
            )


def test_initialisation_follows_the_released_recipe() -> None:
    model = InfinityTransformer(config(width=64, depth=3))
    model.init_weights(torch.Generator().manual_seed(0))
    std = math.sqrt(1 / (3 * 64))

    def spread(tensor: Tensor) -> float:
        return tensor.std().item() / std

    block = model.blocks[1]
    truncated = 0.88  # the deviation of a normal cut at two deviations
    assert spread(block.fc1.weight) == pytest.approx(truncated, abs=0.02)
    assert spread(block.fc2.weight) == pytest.approx(truncated / math.sqrt(6), rel=0.05)
    assert spread(block.self_attention.proj.weight) == pytest.approx(truncated / math.sqrt(6), rel=0.05)
    assert spread(block.cross_attention.proj.weight) == pytest.approx(truncated / math.sqrt(6), rel=0.05)
    assert spread(model.head.weight) == pytest.approx(truncated * 0.02, rel=0.1)
    assert spread(model.head_modulation.weight) == pytest.approx(truncated * 1e-3, rel=0.05)
    assert spread(model.shared_modulation.weight[: 2 * 64]) == pytest.approx(truncated * 5e-6, rel=0.05)
    assert spread(model.shared_modulation.weight[2 * 64 :]) == pytest.approx(truncated * 1e-3, rel=0.05)
    assert spread(block.modulation[:2]) == pytest.approx(truncated * 5e-6, rel=0.2)
    assert spread(block.modulation[2:]) == pytest.approx(truncated * 1e-3, rel=0.2)
    assert block.self_attention.logit_scale.tolist() == pytest.approx([math.log(4)] * 2)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    assert all((p == 1).all() for name, p in model.named_parameters() if name.endswith("norm.weight"))
    again = InfinityTransformer(config(width=64, depth=3))
    again.init_weights(torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("adapter", [0, 1])
def test_every_weight_gets_a_gradient(adapter: int) -> None:
    model = rough_model(text_adapter_depth=adapter, text_adapter_width=16 if adapter else None).requires_grad_()
    inputs, bits = image(model, SQUARE, 3)
    condition = TextCondition.from_list(prompts(3, 5, 4)).drop(torch.tensor([False, True, False]))
    bitwise_loss(model(condition, inputs, SQUARE), bits, SQUARE).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []
    unused = model.scale_embedding.grad
    assert unused is not None
    assert not unused[len(SQUARE) :].any()


def test_the_adapter_is_there_only_when_asked_for() -> None:
    assert rough_model().text.adapter is None
    assert not any("adapter" in name for name in rough_model().state_dict())
    model = rough_model(text_adapter_depth=2, text_adapter_width=16)
    assert model.text.adapter is not None
    assert len(model.text.adapter.layers) == 2
    assert model.text.null.shape == (8, 16)


@pytest.mark.parametrize("entry", ["forward", "begin"])
def test_an_over_long_prompt_is_refused(entry: str) -> None:
    model, condition = rough_model(), TextCondition.from_list(prompts(9))
    inputs, _ = image(model, SQUARE, 1)
    with pytest.raises(UsageError, match=r"9 tokens long[\s\S]*at most 8"):
        model(condition, inputs, SQUARE) if entry == "forward" else model.start_decoding(condition, SQUARE)


@torch.no_grad()
def test_a_bf16_model_gives_fp32_logits() -> None:
    condition = TextCondition.from_list(prompts(3))
    exact = rough_model()
    inputs, _ = image(exact, SQUARE, 1)
    expected = exact(condition, inputs, SQUARE)
    model = rough_model().bfloat16()
    ours = model(condition, inputs, SQUARE)
    assert ours.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(ours.flatten(), expected.flatten(), dim=0) > 0.98
    state = model.start_decoding(condition, SQUARE)
    assert model.decode_scale(model.start_tokens(state.condition), 0, state).dtype == torch.float32
    assert state.cache.num_bytes == 2 * 2 * 32 * 2 * 5


def test_mixed_precision_computes_in_bf16_and_trains_fp32_weights() -> None:
    model = rough_model().requires_grad_()
    inputs, bits = image(model, SQUARE, 1)
    seen: list[torch.dtype] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    logits = model(TextCondition.from_list(prompts(3)), inputs, SQUARE, dtype=torch.bfloat16)
    assert seen == [torch.bfloat16] * 2
    assert logits.dtype == torch.float32
    bitwise_loss(logits, bits, SQUARE).backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_the_head_is_multiplied_in_fp32_even_in_a_bf16_model() -> None:
    model = rough_model().bfloat16()
    seen: list[torch.dtype] = []
    model.head.register_forward_hook(lambda module, args, output: seen.extend((args[0].dtype, output.dtype)))
    inputs, _ = image(model, SQUARE, 1)
    model(TextCondition.from_list(prompts(3)), inputs, SQUARE)
    assert seen == [torch.float32, torch.float32]


@torch.no_grad()
def test_positions_refer_to_the_reference_grid() -> None:
    model, condition = rough_model(), TextCondition.from_list(prompts(3))
    inputs, _ = image(model, SQUARE, 1)
    other = ScaleSchedule(SQUARE.grids, (64, 64))
    assert not torch.allclose(model(condition, inputs, SQUARE), model(condition, inputs, other), atol=1e-3)


def test_the_loss_is_cross_entropy_of_every_bit() -> None:
    logits = torch.randn(2, 21, 4, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    bits = torch.rand(2, 21, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = torch.nn.functional.cross_entropy(logits.float().flatten(0, 2), bits.long().flatten())
    ours = bit_losses(logits, bits)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.mean(), expected, atol=5e-3, rtol=0)  # the margin is taken in bf16
    torch.testing.assert_close(bitwise_loss(logits.float(), bits, SQUARE), expected)


@pytest.mark.parametrize("reweighted", [False, True])
def test_token_weights_sum_to_one_and_lift_coarse_scales(reweighted: bool) -> None:
    weights = token_weights(TALL, reweighted=reweighted)
    assert weights.sum().item() == pytest.approx(1)
    last = weights[-1].item()
    for k, (h, w) in enumerate(TALL):
        expected = math.sqrt(24 / (h * w)) if reweighted else 1.0
        assert weights[TALL.offsets[k]].item() / last == pytest.approx(expected)


def test_schedules_are_the_models_own_and_the_official_ones() -> None:
    own = ScheduleConfig(grids=((1, 1), (4, 4)), reference=(4, 4))
    schedules = config(schedules=(own,), budgets=("0.06M",)).all_schedules()
    assert len(schedules) == 16
    assert schedules[0] == ScaleSchedule(((1, 1), (4, 4)), (4, 4))
    assert schedules[1] == official_schedule("1.0", "0.06M")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "width 32 must be"),
        ({"num_heads": 16}, "width 32 must be"),
        ({"text_adapter_depth": 1}, "go together"),
        ({"text_adapter_width": 16}, "go together"),
        ({"text_width": 384}, "heads that pool the text"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 3},
        {"width": 64},
        {"num_heads": 4},
        {"bits": 8},
        {"text_width": 16},
        {"max_text_tokens": 9},
        {"max_scales": 16},
        {"text_adapter_depth": 1, "text_adapter_width": 16},
    ],
)
def test_every_size_changes_the_weights(changes: dict[str, Any]) -> None:
    def shapes(**changes: Any) -> dict[str, torch.Size]:
        with torch.device("meta"):
            return {name: p.shape for name, p in InfinityTransformer(config(**changes)).named_parameters()}

    assert shapes(**changes) != shapes()


@torch.no_grad()
def test_a_patch_is_read_as_four_cells() -> None:
    model = rough_model(patch_size=2)
    cells = torch.randn(1, 3, 4, 4)
    tokens = torch.from_numpy(oracle.unshuffle(cells[0].numpy(), 2))
    expected = tokens @ model.input_proj.weight.T + model.input_proj.bias + model.scale_embedding[1]
    torch.testing.assert_close(model.embed(cells, 1)[0], expected)
    assert torch.equal(to_cells(tokens[None], (2, 2), model.config.patch_size), cells)


@torch.no_grad()
def test_the_state_can_go_on_with_the_first_rows() -> None:
    model = rough_model()
    condition = TextCondition.from_list(prompts(3, 5, 2))
    inputs, _ = image(model, SQUARE, 3)
    full = model(condition, inputs, SQUARE)
    state = model.start_decoding(condition, SQUARE)
    model.decode_scale(model.start_tokens(state.condition), 0, state)
    state = state.first_rows(2)
    close(model.decode_scale(model.embed(inputs[0][:2], 1), 1, state), full[:2, SQUARE.tokens(1)])


@torch.no_grad()
def test_a_handed_in_cache_is_decoded_into_and_never_rebound() -> None:
    model = rough_model()
    inputs, _ = image(model, TALL, 2)
    cache = model.allocate_cache(4, SQUARE if SQUARE.num_tokens > TALL.num_tokens else TALL)
    cache.buffer.fill_(torch.nan)  # what an earlier call left must not matter
    for seed in (5, 6):
        condition = TextCondition.from_list(prompts(3, 5))
        own, handed = model.start_decoding(condition, TALL), model.start_decoding(condition, TALL, cache=cache)
        for k in range(len(TALL)):
            tokens = model.embed(inputs[k - 1] + seed, k) if k else own.start
            assert torch.equal(model.decode_scale(tokens, k, handed), model.decode_scale(tokens, k, own))
        assert handed.cache.buffer.data_ptr() == cache.buffer.data_ptr()
        assert (handed.rows, handed.cache.capacity) == (2, TALL.cached_tokens)


def test_a_new_latent_is_as_large_as_the_last_grid() -> None:
    model = rough_model(patch_size=2)
    inputs, _ = image(model, TALL, 1)
    assert [tuple(part.shape) for part in inputs] == [(1, 3, h, w) for h, w in TALL.latent_grids(2)[1:]]
    latent = pyramid.empty_latent(1, 3, TALL.latent_grids(2)[-1], model.device)
    assert torch.equal(pyramid.next_input(latent, (4, 2)), torch.zeros(1, 3, 4, 2))
