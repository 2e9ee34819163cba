"""Evaluation of models: `reconstruction` of tokenizers, `generation` from prompts on any of the `benchmarks`."""
