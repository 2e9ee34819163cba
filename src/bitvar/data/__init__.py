"""Captioned images: reading any layout, checking every sample, importing, indexing and ordering them."""
