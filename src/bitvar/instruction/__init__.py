"""Instruction editing: a prefix of source features before an image's tokens (VAREdit, arXiv 2508.15772)."""
