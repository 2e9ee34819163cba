"""Training of the transformer."""
