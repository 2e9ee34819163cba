"""Which of an image's captions a step trains on, and how much of it: no more than the text encoder reads."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
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


def cut_to(caption: str, num_tokens: Callable[[str], int], limit: int) -> str:
    """As much of a caption's beginning as has at most `limit` tokens.

    It ends after a sentence where one ends in that part, else after a word, else anywhere.

    Args:
        caption: any text.
        num_tokens: counts a text's tokens, special ones included; more text never has fewer.
        limit: in tokens.
    """
    if num_tokens(caption) <= limit:
        return caption
    sentences = [match.end() for match in _SENTENCE_END.finditer(caption)]
    words = [match.start() for match in re.finditer(r"\s+", caption) if match.start()]
    for ends in (sentences, words, range(1, len(caption))):
        fitting = bisect_right(ends, limit, key=lambda end: num_tokens(caption[:end]))
        while fitting and num_tokens(caption[: ends[fitting - 1]]) > limit:  # where a tokenizer isn't quite so orderly
            fitting -= 1
        if fitting:
            return caption[: ends[fitting - 1]]
    return ""


def cut_text(cut: int, total: int, limit: int) -> str:
    """What is told of captions that were cut."""
    return f"{cut:,} of {total:,} captions were cut to the {limit:,} tokens the model reads of a text"
