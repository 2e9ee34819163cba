"""The file of keys of which requests must carry one."""

import re
from pathlib import Path
from typing import Final

from bitvar.errors import UsageError
from bitvar.files import read_plain

MIN_KEY: Final = 16
MIN_DIFFERENT: Final = 8


def read_keys(path: Path) -> tuple[str, ...]:
    """Read the keys in a file, one a line; lines that begin with # are comments.

    Raises:
        UsageError: The file can't be read, has no key, or a key is so short that it can be guessed.
    """
    try:
        lines = read_plain(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"Can't read the keys in {path}.", why.lower(), "give a file with one key a line") from None
    keys = tuple(line for line in map(str.strip, lines) if line and not line.startswith("#"))
    if (weakness := _weakness(keys)) is not None:
        make = 'make one with `python -c "import secrets; print(secrets.token_urlsafe(32))"`'
        raise UsageError(f"Can't use the keys in {path}.", weakness, make)
    return keys


def _weakness(keys: tuple[str, ...]) -> str | None:
    """Why keys don't protect a server; None if they do. It never repeats a key."""
    if not keys:
        return "the file has no key"
    if any(not re.fullmatch("[!-~]+", key) for key in keys):
        return "a key has spaces or characters outside ASCII, which no request can carry"
    if any(len(key) < MIN_KEY for key in keys):
        return f"a key has fewer than {MIN_KEY} characters, which can be guessed"
    if any(len(set(key)) < MIN_DIFFERENT for key in keys):
        return f"a key has fewer than {MIN_DIFFERENT} different characters, which can be guessed"
    return None
