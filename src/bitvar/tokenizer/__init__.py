"""The image tokenizer."""

from bitvar.tokenizer.config import TOKENIZER_PRESETS, TokenizerConfig
from bitvar.tokenizer.model import InfinityTokenizer

__all__ = ["TOKENIZER_PRESETS", "InfinityTokenizer", "TokenizerConfig"]
