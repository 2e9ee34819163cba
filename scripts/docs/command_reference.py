"""Write the reference of the command line from the command tree itself."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import typer

from bitvar.cli.main import app

INTRODUCTION: Final = """# Command line

`bitvar COMMAND --help` prints the same in a terminal. Standard output carries data and standard error progress;
commands that report take `--json`. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 missing or altered weights, 4 out
of memory, 130 cancelled, 143 terminated. `bitvar --install-completion` completes commands and options in your shell.
"""

MARKS: Final = re.compile(r"([*_<>\[\]{}$|\\])")


def commands() -> Iterator[tuple[list[str], Any]]:
    """Yield every command with the words that call it, groups before their verbs."""
    yield from _below(["bitvar"], typer.main.get_command(app))


def page() -> str:
    """Return the reference as one page of Markdown."""
    sections = [INTRODUCTION]
    for words, command in commands():
        if len(words) > 1:
            sections.append(_section(words, command))
    return "\n".join(sections)


def _below(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
    yield words, command
    for name, verb in getattr(command, "commands", {}).items():
        yield from _below([*words, name], verb)


def _section(words: list[str], command: Any) -> str:
    context = command.make_context(words[-1], [], resilient_parsing=True)
    lines = [f"{'#' * len(words)} {' '.join(words)}", "", _prose(inspect.cleandoc(command.help or "")), ""]
    if not hasattr(command, "commands"):
        usage = " ".join(command.collect_usage_pieces(context))
        lines += ["```text", f"{' '.join(words)} {usage}", "```", ""]
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if record is not None and record[0] != "--help":
                lines += [f"`{record[0]}`", f": {_prose(record[1]) or 'See above.'}", ""]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """Write plain help text as Markdown: the marks of Markdown that are not code become characters."""
    pieces = re.split(r"(`[^`]*`)", re.sub(r"[ ]{2,}", " ", text))
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([*_<>\[\]{}$|\\])", r"\\\1", piece) for piece in pieces
    )
