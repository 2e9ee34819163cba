"""Frozen text encoders."""

from bitvar.text.encoders import (
    MINILM,
    T5,
    MiniLMEncoder,
    T5Encoder,
    TextEncoder,
    TextEncoderConfig,
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
    "load_text_encoder",
    "published_settings",
]
