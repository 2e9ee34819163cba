"""Captions longer than the model reads: cut, at the end of a sentence where possible, and counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitvar.data.captions import cut_to


@dataclass
class CaptionLimit:
    """Maximum caption length of a model, in tokens of its text encoder.

    Attributes:
        limit: Maximum number of tokens; None for no limit.
        num_tokens: Function that counts the tokens of a text.
        log: Function that receives a line at the first cut caption and at every power of ten after it.
        cut: Number of captions cut so far.
    """

    limit: int | None
    num_tokens: Callable[[str], int]
    log: Callable[[str], None] = lambda line: None
    cut: int = 0

    def fit(self, captions: Sequence[str]) -> list[str]:
        """Cut every caption that is longer than the limit."""
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
