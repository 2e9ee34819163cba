"""bitvar: bitwise visual autoregressive image generation (Infinity)."""
