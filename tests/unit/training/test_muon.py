"""Muon: orthogonal updates for hidden matrices, AdamW for the rest, nothing in between."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitvar.nn.linear import Linear, channels_last
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.training.config import OptimizationConfig
from bitvar.training.engine.muon import Muon, batches_of_one_shape, orthogonalize
from bitvar.training.engine.optim import EDGES, build_optimizer, hidden_matrices
from bitvar.transformer import InfinityTransformer, ScheduleConfig, TransformerConfig

TOKENIZER = TokenizerConfig(bits=4, base_channels=8, channel_multipliers=(1, 2), res_blocks=1, norm_groups=4)
TRANSFORMER = TransformerConfig(
    depth=1, width=16, num_heads=2, bits=4, text_width=6, max_text_tokens=5, text_adapter_depth=1, text_adapter_width=8,
    schedules=(ScheduleConfig(grids=((1, 1), (2, 2)), reference=(2, 2)),),
)  # fmt: skip
SETTINGS: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "betas": (0.9, 0.97), "weight_decay": 0.0}


def parameter(*shape: int) -> nn.Parameter:
    made = nn.Parameter(torch.randn(*shape))
    made.grad = torch.randn(*shape)
    return made


@pytest.mark.parametrize("shape", [(6, 6), (4, 32), (32, 4), (1, 9)])
def test_every_direction_of_an_orthogonal_update_counts_alike(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    assert s.max() > 1.25 or shape[0] == 1
    update = orthogonalize(matrix)
    values = torch.linalg.svdvals(update)
    assert ((values > 0.6) & (values < 1.3)).all()
    cosine = (update * (u @ v)).sum() / update.norm() / (u @ v).norm()
    assert cosine > 0.97


@pytest.mark.parametrize("shape", [(64, 64), (3, 32, 96), (96, 32)])
def test_products_in_bf16_give_nearly_the_same_update(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, rounded = orthogonalize(matrices), orthogonalize(matrices, dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    assert (exact * rounded).sum() / exact.norm() / rounded.norm() > 0.999
    torch.testing.assert_close(torch.linalg.svdvals(rounded), torch.linalg.svdvals(exact), atol=0.06, rtol=0)
    assert torch.equal(orthogonalize(torch.zeros(3, 5), dtype=torch.bfloat16), torch.zeros(3, 5))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_configuration_chooses_the_precision_of_the_products(precision: Any) -> None:
    weight = parameter(32, 32)
    assert weight.grad is not None
    model = nn.ModuleDict({"hidden": Linear(32, 32, bias=False)})
    with torch.no_grad():
        model["hidden"].weight.copy_(weight)
    model["hidden"].weight.grad = weight.grad.clone()
    config = OptimizationConfig(
        optimizer="muon", steps=1, batch_size=1, learning_rate=0.01, momentum=0.9, muon_precision=precision
    )
    build_optimizer(model, config).step()
    Muon({1: [weight]}, [], **SETTINGS, dtype=torch.float32 if precision == "fp32" else torch.bfloat16).step()
    assert torch.equal(model["hidden"].weight, weight)


def test_no_gradient_direction_gives_no_update() -> None:
    assert torch.equal(orthogonalize(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (8, 4, 3, 3)])
def test_an_update_is_as_large_as_adamws(shape: tuple[int, ...]) -> None:
    weight = parameter(*shape)
    before = weight.detach().clone()
    Muon({1: [weight]}, [], **SETTINGS).step()
    rms = (weight.detach() - before).square().mean().sqrt().item()
    assert rms == pytest.approx(0.2 * SETTINGS["lr"], rel=0.3)


def test_momentum_looks_ahead() -> None:
    weight = parameter(4, 6)
    before, gradients = weight.detach().clone(), [torch.randn(4, 6) for _ in range(3)]
    optimizer = Muon({1: [weight]}, [], **SETTINGS)
    average, expected = torch.zeros(4, 6), before
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        ahead = 0.9 * average + 0.1 * gradient
        expected = expected - 0.01 * 0.2 * 6**0.5 * orthogonalize(ahead)
        assert torch.equal(weight.grad, gradient)
    torch.testing.assert_close(weight.detach(), expected)


def test_a_convolution_steps_like_its_matrix_in_any_memory_layout() -> None:
    plain = parameter(8, 4, 3, 3)
    assert plain.grad is not None
    matrix = nn.Parameter(plain.detach().flatten(1).clone())
    matrix.grad = plain.grad.flatten(1).clone()
    laid_out = channels_last(nn.ParameterDict({"w": plain.detach().clone()}))["w"]
    laid_out.grad = plain.grad.to(memory_format=torch.channels_last)
    for weight in (plain, matrix, laid_out):
        Muon({1: [weight]}, [], **SETTINGS).step()
    torch.testing.assert_close(plain.flatten(1), matrix)
    torch.testing.assert_close(laid_out, plain)


def test_stacked_matrices_are_orthogonalised_apart() -> None:
    stacked = parameter(12, 4)
    assert stacked.grad is not None
    apart = [nn.Parameter(part.detach().clone()) for part in stacked.chunk(3)]
    for part, gradient in zip(apart, stacked.grad.chunk(3), strict=True):
        part.grad = gradient.clone()
    Muon({3: [stacked]}, [], **SETTINGS).step()
    Muon({1: apart}, [], **SETTINGS).step()
    torch.testing.assert_close(stacked.detach(), torch.cat([part.detach() for part in apart]))


def assert_each_steps_as_alone(together: list[nn.Parameter], *, parts: int) -> None:
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    for copy, original in zip(alone, together, strict=True):
        assert original.grad is not None
        copy.grad = original.grad.clone()
        Muon({parts: [copy]}, [], **SETTINGS).step()
    Muon({parts: together}, [], **SETTINGS).step()
    for copy, original in zip(alone, together, strict=True):
        torch.testing.assert_close(copy.detach(), original.detach())


@pytest.mark.parametrize(("parts", "shape"), [(3, (12, 4)), (1, (4, 2, 3, 3))])
def test_several_of_one_shape_step_as_each_would_alone(parts: int, shape: tuple[int, ...]) -> None:
    assert_each_steps_as_alone([parameter(*shape) for _ in range(3)], parts=parts)


def test_matrices_of_one_shape_go_together_up_to_a_limit() -> None:
    mixed = [parameter(4, 6), parameter(6, 4), parameter(4, 6)]
    assert [len(same) for same in batches_of_one_shape(mixed, max_elements=48)] == [2, 1]
    assert [len(same) for same in batches_of_one_shape(mixed, max_elements=47)] == [1, 1, 1]
    assert_each_steps_as_alone(mixed, parts=1)


def test_the_rest_steps_exactly_as_adamw() -> None:
    ours, theirs = ([parameter(3, 4), parameter(5)] for _ in range(2))
    gradients = [[torch.randn_like(p) for p in ours] for _ in range(3)]
    for a, b in zip(ours, theirs, strict=True):
        b.data = a.detach().clone()
    muon = Muon({}, ours, **SETTINGS | {"weight_decay": 0.1})
    groups = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.97), fused=True)
    for step in gradients:
        for a, b, gradient in zip(ours, theirs, step, strict=True):
            a.grad, b.grad = gradient.clone(), gradient.clone()
        muon.step()
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_weight_decay_shrinks_matrices() -> None:
    weight = parameter(3, 4)
    before = weight.detach().clone()
    weight.grad = torch.zeros(3, 4)
    Muon({1: [weight]}, [], **SETTINGS | {"weight_decay": 0.5}).step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.01 * 0.5))


def test_what_has_no_gradient_stays() -> None:
    weights = [parameter(3, 4), parameter(5)]
    before = [w.detach().clone() for w in weights]
    for weight in weights:
        weight.grad = None
    Muon({1: weights[:1]}, weights[1:], **SETTINGS).step()
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))


def names_of(model: nn.Module) -> set[str]:
    ids = {id(p) for same in hidden_matrices(model).values() for p in same}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_hidden_matrices_lie_between_hidden_spaces() -> None:
    tokenizer, transformer = InfinityTokenizer(TOKENIZER), InfinityTransformer(TRANSFORMER)
    picked = names_of(tokenizer) | names_of(transformer)
    assert {"blocks.0.fc1.weight", "blocks.0.self_attention.qkv.weight", "text.adapter.proj.weight"} <= picked
    assert any(name.startswith("encoder.middle") for name in picked)
    assert not {name for name in picked if set(name.split(".")) & EDGES}
    assert not {"text.null", "scale_embedding", "start_token", "text.pool.query"} & picked
    config = TRANSFORMER.width
    stacked = {parts: {tuple(p.shape) for p in same} for parts, same in hidden_matrices(transformer).items()}
    assert stacked[3] == {(3 * config, config), (3 * 8, 8)}
    assert stacked[2] == {(2 * config, config), (2 * config, 8)}
    modules = {name.rsplit(".", 1)[-1] for m in (tokenizer, transformer) for name, _ in m.named_modules()}
    assert modules >= EDGES


def test_every_parameter_is_in_one_group() -> None:
    model = InfinityTransformer(TRANSFORMER)
    hidden = hidden_matrices(model)
    ids = {id(p) for same in hidden.values() for p in same}
    optimizer = Muon(hidden, [p for p in model.parameters() if id(p) not in ids], **SETTINGS)
    seen: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(seen) == len({id(p) for p in seen}) == len(list(model.parameters()))
