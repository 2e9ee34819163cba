"""Networks that score generated images for published benchmarks, as transformers implements them."""
