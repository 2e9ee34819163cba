"""Sharpness and outlines: zero where there is nothing, less for a blur, exact for a shift."""

import torch
from torch import Tensor

from bitvar.metrics.sharpness import high_frequency_energy, outline_error


def disc(radius: float, *, side: int = 64, shift: float = 0.0) -> Tensor:
    """Opacity of a disc, with a soft rim of a pixel."""
    axis = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    distance = ((axis[:, None]) ** 2 + (axis[None] - shift) ** 2).sqrt()
    return (radius + 0.5 - distance).clamp(0, 1)[None, None]


def test_a_constant_image_has_no_high_frequencies() -> None:
    assert high_frequency_energy(torch.full((2, 3, 16, 16), 0.3)).abs().max() < 1e-10


def test_a_blur_takes_energy_and_noise_adds_it() -> None:
    sharp = disc(20).expand(1, 3, 64, 64)
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2, count_include_pad=False)
    noisy = sharp + 0.05 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    less, usual, more = (high_frequency_energy(images).item() for images in (blurred, sharp, noisy))
    assert less < 0.3 * usual and more > 1.1 * usual


def test_a_checkerboard_loses_all_but_its_mean() -> None:
    board = (torch.arange(16)[:, None] + torch.arange(16)[None]) % 2 * 2.0 - 1.0
    inner = high_frequency_energy(board.expand(1, 3, 16, 16)).item()
    assert 0.9 < inner <= 1.0  # the blur of alternating signs is zero, except at the repeated edges


def test_further_channels_do_not_count() -> None:
    images = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(high_frequency_energy(images), high_frequency_energy(images[:, :3]))


def test_an_equal_outline_has_no_error_and_a_shifted_one_has() -> None:
    errors = [outline_error(disc(20, shift=shift), disc(20)).item() for shift in (0.0, 0.5, 1.0, 2.0)]
    assert errors[0] == 0.0
    assert errors == sorted(errors) and errors[1] > 0.01 and errors[3] < 0.5


def test_errors_far_from_an_outline_do_not_count() -> None:
    reference = disc(20)
    wrong = reference.clone()
    wrong[..., :4, :4] = 1.0
    assert outline_error(wrong, reference).item() == 0.0


def test_without_outlines_there_is_nothing_to_judge() -> None:
    assert outline_error(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)).isnan().all()
