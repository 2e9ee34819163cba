"""Printing text that may contain file names, which succeeds whatever bytes a name has."""

import sys
from pathlib import Path

import typer


def say(text: str, *, err: bool = False) -> None:
    """Print a line on stdout, or on stderr if `err` is True."""
    stream = sys.stderr if err else sys.stdout
    typer.echo(printable(text, getattr(stream, "encoding", None) or "utf-8"), err=err)


def show_path(path: str | Path) -> str:
    """Format a path as a single printable line."""
    return printable(str(path)).replace("\n", "\\n")


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""Escape everything in a text that a terminal can't print or would interpret.

    Bytes that are not UTF-8 become `\xff`, and so do control characters other than newline and tab; characters that the
    encoding lacks become `\u732b`.
    """
    shown = "".join(_escape(character) for character in text)
    try:
        return shown.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return shown.encode("ascii", "backslashreplace").decode()


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8, as Python represents it
        return f"\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return f"\\u{code:04x}"
    if (code < 32 and character not in "\n\t") or 127 <= code < 160:
        return f"\\x{code:02x}"
    return character
