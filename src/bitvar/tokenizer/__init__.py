"""The image tokenizer."""

from bitvar.tokenizer.config import TOKENIZER_PRESETS, TokenizerConfig
from bitvar.tokenizer.model import InfinityTokenizer
from bitvar.tokenizer.protocol import ImageTokenizer

__all__ = ["TOKENIZER_PRESETS", "ImageTokenizer", "InfinityTokenizer", "TokenizerConfig"]
