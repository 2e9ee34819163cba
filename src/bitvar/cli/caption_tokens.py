"""Counting the captions that are longer than a model reads, with the vocabulary of its text encoder alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bitvar.errors import UsageError

_OFFICIAL_LIMIT: Final = 512
"""Number of tokens that the official models read."""


@dataclass
class LongCaptions:
    """Counter of the captions that training would cut.

    Attributes:
        count_tokens: Counts the tokens of a text, special ones included; None to count nothing.
        limit: Number of tokens that the model reads.
        seen, long: Number of captions so far, and of those over the limit.
    """

    count_tokens: Callable[[str], int] | None
    limit: int = _OFFICIAL_LIMIT
    seen: int = 0
    long: int = 0

    @classmethod
    def open(cls, encoder: str | None, limit: int | None) -> "LongCaptions":
        """Read the vocabulary of a text encoder, named as for `bitvar train`. Without an encoder, nothing is counted.

        Raises:
            UsageError: If there is no vocabulary, or a limit is given without an encoder.
        """
        if encoder is None:
            if limit is not None:
                todo = "add --text-encoder"
                raise UsageError("--max-tokens can't be used alone.", "counting tokens needs a vocabulary", todo)
            return cls(None)
        from tokenizers import Tokenizer

        from bitvar.training.frozen_models import find_text_encoder_folder

        path = find_text_encoder_folder(encoder) / "tokenizer.json"
        try:
            vocabulary = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            why = (str(error).splitlines() or [type(error).__name__])[0][:200]
            todo = "name a model's text_encoder folder"
            raise UsageError(f"Can't read the vocabulary {path}.", why, todo) from None
        vocabulary.no_truncation()
        vocabulary.no_padding()
        return cls(lambda text: len(vocabulary.encode(text).ids), limit or _OFFICIAL_LIMIT)

    def add(self, captions: Sequence[str]) -> None:
        """Count the captions of a sample."""
        if self.count_tokens is not None:
            self.seen += len(captions)
            self.long += sum(self.count_tokens(caption) > self.limit for caption in captions)

    def text(self) -> str:
        """Return the counts as text; empty if nothing was counted."""
        if self.count_tokens is None:
            return ""
        text = f"{self.long:,} of {self.seen:,} captions are longer than {self.limit:,} tokens"
        return text + ("; training cuts them there, at the end of a sentence if possible" * (self.long > 0))

    def as_json(self) -> dict[str, Any]:
        """Return the counts for a JSON report; empty if nothing was counted."""
        if self.count_tokens is None:
            return {}
        return {"long_captions": {"limit": self.limit, "captions": self.seen, "longer": self.long}}
