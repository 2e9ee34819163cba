"""The adapter: exactly nothing untrained, and the same under sampling as under training."""

import torch

from bitvar import pyramid
from bitvar.condition import TextCondition
from bitvar.control.adapter import ControlAdapter
from bitvar.control.config import ControlConfig, ControlSettings
from bitvar.control.tokens import ControlledDecoder, controlled_logits
from bitvar.sampling.generate import generate
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule
from bitvar.transformer import InfinityTransformer
from tests.support.tiny import TEXT_WIDTH, tiny_transformer

PIXELS = 4
SETTINGS = ControlSettings(channels=(8, 12), depth=1, hidden=16)


def adapter_of(model: InfinityTransformer, *, trained: bool) -> ControlAdapter:
    adapter = ControlAdapter(ControlConfig.of(SETTINGS, model.config, stride=PIXELS))
    generator = torch.Generator().manual_seed(1)
    adapter.init_weights(generator)
    if trained:
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if name.startswith("projections"):
                    parameter.normal_(0, 0.3, generator=generator)
    return adapter.eval().requires_grad_(False)


def condition_of(batch: int) -> TextCondition:
    generator = torch.Generator().manual_seed(2)
    return TextCondition.from_list([torch.randn(3 + i, TEXT_WIDTH, generator=generator) for i in range(batch)])


def maps_of(schedule: ScaleSchedule, batch: int) -> torch.Tensor:
    height, width = schedule[-1]
    drawn = torch.rand(batch, 1, height * PIXELS, width * PIXELS, generator=torch.Generator().manual_seed(3))
    return (drawn > 0.8).float()


def bits_of(decoder: object, schedule: ScaleSchedule, *, guidance: float, batch: int = 2) -> torch.Tensor:
    results = generate(
        decoder,  # type: ignore[arg-type]
        condition_of(batch),
        schedule,
        params=SamplingParams(guidance_scale=guidance, temperature=1.0, top_k=0, top_p=0.0),
        seeds=list(range(batch)),
    )
    return torch.cat([result.bits.flatten(1) for result in results], dim=1)


def test_an_untrained_adapter_changes_nothing_at_all() -> None:
    model = tiny_transformer()
    for schedule in model.config.all_schedules():
        additions = adapter_of(model, trained=False)(maps_of(schedule, 1), schedule)
        assert all(not addition.any() for addition in additions)
        plain = bits_of(model, schedule, guidance=2.0)
        assert torch.equal(bits_of(ControlledDecoder(model, additions), schedule, guidance=2.0), plain)


def test_a_trained_adapter_depends_on_map_and_place() -> None:
    model = tiny_transformer()
    schedule = model.config.all_schedules()[0]
    adapter = adapter_of(model, trained=True)
    blank = torch.zeros(1, 1, 16, 16)
    corner = blank.clone()
    corner[..., :4, :4] = 1
    with_corner, without = adapter(corner, schedule)[-1], adapter(blank, schedule)[-1]
    changed = (with_corner - without).abs().amax(-1)[0].view(4, 4)
    assert changed[0, 0] > 10 * changed[3, 3]
    assert [tuple(part.shape) for part in adapter(blank, schedule)] == [(1, h * w, 32) for h, w in schedule]


def test_sampling_and_training_compute_the_same_logits() -> None:
    model = tiny_transformer()
    for schedule in model.config.all_schedules():
        adapter, condition = adapter_of(model, trained=True), condition_of(2)
        additions = adapter(maps_of(schedule, 2), schedule)
        generator = torch.Generator().manual_seed(4)
        latents = [torch.randn(2, 4, *schedule[-1], generator=generator) for _ in schedule.grids[1:]]
        inputs = [pyramid.next_input(latent, grid) for latent, grid in zip(latents, schedule.grids[1:], strict=True)]
        whole = controlled_logits(model, condition, inputs, schedule, additions)
        plain = model(condition, inputs, schedule)
        assert not torch.allclose(whole, plain, atol=1e-3)
        decoder = ControlledDecoder(model, additions)
        state = decoder.start_decoding(condition, schedule)
        for k in range(len(schedule)):
            tokens = decoder.embed(inputs[k - 1], k) if k else state.start
            stepwise = decoder.decode_scale(tokens, k, state)
            torch.testing.assert_close(stepwise, whole[:, schedule.tokens(k)], atol=1e-5, rtol=1e-4)


def test_every_row_of_guidance_sees_the_control_of_its_image() -> None:
    model = tiny_transformer()
    schedule = model.config.all_schedules()[0]
    additions = adapter_of(model, trained=True)(maps_of(schedule, 2), schedule)
    decoder = ControlledDecoder(model, additions)
    both = condition_of(2).concatenate(condition_of(2))
    state = decoder.start_decoding(both, schedule)
    logits = decoder.decode_scale(state.start, 0, state)
    torch.testing.assert_close(logits[:2], logits[2:])  # the same text and the same control
    plain = model.start_decoding(both, schedule)
    assert not torch.allclose(model.decode_scale(plain.start, 0, plain), logits, atol=1e-3)
    assert not torch.equal(logits[0], logits[1])


def test_a_teacher_forced_gradient_reaches_the_adapter_alone() -> None:
    model = tiny_transformer()
    schedule = model.config.all_schedules()[0]
    adapter = adapter_of(model, trained=False).requires_grad_(True)
    inputs = [torch.zeros(1, 4, h, w) for h, w in schedule.grids[1:]]
    additions = adapter(maps_of(schedule, 1), schedule)
    controlled_logits(model, condition_of(1), inputs, schedule, additions).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    for k in range(len(schedule)):
        gradient = gradients[f"projections.{k}.weight"]
        assert gradient is not None and gradient.any()
    assert all(parameter.grad is None for parameter in model.parameters())
