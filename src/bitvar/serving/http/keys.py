"""The file of keys of which requests must carry one."""

from pathlib import Path

from bitvar.errors import UsageError
from bitvar.files import read_plain


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
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    short = [key for key in keys if len(key) < 16]
    if not keys or short:
        why = "a key has fewer than 16 characters, which can be guessed" if short else "the file has no key"
        raise UsageError(
            f"Can't use the keys in {path}.",
            why,
            'make one with `python -c "import secrets; print(secrets.token_urlsafe(32))"`',
        )
    return keys
