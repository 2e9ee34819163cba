"""Training: one loop, and a step for each model."""
