"""The engine: a bounded queue, a scheduler at scale boundaries, and the worker process that holds the model.

Only `runner` and `worker` load torch; everything else runs in the front process.
"""
