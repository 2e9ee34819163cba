"""Which of a picture's captions a step trains on, and how much of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|[\u3002\uff01\uff1f](?=.)")


@dataclass(frozen=True)
class CaptionChoice:
    """How a caption is drawn.

    Attributes:
        first: probability of the first caption, the longest kind; each is as likely if None.
        cut: probability that a caption ends after one of its sentences, each end as likely.
    """

    first: float | None = None
    cut: float = 0.0

    def pick(self, count: int, draws: Sequence[float]) -> int:
        """Which of `count` captions, by two uniform draws in [0, 1)."""
        whether, which = draws[:2]
        if self.first is None or count == 1:
            return int(which * count)
        return 0 if whether < self.first else 1 + int(which * (count - 1))

    def text(self, captions: Sequence[str], draws: Sequence[float]) -> str:
        """The caption to train on, by four uniform draws in [0, 1)."""
        caption = captions[self.pick(len(captions), draws)]
        if draws[2] >= self.cut:
            return caption
        ends = [match.end() for match in _SENTENCE_END.finditer(caption)]
        return caption[: ends[int(draws[3] * len(ends))]] if ends else caption


NUM_DRAWS: Final = 4
"""Uniform draws that choosing a caption takes."""
