"""The prefix of source features: teacher forcing and cached decoding agree, and every scale sees what it should."""

import pytest
import torch

from bitvar import pyramid
from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.instruction.decoder import SourceDecoder
from bitvar.instruction.forward import edit_logits
from bitvar.instruction.prefix import prefixed_positions, resize_tokens
from bitvar.sampling.decoder import ScaleDecoder
from bitvar.sampling.generate import generate, generate_apart
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule
from bitvar.weights.instruction import SourcePositions
from tests.support.tiny import BITS, TEXT_WIDTH, tiny_transformer

POSITIONS: tuple[SourcePositions, ...] = ("aligned", "official")


def trained_like(**changes: object):
    """A tiny transformer whose attention and head are far from their initial zeros."""
    model = tiny_transformer(**changes)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def draws(schedule: ScaleSchedule, batch: int, *, patch_size: int = 1, seed: int = 0):
    """Random instructions, source features, and the inputs of every scale."""
    generator = torch.Generator().manual_seed(seed)
    condition = TextCondition.from_list([torch.randn(3 + i, TEXT_WIDTH, generator=generator) for i in range(batch)])
    grids = schedule.latent_grids(patch_size)
    source = torch.randn(batch, BITS // patch_size**2, *grids[-1], generator=generator)
    latents = [torch.randn(batch, BITS // patch_size**2, *grids[-1], generator=generator) for _ in grids[1:]]
    inputs = [pyramid.next_input(latent, grid) for latent, grid in zip(latents, grids[1:], strict=True)]
    return condition, source, inputs


def decode(decoder: SourceDecoder, condition: TextCondition, inputs, schedule: ScaleSchedule) -> torch.Tensor:
    """Logits of every scale, decoded one after another."""
    state = decoder.start_decoding(condition, schedule)
    tokens, logits = state.start, []
    for k in range(len(schedule)):
        logits.append(decoder.decode_scale(tokens, k, state))
        if k + 1 < len(schedule):
            tokens = decoder.embed(inputs[k], k + 1)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_teacher_forcing_equals_cached_decoding(positions: SourcePositions, which: int, patch_size: int) -> None:
    model = trained_like(patch_size=patch_size)
    schedule = model.config.all_schedules()[which]
    condition, source, inputs = draws(schedule, 3, patch_size=patch_size)
    forced = edit_logits(model, condition, source, inputs, schedule, positions=positions)
    decoder = SourceDecoder(model, source, positions=positions)
    assert isinstance(decoder, ScaleDecoder)
    decoded = decode(decoder, condition, inputs, schedule)
    assert forced.abs().max() > 0.1
    torch.testing.assert_close(decoded, forced, atol=2e-6, rtol=1e-5)


def test_a_scale_sees_the_coarser_ones_and_no_finer_one() -> None:
    model = trained_like()
    schedule = model.config.all_schedules()[0]
    condition, source, inputs = draws(schedule, 1)
    plain = edit_logits(model, condition, source, inputs, schedule)
    for changed in range(1, len(schedule)):
        others = [x + (k == changed) for k, x in enumerate(inputs, start=1)]
        difference = (edit_logits(model, condition, source, others, schedule) - plain).abs().flatten(2).amax((0, 2))
        assert difference[: schedule.offsets[changed]].max() == 0
        assert difference[schedule.offsets[changed] :].min() > 0


def test_every_scale_sees_the_source() -> None:
    model = trained_like()
    schedule = model.config.all_schedules()[0]
    condition, source, inputs = draws(schedule, 1)
    plain = edit_logits(model, condition, source, inputs, schedule)
    other = source.clone()
    other[:, :, -1, -1] += 1  # one cell
    assert (edit_logits(model, condition, other, inputs, schedule) - plain).abs().flatten(2).amax((0, 2)).min() > 0


def test_the_first_block_sees_the_source_at_each_scales_own_grid() -> None:
    """With one block, only averages of the prefix over the scale's cells reach a scale."""
    model = trained_like(depth=1)
    schedule = model.config.all_schedules()[0]
    condition, source, inputs = draws(schedule, 1)
    whole = schedule[-1]
    k, v = (torch.randn(2, 2, whole[0] * whole[1], 4) for _ in range(2))
    for grid in schedule:
        small = resize_tokens(k, whole, grid)
        assert small.shape == (2, 2, grid[0] * grid[1], 4)
        torch.testing.assert_close(small.mean(2), k.mean(2))
    assert torch.equal(resize_tokens(v, whole, whole), v)
    corner = resize_tokens(k, whole, (2, 2))[:, :, 0]
    cells = k.unflatten(2, whole)[:, :, : whole[0] // 2, : whole[1] // 2].flatten(2, 3)
    torch.testing.assert_close(corner, cells.mean(2))
    forced = edit_logits(model, condition, source, inputs, schedule)
    decoded = decode(SourceDecoder(model, source), condition, inputs, schedule)
    torch.testing.assert_close(decoded, forced, atol=2e-6, rtol=1e-5)


def test_positions_of_the_source() -> None:
    schedule = ScaleSchedule(((1, 1), (2, 2), (4, 4)), (4, 4))
    own = schedule.positions()
    aligned, official = (prefixed_positions(schedule, positions) for positions in POSITIONS)
    assert torch.equal(aligned[16:], own) and torch.equal(aligned[:16], own[-16:])
    assert torch.equal(official[16:], own) and torch.equal(official[:16], own[-16:] + 4)
    shorter = ScaleSchedule(((1, 1), (2, 2)), (4, 4))  # the official table is read in order
    assert torch.equal(prefixed_positions(shorter, "official"), official[:9])
    assert len(prefixed_positions(shorter, "aligned")) == 9


def test_guided_rows_see_the_source_alike() -> None:
    model = trained_like()
    schedule = model.config.all_schedules()[0]
    condition, source, inputs = draws(schedule, 2)
    dropped = condition.drop(torch.ones(2, dtype=torch.bool))
    both = decode(
        SourceDecoder(model, source), condition.concatenate(dropped), [x.repeat(2, 1, 1, 1) for x in inputs], schedule
    )
    alone = decode(SourceDecoder(model, source), dropped, inputs, schedule)
    torch.testing.assert_close(both[2:], alone, atol=2e-6, rtol=1e-5)
    other = decode(SourceDecoder(model, source + 1), dropped, inputs, schedule)
    assert (other - alone).abs().max() > 1e-3


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0, [3.0, 3.0, 1.0]])
def test_the_sampling_loop_runs_on_it(guidance_scale) -> None:
    model = trained_like()
    schedule = model.config.all_schedules()[0]
    condition, source, _ = draws(schedule, 1)
    params = SamplingParams(guidance_scale=guidance_scale, temperature=1.0, top_k=0, top_p=0.0)
    results = [
        list(run(SourceDecoder(model, features), condition, schedule, params=params, seeds=[5]))[-1].latent
        for run in (generate, generate_apart)
        for features in (source, source + 1)
    ]
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


def test_a_source_of_another_size_or_number_is_refused() -> None:
    model = tiny_transformer()
    schedule = model.config.all_schedules()[0]
    condition, source, inputs = draws(schedule, 3)
    with pytest.raises(UsageError, match="another size"):
        edit_logits(model, condition, source[:, :, :2], inputs, schedule)
    with pytest.raises(UsageError, match="3 rows are decoded for 2 source images"):
        SourceDecoder(model, source[:2]).start_decoding(condition, schedule)
