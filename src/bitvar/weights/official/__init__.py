"""Published checkpoints: their names and shapes, their files, and the conversion both ways."""
