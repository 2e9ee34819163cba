"""Samples, images and the sets made of them."""
