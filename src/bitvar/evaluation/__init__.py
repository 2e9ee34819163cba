"""Measuring what models do. `reconstruction` measures tokenizers."""
