"""The arguments of diffusers in terms of bitvar: seeds, conditions, guidance that changes, and kinds of folders."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bitvar.condition import TextCondition
from bitvar.errors import UsageError
from bitvar.sampling.draw import apply_guidance
from bitvar.sampling.steering import ScaleLogits
from bitvar.weights.digests import MANIFEST
from bitvar.weights.hub import is_hub_id, resolve_model


@runtime_checkable
class _Guided(Protocol):
    @property
    def guidance_scale(self) -> float | Sequence[float]: ...


class LiveGuidance:
    """Guidance whose scale a callback may change between scales."""

    def __init__(self, pipeline: _Guided) -> None:
        self._pipeline = pipeline

    def process(self, k: int, logits: ScaleLogits) -> Float[Tensor, "b l d 2"]:
        """Apply the guidance scale of the moment."""
        if logits.unconditional is None:
            return logits.conditional
        scale = self._pipeline.guidance_scale
        assert isinstance(scale, float | int), "a callback sets a number"
        return apply_guidance(logits.conditional, logits.unconditional, scale)

    def image(self, index: int) -> "LiveGuidance":
        """Return itself: it keeps nothing of an image."""
        return self


def conditions_of(
    features: Tensor, mask: Tensor, negative: Tensor | None, negative_mask: Tensor | None
) -> tuple[TextCondition, TextCondition | None]:
    """Make the conditions of a call from features and masks: the prompts, and what guidance steers away from.

    Raises:
        UsageError: for another number of negative features than of images.
    """
    kept = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    condition = TextCondition(features, mask.bool(), kept)
    if negative is None or negative_mask is None:
        return condition, None
    if len(negative) != len(features):
        raise UsageError(f"{len(negative)} negative features for {len(features)} images.", fix="give one for each")
    return condition, TextCondition(negative, negative_mask.bool(), kept)


def draw_seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """Draw the seed of each image.

    Args:
        generator: Source of the seeds: one for all images, one an image, or None for the system's.
        count: Number of images.

    Raises:
        UsageError: for more or fewer generators than images.
    """
    if generator is None:
        return [secrets.randbelow(2**32) for _ in range(count)]
    given = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
    if len(given) != count:
        raise UsageError(f"{len(given)} generators for {count} images.", fix="give one for all, or one an image")
    return [int(torch.randint(2**32, (), generator=one, device=one.device)) for one in given]


def is_of_diffusers(name: str, revision: str | None) -> bool:
    """Whether a folder or a hub repository was written by diffusers, not by bitvar."""
    folder = Path(name).expanduser()
    if folder.exists():
        return (folder / "model_index.json").is_file() and not (folder / MANIFEST).is_file()
    if not is_hub_id(name):
        return False
    return not (resolve_model(name, revision) / MANIFEST).is_file()
