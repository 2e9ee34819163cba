"""The choice of the caption a step trains on, and cutting captions to the length that the text encoder reads."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|[\u3002\uff01\uff1f](?=.)")


@dataclass(frozen=True)
class CaptionChoice:
    """The rule by which one of an image's captions is drawn.

    Attributes:
        first: Probability of the first caption, which is the most detailed; None makes all captions equally likely.
        cut: Probability that a caption is cut after one of its sentences, all equally likely.
    """

    first: float | None = None
    cut: float = 0.0

    def pick(self, count: int, draws: Sequence[float]) -> int:
        """Return the index of one of `count` captions, given two uniform draws in [0, 1)."""
        first_draw, index_draw = draws[:2]
        if self.first is None or count == 1:
            return int(index_draw * count)
        return 0 if first_draw < self.first else 1 + int(index_draw * (count - 1))

    def text(self, captions: Sequence[str], draws: Sequence[float]) -> str:
        """Return the caption to train on, given four uniform draws in [0, 1)."""
        caption = captions[self.pick(len(captions), draws)]
        if draws[2] >= self.cut:
            return caption
        ends = [match.end() for match in _SENTENCE_END.finditer(caption)]
        return caption[: ends[int(draws[3] * len(ends))]] if ends else caption


NUM_DRAWS: Final = 4
"""Number of uniform draws that the choice of a caption takes."""


def cut_to(caption: str, num_tokens: Callable[[str], int], limit: int) -> str:
    """Cut a caption to at most `limit` tokens: after a sentence if possible, else after a word, else anywhere.

    Args:
        caption: Any text.
        num_tokens: Counts the tokens of a text, special ones included. A longer text must not have fewer.
        limit: Largest number of tokens.
    """
    if num_tokens(caption) <= limit:
        return caption
    sentences = [match.end() for match in _SENTENCE_END.finditer(caption)]
    words = [match.start() for match in re.finditer(r"\s+", caption) if match.start()]
    for ends in (sentences, words, range(1, len(caption))):
        fitting = bisect_right(ends, limit, key=lambda end: num_tokens(caption[:end]))
        while (
            fitting and num_tokens(caption[: ends[fitting - 1]]) > limit
        ):  # some tokenizers do give a longer text fewer tokens
            fitting -= 1
        if fitting:
            return caption[: ends[fitting - 1]]
    return ""


def cut_text(cut: int, total: int, limit: int) -> str:
    """Say how many captions were cut."""
    return f"{cut:,} of {total:,} captions were cut to the {limit:,} tokens the model reads"
