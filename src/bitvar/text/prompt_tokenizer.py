"""The vocabulary of a text encoder: prompts become token ids by its `tokenizer.json`, without transformers."""

import json
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Tokenizer

from bitvar.text.files import special_tokens

_NO_LIMIT: Final = int(1e30)
"""How transformers writes that prompts may have any length."""


class PromptTokenizer:
    """A vocabulary with its rules for splitting prompts, which neither pads nor truncates.

    Args:
        tokenizer: Vocabulary, which is changed: it gets the special tokens that it lacks.
        special: Special tokens by their role, such as `pad_token`.
    """

    def __init__(self, tokenizer: Tokenizer, special: dict[str, str]) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        absent = [name for name in dict.fromkeys(special.values()) if name not in known]
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in absent])
        self._tokenizer = tokenizer
        self._special = special

    @classmethod
    def load(cls, folder: Path) -> "PromptTokenizer":
        """Read `tokenizer.json` and the special tokens of `tokenizer_config.json`. Errors are the libraries' own."""
        special = special_tokens(folder)
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")), special)

    def __call__(self, prompt: str) -> list[int]:
        """Return a prompt's token ids, special tokens included."""
        return self._tokenizer.encode(prompt).ids

    def words(self) -> dict[str, int]:
        """Return every token with its id."""
        return self._tokenizer.get_vocab()

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` to a folder, as transformers writes them."""
        self._tokenizer.save(str(folder / "tokenizer.json"))
        settings = self._special | {
            "backend": "tokenizers",
            "model_max_length": _NO_LIMIT,
            "tokenizer_class": "TokenizersBackend",
        }
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
