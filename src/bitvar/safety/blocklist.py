"""A checker of prompts by a list of words and phrases in a file. It sees words, not meaning, and no image."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from bitvar.errors import UsageError
from bitvar.files import open_plain
from bitvar.safety.checks import ALLOWED, SafetyDecision

CATEGORY: Final = "blocklist"
"""Category of phrases that stand under no header."""

_MAX_BYTES: Final = 4 << 20
_HEADER: Final = re.compile(r"\[([a-z][a-z0-9_-]{0,39})\]")
_WORD: Final = re.compile(r"\w+")


class Blocklist:
    """Blocks prompts that contain a listed word or phrase, as whole words.

    Case, accents, punctuation, invisible characters and full-width letters make no difference. Synonyms, other
    languages, misspellings and descriptions are not recognised.

    Args:
        phrases: Category of each phrase.
    """

    def __init__(self, phrases: Mapping[str, str]) -> None:
        self._categories = {words: category for phrase, category in phrases.items() if (words := _words(phrase))}
        self._lengths = sorted({len(words) for words in self._categories})

    def __repr__(self) -> str:
        return f"Blocklist({len(self._categories)} phrases)"

    @classmethod
    def from_file(cls, path: str | Path) -> "Blocklist":
        """Read a list: a phrase a line; `[category]` on a line of its own names what follows; `#` begins a comment.

        Raises:
            UsageError: The file is missing, unreadable or too large, or has no phrase or one without a letter.
        """
        try:
            with open_plain(Path(path)) as file:
                data = file.read(_MAX_BYTES + 1)
            text = data.decode("utf-8")
        except FileNotFoundError:
            raise UsageError(f"There is no blocklist {path}.", fix="check the path") from None
        except (OSError, ValueError) as error:
            why = (getattr(error, "strerror", None) or "it is not text in UTF-8").lower()
            raise UsageError(f"Can't read the blocklist {path}.", why, "give a text file") from None
        if len(data) > _MAX_BYTES:
            raise UsageError(f"The blocklist {path} is too large.", f"at most {_MAX_BYTES:,} bytes are read")
        phrases = dict(_parse(text.removeprefix("\ufeff").splitlines(), path))
        if not phrases:
            raise UsageError(f"The blocklist {path} blocks nothing.", "it has no phrase", "write one a line")
        return cls(phrases)

    def check_prompt(self, prompt: str) -> SafetyDecision:
        """Block a prompt with a listed phrase."""
        words = _words(prompt)
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                category = self._categories.get(words[start : start + length])
                if category is not None:
                    return SafetyDecision(allowed=False, category=category)
        return ALLOWED

    def check_image(self, image: Image.Image) -> SafetyDecision:
        """Allow every image: this checker sees none."""
        del image
        return ALLOWED


def _parse(lines: Iterable[str], path: str | Path) -> Iterable[tuple[str, str]]:
    category = CATEGORY
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        header = _HEADER.fullmatch(text)
        if header:
            category = header[1]
        elif text.startswith("["):
            why = "a category is lower-case letters, digits, - and _ in brackets"
            raise UsageError(f"Line {number} of the blocklist {path} can't be read.", why, "write it like [violence]")
        elif text and not _words(text):
            why = "it has neither a letter nor a digit, so it would block nothing"
            raise UsageError(f"Line {number} of the blocklist {path} can't be used.", why, "remove it")
        elif text:
            yield text, category


def _words(text: str) -> tuple[str, ...]:
    """Split a text into words, without case, accents and invisible characters."""
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    split = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", visible).casefold())
    plain = "".join(character for character in split if not unicodedata.combining(character))
    return tuple(_WORD.findall(plain.replace("_", " ")))
