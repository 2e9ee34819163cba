"""The instruction that a language model gets with every prompt, and what is accepted as its answer."""

import re
from typing import Final

MAX_ANSWER: Final = 4000
"""Most characters of a rewritten prompt."""

INSTRUCTION: Final = """\
You prepare prompts for a text-to-image model. Rewrite the user's prompt as one paragraph of at most 80 words that \
describes a single image.
Keep every object, number, colour, position, relation and style that the prompt names, and quote any text that is to \
be shown word for word. Add only what the prompt leaves open: appearance, surroundings, light, composition, medium.
If the prompt is in another language, answer in English. If it is detailed already, change little.
Answer with the rewritten prompt alone: no heading, no explanation, no quotation marks around it."""
"""The instruction used unless the user gives one."""

_THOUGHT: Final = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_QUOTES: Final = {'"': '"', "'": "'", "\u201c": "\u201d", "`": "`"}


def prompt_in_answer(answer: str) -> str:
    """Find the rewritten prompt in a model's answer: on one line, without its thoughts and the quotes around it.

    Raises:
        ValueError: The answer holds no prompt; the message says why.
    """
    text = " ".join(_THOUGHT.sub("", answer).split())
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    if not text:
        raise ValueError("the answer is empty")
    if holds_half_characters(text):
        raise ValueError("the answer holds half a character, a surrogate without its other half")
    if "<think>" in text:
        raise ValueError("the answer holds thoughts that never end, and no prompt")
    if len(text) > MAX_ANSWER:
        raise ValueError(f"the answer has {len(text):,} characters, and a prompt has at most {MAX_ANSWER:,}")
    return text


def holds_half_characters(text: str) -> bool:
    """Whether a text holds a surrogate on its own, which JSON can write and UTF-8 can't."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)
