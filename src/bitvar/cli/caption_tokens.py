"""Counting captions that are longer than a model reads, with its text encoder's vocabulary alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bitvar.errors import UsageError

_OFFICIAL_LIMIT: Final = 512
"""Tokens that the official models read of a text."""


@dataclass
class LongCaptions:
    """Captions that training would cut.

    Attributes:
        count_tokens: of a text, special ones included; None to count nothing.
        limit: tokens that the model reads.
        seen, long: captions so far, and those over the limit.
    """

    count_tokens: Callable[[str], int] | None
    limit: int = _OFFICIAL_LIMIT
    seen: int = 0
    long: int = 0

    @classmethod
    def open(cls, encoder: str | None, limit: int | None) -> "LongCaptions":
        """Read the vocabulary of a text encoder, as `bitvar train` finds it; count nothing for None.

        Raises:
            UsageError: if there is no vocabulary, or a limit without one.
        """
        if encoder is None:
            if limit is not None:
                todo = "add --text-encoder"
                raise UsageError("--max-tokens can't be used alone.", "it needs a vocabulary to count by", todo)
            return cls(None)
        from tokenizers import Tokenizer

        from bitvar.training.run_inputs import find_text_encoder
        from bitvar.weights.hub import resolve_model

        path = find_text_encoder(resolve_model(encoder, what="text encoder")) / "tokenizer.json"
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
        """For people; nothing if nothing was counted."""
        if self.count_tokens is None:
            return ""
        text = f"{self.long:,} of {self.seen:,} captions are longer than {self.limit:,} tokens"
        return text + ("; training cuts them there, at the end of a sentence where there is one" * (self.long > 0))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        if self.count_tokens is None:
            return {}
        return {"long_captions": {"limit": self.limit, "captions": self.seen, "longer": self.long}}
