"""Captions that are longer than the model reads: cut at the end of a sentence where there is one, and counted."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_ENDS: Final = re.compile(r"[.!?\u3002\uff01\uff1f]+(?=\s|$)|[\u3002\uff01\uff1f]+")
_WORDS: Final = re.compile(r"\s+")


@dataclass
class CaptionLimit:
    """The longest caption that a model reads, in tokens of its text encoder.

    Attributes:
        limit: number of tokens; None for no limit.
        num_tokens: tokens of a text.
        report: receives a line when captions are cut: the first, and then at every power of ten.
        cut: captions cut so far.
    """

    limit: int | None
    num_tokens: Callable[[str], int]
    report: Callable[[str], None] = lambda line: None
    cut: int = 0

    def fit(self, captions: Sequence[str]) -> list[str]:
        """The captions, none longer than the limit."""
        return [self._fit(caption) for caption in captions]

    def _fit(self, caption: str) -> str:
        tokens = 0 if self.limit is None else self.num_tokens(caption)
        if self.limit is None or tokens <= self.limit:
            return caption
        self.cut += 1
        shorter = cut_to(caption, self.limit, self.num_tokens)
        if str(self.cut).strip("0") == "1":
            self.report(
                f"{self.cut:,} caption{'s' * (self.cut > 1)} cut so far: one of {tokens} tokens is longer than the"
                f" {self.limit} that this model reads, and now ends {shorter[-30:]!r}"
            )
        return shorter


def cut_to(caption: str, limit: int, num_tokens: Callable[[str], int]) -> str:
    """The longest beginning of a caption that has at most `limit` tokens: whole sentences, else words, else letters."""
    if num_tokens(caption) <= limit:
        return caption
    for places in (
        [match.end() for match in _ENDS.finditer(caption)],
        [match.start() for match in _WORDS.finditer(caption)],
        list(range(1, len(caption))),
    ):
        low, high = 0, len(places)
        while low < high:  # the number of tokens grows with the length, as good as always
            middle = (low + high) // 2
            low, high = (middle + 1, high) if num_tokens(caption[: places[middle]]) <= limit else (low, middle)
        while low and num_tokens(caption[: places[low - 1]]) > limit:
            low -= 1
        if low and caption[: places[low - 1]].strip():
            return caption[: places[low - 1]].rstrip()
    return ""
