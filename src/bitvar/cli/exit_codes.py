"""Errors to exit codes: 1 runtime, 2 usage, 3 corrupt or missing weights, 4 out of memory, 130 and 143 stopped."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from bitvar.cli.echo import say

OK, RUNTIME, USAGE, WEIGHTS, MEMORY, CANCELLED, TERMINATED = 0, 1, 2, 3, 4, 130, 143


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn the errors users can meet into a message on stderr and the right exit code; never a traceback."""
    from bitvar.errors import UsageError, WeightsError, explain

    try:
        yield
    except typer.Exit:  # a RuntimeError to Python
        raise
    except UsageError as error:
        _fail(str(error), USAGE)
    except WeightsError as error:
        _fail(str(error), WEIGHTS)
    except (KeyboardInterrupt, typer.Abort):
        _fail("Cancelled.", CANCELLED)
    except MemoryError:
        _fail(_memory("this machine"), MEMORY)
    except BrokenPipeError:  # whoever reads our output, such as `head`, has enough
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (for what is left of the process)
        raise typer.Exit(OK) from None
    except OSError as error:
        _fail(_describe_os_error(error), RUNTIME)
    except RuntimeError as error:
        text = str(error)
        if "out of memory" in text.lower() or "can't allocate memory" in text.lower():
            _fail(_memory("the device"), MEMORY)
        first = (
            text
            if "\n  why:" in text
            else explain(
                text.splitlines()[0] if text else "Failed.",
                "an unexpected failure inside the computation",
                "run `bitvar doctor`, and report it with the command",
            )
        )
        _fail(first, RUNTIME)


def _fail(message: str, code: int) -> None:
    say(message, err=True)
    raise typer.Exit(code) from None


def _memory(where: str) -> str:
    from bitvar.errors import explain

    return explain(
        "Out of memory.",
        f"the model and its activations don't fit {where}",
        "try --dtype bf16, --n 1, a smaller --size, or --device cpu",
    )


def _describe_os_error(error: OSError) -> str:
    from bitvar.errors import explain

    place = error.filename or "the file"
    if error.errno == errno.ENOSPC:
        return explain(f"Can't write {place}.", "the disk is full", "free some space; nothing was half-written")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return explain(f"Can't write {place}.", "no permission there", "choose another path with -o")
    return explain(f"Can't use {place}.", error.strerror or str(error), "check the path")
