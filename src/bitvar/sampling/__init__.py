"""Sampling: parameters, the draw of bits, constraints on them, and the one loop. Importing it loads no torch."""
