"""Benchmarks of text-to-image models: fixed prompts and a way to score images of them, one file each."""
