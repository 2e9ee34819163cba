"""Benchmarks of speed: where the time of generation and training goes."""
