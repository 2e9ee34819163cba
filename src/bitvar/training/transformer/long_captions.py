"""Captions that are longer than the model reads: cut at the end of a sentence where there is one, and counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitvar.data.captions import cut_to


@dataclass
class CaptionLimit:
    """The longest caption that a model reads, in tokens of its text encoder.

    Attributes:
        limit: number of tokens; None for no limit.
        num_tokens: tokens of a text.
        log: receives a line when captions are cut: the first, and then at every power of ten.
        cut: captions cut so far.
    """

    limit: int | None
    num_tokens: Callable[[str], int]
    log: Callable[[str], None] = lambda line: None
    cut: int = 0

    def fit(self, captions: Sequence[str]) -> list[str]:
        """The captions, none longer than the limit."""
        return [self._fit(caption) for caption in captions]

    def _fit(self, caption: str) -> str:
        tokens = 0 if self.limit is None else self.num_tokens(caption)
        if self.limit is None or tokens <= self.limit:
            return caption
        self.cut += 1
        shorter = cut_to(caption, self.num_tokens, self.limit)
        if str(self.cut).strip("0") == "1":
            self.log(
                f"{self.cut:,} caption{'s' * (self.cut > 1)} cut so far: one of {tokens} tokens is longer than the"
                f" {self.limit} that this model reads, and now ends {shorter[-30:]!r}"
            )
        return shorter
