"""The residual pyramid against the oracle, and its promises: fp32, straight-through, bilinear inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar import pyramid
from bitvar.scales import ScaleSchedule, code_norms_of
from bitvar.training.transformer.self_correction import teacher_forcing
from tests.support import oracle

Grid = tuple[int, int]


def random_features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check_against_oracle(features: torch.Tensor, grids: list[Grid]) -> None:
    steps = list(pyramid.encode(features, grids))
    assert len(steps) == len(grids)
    for b in range(len(features)):
        for step, truth in zip(steps, oracle.pyramid(features[b].numpy(), grids), strict=True):
            np.testing.assert_allclose(step.residual[b].numpy(), truth.residual, atol=2e-6)
            np.testing.assert_array_equal(step.bits[b].numpy(), truth.bits)
            np.testing.assert_allclose(step.latent[b].numpy(), truth.latent, atol=2e-6)


@pytest.mark.parametrize(
    "grids",
    [
        [(1, 1), (2, 2), (4, 4), (8, 8)],
        [(1, 1), (2, 2), (3, 2), (6, 4), (9, 6)],  # 3:2, sides that do not divide
        [(1, 1), (2, 3), (4, 5), (5, 7)],
        [(2, 2), (4, 4), (6, 4), (12, 8)],  # a patched model's: even sides, no 1x1
        [(4, 4)],
    ],
)
def test_the_pyramid_equals_the_oracle(grids: list[Grid]) -> None:
    check_against_oracle(random_features(2, 5, *grids[-1]), grids)


@st.composite
def growing_grids(draw: st.DrawFn) -> list[Grid]:
    grids = [(1, 1)]
    for _ in range(draw(st.integers(0, 3))):
        h, w = grids[-1]
        grids.append((h + draw(st.integers(0, 3)), w + draw(st.integers(0, 3))))
    return grids


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(growing_grids(), st.integers(1, 6), st.integers(0, 1000))
def test_the_pyramid_equals_the_oracle_on_any_grids(grids: list[Grid], d: int, seed: int) -> None:
    check_against_oracle(random_features(1, d, *grids[-1], seed=seed), grids)


@pytest.mark.parametrize("code_norms", [(1.0,), (2.0, 1.4, 1.0)], ids=str)
@pytest.mark.parametrize("patch_size", [1, 2])
def test_self_correction_equals_the_oracle(patch_size: int, code_norms: tuple[float, ...]) -> None:
    schedule = ScaleSchedule(((1, 1), (2, 1), (3, 2), (5, 3)), (10, 6))
    grids = schedule.latent_grids(patch_size)
    features = random_features(2, 4, *grids[-1], seed=3)
    masks = [random_features(2, 4, *grid, seed=10 + k) > 0.8 for k, grid in enumerate(grids)]
    code_norms = code_norms_of(code_norms, 4)
    data = teacher_forcing(
        features, schedule, patch_size=patch_size, code_norms=code_norms, flip=lambda k, bits: bits ^ masks[k]
    )
    for b in range(2):
        scales = oracle.pyramid(features[b].numpy(), grids, lambda k, bits, b=b: bits ^ masks[k][b].numpy(), code_norms)
        for ours, theirs in zip(data.inputs, oracle.transformer_inputs(scales, grids), strict=True):
            np.testing.assert_allclose(ours[b].numpy(), theirs, atol=2e-6)
        targets = np.concatenate([oracle.unshuffle(scale.bits, patch_size) for scale in scales])
        np.testing.assert_array_equal(data.target_bits[b].numpy(), targets)


def test_codes_may_grow_shorter_and_the_pyramid_still_equals_the_oracle() -> None:
    grids = [(1, 1), (2, 2), (4, 4), (6, 6)]
    features, code_norms = 3 * random_features(1, 4, 6, 6), (3.0, 3.0, 1.5, 0.5)
    assert code_norms_of((3.0, 1.5, 0.5), 4) == code_norms
    assert code_norms_of((3.0, 1.5, 0.5), 2) == (1.5, 0.5)
    steps = list(pyramid.encode(features, grids, code_norms))
    for step, truth in zip(steps, oracle.pyramid(features[0].numpy(), grids, code_norms=code_norms), strict=True):
        np.testing.assert_array_equal(step.bits[0].numpy(), truth.bits)
        np.testing.assert_allclose(step.latent[0].numpy(), truth.latent, atol=2e-6)
    bits = [step.bits for step in steps]
    for k, latent in enumerate(pyramid.cumulative_latents(bits[:3], (6, 6), code_norms)):  # the finest is missing
        assert torch.equal(latent, steps[k].latent)


def test_shorter_codes_come_closer_to_a_flat_image() -> None:
    """Each halves what may be left, and so the last: of equal ones every scale may leave as much as the first."""
    grids, step = [(1, 1), (2, 2), (4, 4), (8, 8)], 4**-0.5
    features = torch.linspace(-2 * step, 2 * step, 4)[None, :, None, None].expand(1, 4, 8, 8)
    left = {
        code_norms: float((features - list(pyramid.encode(features, grids, code_norms))[-1].latent).abs().max())
        for code_norms in ((1.0, 1.0, 1.0, 1.0), (1.0, 0.5, 0.25, 0.125))
    }
    assert left[1.0, 1.0, 1.0, 1.0] > step / 2
    assert left[1.0, 0.5, 0.25, 0.125] <= step / 8 + 1e-6


def test_bf16_features_are_walked_in_fp32() -> None:
    features = random_features(1, 4, 6, 6).bfloat16()
    ours = list(pyramid.encode(features, [(1, 1), (3, 3), (6, 6)]))
    exact = list(pyramid.encode(features.float(), [(1, 1), (3, 3), (6, 6)]))
    for step, truth in zip(ours, exact, strict=True):
        assert step.residual.dtype == step.latent.dtype == torch.float32
        assert torch.equal(step.latent, truth.latent)
        assert torch.equal(step.bits, truth.bits)


def test_an_empty_latent_is_fp32_zeros() -> None:
    latent = pyramid.empty_latent(2, 3, (4, 5), torch.device("cpu"))
    assert latent.dtype == torch.float32
    assert latent.shape == (2, 3, 4, 5)
    assert not latent.any()


@pytest.mark.parametrize("code_norms", [(1.0, 1.0, 1.0), (3.0, 1.5, 0.5)], ids=str)
def test_every_scale_adds_its_own_straight_through_gradient(code_norms: tuple[float, ...]) -> None:
    grids = [(1, 1), (2, 2), (4, 4)]
    features = random_features(1, 4, 4, 4).requires_grad_()
    steps = list(pyramid.encode(features, grids, code_norms))
    weight = random_features(1, 4, 4, 4, seed=1)
    (gradient,) = torch.autograd.grad((steps[-1].latent * weight).sum(), features)
    expected = torch.zeros_like(features)
    for k, grid in enumerate(grids):  # each scale alone: its residual with the coarser latent held fixed
        before = steps[k - 1].latent.detach() if k else torch.zeros(1, 4, 4, 4)
        leaf = features.detach().requires_grad_()
        residual = pyramid.residual_at(leaf, before, grid)
        unit = code_norms[k] * residual / residual.square().sum(dim=1, keepdim=True).sqrt()
        (part,) = torch.autograd.grad((pyramid.add_scale(before, unit) * weight).sum(), leaf)
        assert part.abs().sum() > 0
        expected += part
    torch.testing.assert_close(gradient, expected)


def test_the_straight_through_latent_has_the_plain_value() -> None:
    features = random_features(1, 4, 4, 4)
    plain = list(pyramid.encode(features, [(1, 1), (4, 4)]))[-1]
    trained = list(pyramid.encode(features.requires_grad_(), [(1, 1), (4, 4)]))[-1]
    assert not plain.latent.requires_grad
    torch.testing.assert_close(trained.latent.detach(), plain.latent)


@pytest.mark.parametrize("grid", [(3, 2), (4, 6), (1, 1)])
def test_the_transformer_is_fed_bilinear_not_area(grid: Grid) -> None:
    latent = random_features(1, 3, 6, 8)
    ours = pyramid.next_input(latent, grid)[0].numpy()
    np.testing.assert_allclose(ours, oracle.bilinear_resize(latent[0].numpy(), grid), atol=2e-6)
    assert np.abs(ours - oracle.area_resize(latent[0].numpy(), grid)).max() > 0.05


def test_adding_a_scale_leaves_its_input_alone() -> None:
    latent = torch.zeros(1, 2, 4, 4)
    added = pyramid.add_scale(latent, torch.ones(1, 2, 2, 2))
    assert not latent.any()
    assert torch.equal(added, torch.ones(1, 2, 4, 4))


def test_a_partial_walk_can_be_stopped() -> None:
    walk = pyramid.encode(random_features(1, 2, 4, 4), [(1, 1), (2, 2), (4, 4)])
    next(walk)
    walk.close()
    assert list(walk) == []
