"""The scenes benchmark: how faithfully a model draws the scenes of prompts, by an independent judge."""
