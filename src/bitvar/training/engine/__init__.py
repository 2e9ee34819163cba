"""The training loop and what it rests on: updates, checkpoints, distribution. Knows no model."""
