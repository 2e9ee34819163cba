"""Frozen text encoders."""

from bitvar.text.encoders import MiniLMEncoder, T5Encoder, TextEncoder, TextEncoderConfig, load_text_encoder

__all__ = ["MiniLMEncoder", "T5Encoder", "TextEncoder", "TextEncoderConfig", "load_text_encoder"]
