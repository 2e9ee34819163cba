"""Measuring what models do. `reconstruction` measures tokenizers, `scenes` what a prompt became."""
