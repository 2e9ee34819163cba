"""The errors users meet. Each message says what happened, why, and what to do, a line each.

This file knows nothing of the command line; `cli.exit_codes` turns these into exit codes.
"""


class UsageError(ValueError):
    """The request itself can't be carried out: a wrong option, key, size or prompt. Exit code 2."""


class WeightsError(ValueError):
    """A model's files are missing, altered, unreadable or don't belong together. Exit code 3."""


class ComputationError(RuntimeError):
    """A computation gave NaN or infinity, so there is no result. Nothing is written. Exit code 1."""


def explain(what: str, why: str, todo: str) -> str:
    """The three lines of a message: what happened, why, and what to do."""
    return f"{what}\n  why: {why}\n  do:  {todo}"
