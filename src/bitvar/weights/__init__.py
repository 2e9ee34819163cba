"""Weights in and out: model folders and the official files."""
