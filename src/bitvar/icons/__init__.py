"""The world of the embedded model: its data set and its benchmark. Only `cli` and scripts import it."""
