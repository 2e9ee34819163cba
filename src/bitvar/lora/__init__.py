"""Low-rank adapters: their files, their layers, and switching between them."""
