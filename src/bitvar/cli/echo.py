"""The one way to print text that may hold a file's name: whatever the name is, printing it never fails."""

import sys
from pathlib import Path

import typer


def say(text: str, *, err: bool = False) -> None:
    """Print a line, on stderr if `err`."""
    stream = sys.stderr if err else sys.stdout
    typer.echo(printable(text, getattr(stream, "encoding", None) or "utf-8"), err=err)


def show_path(path: str | Path) -> str:
    """A path as a single printable line."""
    return printable(str(path)).replace("\n", "\\n")


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""Text in which everything that a terminal can't show, or might obey, is escaped.

    Bytes of names that are no UTF-8 become `\xff`, control characters but newline and tab likewise, and what the
    encoding has not becomes `\u732b`.
    """
    shown = "".join(_escape(character) for character in text)
    try:
        return shown.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return shown.encode("ascii", "backslashreplace").decode()


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return f"\\u{code:04x}"
    if (code < 32 and character not in "\n\t") or 127 <= code < 160:
        return f"\\x{code:02x}"
    return character
