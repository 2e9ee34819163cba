"""Frozen text encoders."""

from bitvar.text.encoders import (
    MINILM,
    T5,
    MiniLMEncoder,
    T5Encoder,
    TextEncoder,
    TextEncoderConfig,
    is_position_index,
    load_text_encoder,
    published_settings,
)

__all__ = [
    "MINILM",
    "T5",
    "MiniLMEncoder",
    "T5Encoder",
    "TextEncoder",
    "TextEncoderConfig",
    "is_position_index",
    "load_text_encoder",
    "published_settings",
]
