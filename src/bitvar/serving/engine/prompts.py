"""The texts of a request as the model reads them: cut to its limits, counted, with warnings for the user."""

import json
from dataclasses import dataclass
from typing import Any, Final

from bitvar.pipeline.record import MAX_RECORD_BYTES
from bitvar.pipeline.request import GenerationRequest
from bitvar.pipeline.text_to_image import InfinityPipeline
from bitvar.pipeline.unknown_words import unknown_words

_MAX_TEXT_BYTES: Final = MAX_RECORD_BYTES // 4
"""Longest text of a request as JSON: prompt, negative and source prompt fit into a record with the rest."""


def texts_of(request: GenerationRequest) -> list[str]:
    """List all texts of a request that the model reads. Only an edit's prompt may be blank."""
    edit = request.edit
    source = None if edit is None else edit.source_prompt
    mixed = (one.prompt for one in request.mix)
    return [*request.prompts, *filter(None, request.negatives()), *([] if source is None else [source]), *mixed]


@dataclass(frozen=True)
class ReadRequest:
    """A request whose texts the model can read.

    Attributes:
        request: The request, with one prompt and at most one negative prompt.
        tokens: Number of tokens that the text encoder reads.
        warnings: Sentences for the user.
    """

    request: GenerationRequest
    tokens: int
    warnings: tuple[str, ...]


class PromptReader:
    """Cuts texts to what a model reads.

    Args:
        pipeline: The model.
        max_tokens: Number of tokens of its longest prompt.
    """

    def __init__(self, pipeline: InfinityPipeline, max_tokens: int) -> None:
        self._pipeline = pipeline
        self._max_tokens = max_tokens

    def read(self, request: GenerationRequest) -> ReadRequest:
        """Cut the prompt, the negative prompt and an edit's source prompt.

        Raises:
            UsageError: A text is blank that must not be.
        """
        warnings: list[str] = []
        prompt, negative, edit = request.prompts[0], request.negatives()[0], request.edit
        if edit is None or prompt.strip():  # an edit may have no prompt
            prompt = self._cut(prompt, "prompt", warnings)
        changes: dict[str, Any] = {"prompts": (prompt,), "negative_prompt": None}
        if negative is not None:
            changes["negative_prompt"] = self._cut(negative, "negative prompt", warnings)
        if edit is not None and edit.source_prompt is not None:
            source = self._cut(edit.source_prompt, "source prompt", warnings)
            changes["edit"] = edit.model_copy(update={"source_prompt": source})
        cut = request.model_copy(update=changes)
        encoder = self._pipeline.text_encoder
        tokens = sum(map(encoder.num_tokens, filter(str.strip, texts_of(cut)))) if encoder else 0
        return ReadRequest(cut, tokens, (*warnings, *self._unknown_words(prompt)))

    def _cut(self, text: str, what: str, warnings: list[str]) -> str:
        """Shorten a text to what the model reads and a file's record holds, at a space if there is one nearby."""
        cut = text
        if not self._fits(text):
            low, high = 0, len(text) - 1
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self._fits(text[:middle]) else (low, middle - 1)
            space = text.rfind(" ", 0, low)
            cut = text[: space if space > low // 2 else low]
            warnings.append(f"The {what} was cut, since this model reads {self._max_tokens} tokens at most.")
        self._pipeline.check_prompt(cut, what=what)
        return cut

    def _fits(self, text: str) -> bool:
        encoder = self._pipeline.text_encoder
        if len(json.dumps(text)) > _MAX_TEXT_BYTES:
            return False
        return encoder is None or encoder.num_tokens(text) <= self._max_tokens

    def _unknown_words(self, prompt: str) -> list[str]:
        vocabulary = self._pipeline.components.vocabulary
        if vocabulary is None:
            return []
        found = unknown_words([prompt], vocabulary)
        return [
            f"The model was never taught the word {word!r}"
            + (f"; near what it knows: {', '.join(near)}." if near else ".")
            for word, near in found.items()
        ]
