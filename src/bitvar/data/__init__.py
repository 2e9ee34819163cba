"""Samples, pictures and the sets made of them."""
