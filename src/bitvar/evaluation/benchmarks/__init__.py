"""Benchmarks of text-to-image models: fixed prompts and a way to score images of them, one file each.

A new benchmark is a class in a file of its own with `name`, `judge`, `prompts`, `score` and `summarise`
(`base.Benchmark`); `evaluation.generation.evaluate.evaluate_generation` does everything else.
`tests/unit/evaluation/test_benchmark.py` takes one of a few lines through the whole evaluation.
"""
