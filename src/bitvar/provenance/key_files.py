"""Key files of watermarks: a small JSON file with the secret and its settings. Errors never quote what it holds."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final

from bitvar.errors import UsageError
from bitvar.files import open_plain
from bitvar.sampling.watermark import SECRET_BYTES, Watermark, check_settings

FORMAT: Final = "bitvar watermark key 1"
_KEYS: Final = ("context", "delta", "first_scale", "format", "secret")
_MAX_BYTES: Final = 4096


def write_key(watermark: Watermark, path: str | Path) -> None:
    """Write a key file that only its owner can read.

    Raises:
        UsageError: The file exists. A key is never overwritten, since nothing could detect its images any more.
        OSError: The file can't be written.
    """
    values = {
        "format": FORMAT,
        "secret": watermark.secret.hex(),
        "delta": watermark.delta,
        "context": watermark.context,
        "first_scale": watermark.first_scale,
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        why = "a key is never overwritten: nothing could detect its images any more"
        raise UsageError(f"{path} exists.", why, "choose another name") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(values, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(path).unlink()
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_key(path: str | Path) -> Watermark:
    """Read a key file.

    Raises:
        UsageError: The file is missing, unreadable, or no key file.
    """
    try:
        with open_plain(Path(path)) as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        todo = f"check the path, or make a key: bitvar watermark new-key {path}"
        raise UsageError(f"There is no key file {path}.", fix=todo) from None
    except (OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or "no file can have this name").lower()
        raise UsageError(f"Can't read the key file {path}.", why, "check the path") from None
    values = _parse(text)
    if values is None:
        why = f"it doesn't have the keys {', '.join(_KEYS)}"
        raise UsageError(f"{path} is no key file.", why, "give a file that `bitvar watermark new-key` made")
    settings = {name: values[name] for name in ("delta", "context", "first_scale")}
    try:
        check_settings(**settings)
        return Watermark(bytes.fromhex(values["secret"]), **settings)
    except ValueError as error:  # only our own errors are sure not to quote the secret
        why = str(error).splitlines()[0] if isinstance(error, UsageError) else f"its secret is not {SECRET_BYTES} bytes"
        raise UsageError(f"The key file {path} is damaged.", why, "restore it from a copy") from None


def _parse(text: bytes) -> dict[str, Any] | None:
    """Return the values of a key file; None for a file of another kind."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if len(text) > _MAX_BYTES or not isinstance(values, dict) or sorted(values) != sorted(_KEYS):
        return None
    return values if values["format"] == FORMAT and isinstance(values["secret"], str) else None
