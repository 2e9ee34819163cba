"""Predicted seconds of a scale, learned from the scales that were drawn. It knows no model."""

from collections.abc import Sequence
from typing import Final

from bitvar.pipeline.request import GenerationRequest
from bitvar.serving.engine.memory import further_prompts

_WEIGHT: Final = 0.3
"""Weight of the newest measurement in the running mean."""

_OVERHEAD_TOKENS: Final = 32
"""Cost of a scale beside its tokens', in tokens, before anything was measured."""


def cost_key(size: tuple[int, int], images: int, request: GenerationRequest) -> tuple[object, ...]:
    """Make the key under which measurements are kept: scales of equal keys take equal work.

    Args:
        size: Width and height at which the model draws.
        images: Number of images that are drawn together.
        request: Their request. An edit also reads its image, and some methods first read it by a second prompt.
    """
    method = None if request.edit is None else request.edit.chosen_method
    return size, images, method, further_prompts(request)


class ScaleCosts:
    """Running means of the seconds that each scale of each size took."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[object, int], float] = {}
        self._per_token = 1e-4

    def record(self, size: object, scale: int, tokens: int, seconds: float) -> None:
        """Take in a measurement.

        Args:
            size: Key of the work, as `cost_key` makes it.
            scale: Index of the scale.
            tokens: Number of tokens of the scale.
            seconds: Measured time.
        """
        known = self._seconds.get((size, scale))
        self._seconds[size, scale] = seconds if known is None else known + _WEIGHT * (seconds - known)
        self._per_token += _WEIGHT * (seconds / (tokens + _OVERHEAD_TOKENS) - self._per_token)

    def image(self, size: object, lengths: Sequence[int]) -> float:
        """Predict the seconds of an image.

        Args:
            size: Key as in `record`.
            lengths: Number of tokens of every scale.
        """
        return sum(self._predict(size, scale, length) for scale, length in enumerate(lengths))

    def _predict(self, size: object, scale: int, tokens: int) -> float:
        known = self._seconds.get((size, scale))
        return (tokens + _OVERHEAD_TOKENS) * self._per_token if known is None else known


def preview_scales(lengths: Sequence[int], count: int) -> tuple[int, ...]:
    """Choose the scales after which an image is shown, spread evenly over the time that drawing takes.

    The first is early enough for a preview within a quarter of the time, and the last scale, which is the image itself,
    is never among them.

    Args:
        lengths: Number of tokens of every scale.
        count: Number of previews asked for; one a scale is the most there are.
    """
    last = len(lengths) - 1
    wanted = min(count, last)
    costs = [length + _OVERHEAD_TOKENS for length in lengths]
    total, done = sum(costs), 0
    chosen: list[int] = []
    for scale, cost in enumerate(costs[:last]):
        done += cost
        due = (len(chosen) + 1) * total / (count + 1)
        following = done + costs[scale + 1]
        left = last - scale  # scales from this one to the last that can be shown
        if len(chosen) < wanted and (following > due or left <= wanted - len(chosen)):
            chosen.append(scale)
    return tuple(chosen)
