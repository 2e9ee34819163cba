"""Frozen text encoders."""

from bitvar.text.cached import CachedTextEncoder
from bitvar.text.encoders import (
    MINILM,
    T5,
    MiniLMEncoder,
    T5Encoder,
    TextEncoder,
    TextEncoderConfig,
    build_text_encoder,
    load_text_encoder,
    published_settings,
)
from bitvar.text.files import is_position_index, refuse_foreign_files
from bitvar.text.offloaded import OffloadedTextEncoder

__all__ = [
    "MINILM",
    "T5",
    "CachedTextEncoder",
    "MiniLMEncoder",
    "OffloadedTextEncoder",
    "T5Encoder",
    "TextEncoder",
    "TextEncoderConfig",
    "build_text_encoder",
    "is_position_index",
    "load_text_encoder",
    "published_settings",
    "refuse_foreign_files",
]
