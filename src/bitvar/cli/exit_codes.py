"""Exit codes of errors: 1 runtime, 2 usage, 3 corrupt or missing weights, 4 out of memory, 130 and 143 stopped.

A reader that closes standard output early, such as `head`, is not an error: 0. A standard output that can't be written
to is an error: 1.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Final

import typer

from bitvar.cli.echo import say

OK, RUNTIME, USAGE, WEIGHTS, MEMORY, CANCELLED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
_OUTPUT: Final = "standard output"

_SAVINGS: Final = {
    "": "try --dtype bf16, fewer images at once, or a smaller --size",
    "generate": "try --dtype bf16, -n 1, --offload text, {here}, --sequential-guidance, --tile, or a smaller --size;"
    " `bitvar fit` names the first that are enough",
    "serve": "try --dtype bf16, a smaller --max-batch, or a smaller --memory-gib",
    "train": "try --activation-checkpointing, a smaller --micro-batch, or more ranks; `--fit` says what is enough",
}
"""Options of each command that need less memory, those that cost the least time first."""


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn every error that users can meet into a message on stderr and an exit code, without a traceback."""
    from bitvar.errors import UsageError, WeightsError, explain

    try:
        yield
    except typer.Exit:  # a subclass of RuntimeError
        raise
    except UsageError as error:
        _fail(str(error), USAGE)
    except WeightsError as error:
        _fail(str(error), WEIGHTS)
    except (KeyboardInterrupt, typer.Abort):
        _fail("Cancelled.", CANCELLED)
    except MemoryError as error:
        _fail(_memory(error), MEMORY)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            _fail(_memory(error), MEMORY)
        _stop_for(error)
    except RuntimeError as error:
        from bitvar.runtime.out_of_memory import is_out_of_memory

        text = str(error)
        if is_out_of_memory(error):
            _fail(_memory(error), MEMORY)
        first = (
            text
            if "\n  why:" in text
            else explain(
                text.splitlines()[0] if text else "Failed.",
                "the computation failed unexpectedly",
                "run `bitvar doctor`, and report its output with your command",
            )
        )
        _fail(first, RUNTIME)


def hold_standard_streams() -> None:
    """Reserve the descriptors of the standard streams, before any file is opened.

    A stream that the caller closed would otherwise lend its number to another file. From here on, an error of writing
    to standard output has "standard output" as its filename, even if the caller closed it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123  (open for the whole process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    stream = sys.stdout
    if stream is None:
        sys.stdout = _ClosedOutput()
    elif type(stream) is io.TextIOWrapper:
        sys.stdout = _Output(
            stream.buffer,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )


def finish_output() -> None:
    """Flush standard output, with the same errors as printing."""
    sys.stdout.flush()


class _Output(io.TextIOWrapper):
    """Standard output whose errors name it."""

    def write(self, text: str, /) -> int:
        with _named_output():
            return super().write(text)

    def flush(self) -> None:
        with _named_output():
            super().flush()


class _ClosedOutput(io.TextIOBase):
    """A stand-in for a standard output that the caller closed."""

    def __init__(self) -> None:
        self.buffer = _ClosedBytes()

    def write(self, text: str, /) -> int:
        return self.buffer.write(text.encode("utf-8", "replace"))


class _ClosedBytes(io.RawIOBase):
    """The binary stream of `_ClosedOutput`."""

    def write(self, data: object, /) -> int:
        with _named_output():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextlib.contextmanager
def _named_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _OUTPUT
        raise


def _stop_for(error: OSError) -> None:
    if error.filename == _OUTPUT or (error.filename is None and _output_fails()):
        _drop_output()
        if error.errno == errno.EPIPE:  # the reader closed our output early
            raise typer.Exit(OK) from None
        error.filename = _OUTPUT
    wrong_path = isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError)
    _fail(_describe_os_error(error), USAGE if wrong_path else RUNTIME)


def _output_fails() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _drop_output() -> None:
    """Discard everything that standard output has yet to write."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor writes nothing at exit
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


def _fail(message: str, code: int) -> None:
    with contextlib.suppress(OSError):  # standard error can't be written to either
        say(message, err=True)
    raise typer.Exit(code) from None


def _memory(error: BaseException) -> str:
    """Say what did not fit, and which options of the command need less; `bitvar fit` predicts how much."""
    from bitvar.errors import OutOfMemoryError, explain
    from bitvar.runtime.out_of_memory import place_of

    place = place_of(error)
    why = f"the model and its activations don't fit {place}"
    if isinstance(error, OutOfMemoryError):
        why = next((line.strip().removeprefix("why: ") for line in str(error).splitlines() if "why: " in line), why)
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    here = "--offload blocks" if place == "the GPU" else "--fast off"
    return explain("Out of memory.", why, _SAVINGS.get(verb, _SAVINGS[""]).format(here=here))


def _describe_os_error(error: OSError) -> str:
    from bitvar.errors import explain

    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else error.filename or "the file"
    if place == _OUTPUT:
        return explain(f"Can't write to {place}.", (error.strerror or str(error)).lower(), "redirect it elsewhere")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return explain(f"Can't write {place}.", "the disk is full", "free some space; no file was left half-written")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return explain(f"Can't write {place}.", "permission denied", "choose another path with -o")
    if error.errno == errno.EPIPE:
        return explain(f"Can't write {place}.", "its reader closed it early", "read it to its end")
    why = {
        errno.EEXIST: "a file is where a folder is needed",
        errno.ENOTDIR: "a file is where a folder is needed",
        errno.EISDIR: "a folder is where a file is needed",
    }.get(error.errno or 0, error.strerror or str(error))
    return explain(f"Can't use {place}.", why, "check the path")
