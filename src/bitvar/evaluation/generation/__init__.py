"""Evaluation of text-to-image models: generate images for prompts, score them, and report."""
