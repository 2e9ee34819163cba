"""The errors users meet. Each message says what happened, why, and what to do, a line each.

This file knows nothing of the command line; `cli.exit_codes` turns these into exit codes.
"""

import shlex
from pathlib import Path


class _ExplainedError(Exception):
    """An error in up to three lines.

    Args:
        what: What happened, as a sentence.
        why: The reason, where it isn't plain from `what`.
        fix: What the user can do about it.
    """

    def __init__(self, what: str, why: str | None = None, fix: str | None = None) -> None:
        super().__init__(explain(what, why, fix))


class UsageError(_ExplainedError, ValueError):
    """The request itself can't be carried out: a wrong option, key, size or prompt. Exit code 2."""


class WeightsError(_ExplainedError, ValueError):
    """A model's files are missing, altered, unreadable or don't belong together. Exit code 3."""


class ComputationError(_ExplainedError, RuntimeError):
    """A computation gave NaN or infinity, so there is no result. Nothing is written. Exit code 1."""


class OutOfMemoryError(_ExplainedError, MemoryError, RuntimeError):
    """The model or a call does not fit the memory of the device or the host. Exit code 4."""


def explain(what: str, why: str | None = None, fix: str | None = None) -> str:
    """Join the lines of a message: what happened, why, and what to do."""
    lines = [what, *([f"  why: {why}"] if why else []), *([f"  do:  {fix}"] if fix else [])]
    return "\n".join(lines)


def install_hint(extra: str = "", *more: str) -> str:
    """How to install bitvar with an extra from where the user stands: the clone in use, or else the distribution.

    Args:
        extra: a name of pyproject.toml's optional dependencies; empty for none.
        more: other packages to install with it.
    """
    wanted, option = f"[{extra}]" if extra else "", ""
    place, clone = "bitvar", Path(__file__).resolve().parents[2]
    if _is_clone(clone):
        place, option = str(clone), "-e "
    name = f"{place}{wanted}"
    quoted = shlex.quote(name) if set(name) & set('"$`\\!') else f'"{name}"'
    return "run: " + " ".join([f"pip install {option}{quoted}", *more])


def _is_clone(folder: Path) -> bool:
    """Whether a folder is bitvar's source, in which the package lies as it was written."""
    try:
        return 'name = "bitvar"' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
