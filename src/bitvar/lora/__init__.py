"""Adapters: their files, the layers that carry them, and which of them are active."""
