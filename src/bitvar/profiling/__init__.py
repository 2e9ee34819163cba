"""Measurements of speed and memory, for generation and training."""
