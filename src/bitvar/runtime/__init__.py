"""Where and how a model runs; applied from outside."""
