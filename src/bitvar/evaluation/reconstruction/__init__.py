"""Evaluation of tokenizers: reconstruction quality beside other tokenizers, JPEG and WebP."""
