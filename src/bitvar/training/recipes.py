"""Running a recipe: a Python file of the user's whose `recipe()` gives a configuration. Anything may be wrong with it.

Whatever it raises is an error of three lines with its file and line. What it prints goes to stderr: stdout is ours.
"""

import contextlib
import inspect
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.training.config import TokenizerTraining, TransformerTraining

_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_TRUTH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_recipe(path: Path, arguments: Sequence[str]) -> TokenizerTraining | TransformerTraining:
    """The configuration that a recipe's function returns, given `NAME=VALUE` arguments.

    Raises:
        UsageError: for whatever is wrong with the file, its function, the arguments or the configuration.
    """
    _require_python(path)
    with _stdout_is_ours(), _errors_of(path):
        function = runpy.run_path(str(path)).get("recipe")
    if not callable(function):
        why = "it has no function recipe()" if function is None else f"its recipe is of type {type(function).__name__}"
        raise UsageError(f"{path} is no recipe.", why, "write `def recipe():` that returns a configuration")
    values = _read_arguments(path, function, arguments)
    with _stdout_is_ours(), _errors_of(path):
        config = function(**values)
    if inspect.iscoroutine(config):
        config.close()  # or Python complains that nobody waited for it
    if not isinstance(config, TokenizerTraining | TransformerTraining):
        why = f"recipe() returns {type(config).__name__}, not TransformerTraining or TokenizerTraining"
        raise UsageError(f"{path} is no recipe.", why, "return a training configuration")
    with _errors_of(path):
        values = config.model_dump(mode="json", warnings=False)
    return type(config).parse(values, source=f"what {path} returns")  # `model_copy(update=...)` checks nothing


def _require_python(path: Path) -> None:
    """Refuse what is no file of Python source before a line of it runs."""
    if path.is_dir():
        why = "it is a folder"
        raise UsageError(f"{path} is no recipe.", why, "give a Python file, such as recipes/cpu.py")
    if not path.is_file():
        why = "the file is missing" if not path.exists() else "it is a pipe or a device"
        raise UsageError(f"There is no recipe {path}.", why, "see recipes/ for those that ship")
    source = path.read_bytes()
    try:
        compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else str(path)
        raise UsageError(f"{where} is no Python.", _one_line(error.msg), "correct the file") from None
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, or nested too deep to be compiled
        raise UsageError(f"{path} is no Python.", _one_line(str(error)), "give a recipe") from None


@contextlib.contextmanager
def _stdout_is_ours() -> Iterator[None]:
    """What is written to stdout goes to stderr, that of programs started meanwhile included."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no stdout
        kept = None
    try:
        if kept is not None:
            os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn whatever the recipe raises, `sys.exit` included, into an error of three lines; Ctrl-C stays what it is."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is somebody else's code
        where = _place(error, path)
        raise UsageError(f"The recipe failed: {where}.", _describe(error), "correct the recipe") from None


def _place(error: BaseException, path: Path) -> str:
    """File and line of the innermost call in the recipe, or in a file beside it."""
    folder = str(path.resolve().parent)
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if f.filename == str(path) or str(Path(f.filename).resolve()).startswith(f"{folder}{os.sep}")
    ]
    if isinstance(error, SyntaxError) and error.filename:  # of a file that it imports
        return f"{error.filename}, line {error.lineno}"
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else str(path)


def _describe(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or error.title
        return _one_line(f"{error.title}: {where} = {first['input']!r}"[:150] + f": {first['msg']}")
    if isinstance(error, ModuleNotFoundError):
        return f"it imports {error.name!r}, which is not installed"
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r}): a recipe returns its configuration"
    return _one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


def _read_arguments(path: Path, function: Callable[..., Any], arguments: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` by the function's own signature; values take the type of the default, or of the annotation."""
    try:
        known = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} is no recipe.", _one_line(str(error)), "make recipe a function") from None
    by_name = {name: parameter for name, parameter in known.items() if parameter.kind in _BY_NAME}
    values: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if not separator and name in by_name:
            raise UsageError(f"Can't read --recipe-arg {argument!r}.", "it has no '='", f"write {name}=VALUE")
        if name not in by_name:
            raise UsageError(unknown(f"argument {argument!r} of the recipe", name, list(by_name)))
        values[name] = _read_value(argument, text, _kind(by_name[name]))
    _require_all(path, known, values)
    return values


def _require_all(path: Path, known: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> None:
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        name
        for name, parameter in known.items()
        if parameter.kind not in optional and parameter.default is inspect.Parameter.empty and name not in values
    ]
    if missing:
        why = f"recipe() of {path} takes {', '.join(missing)}, which {'have' if len(missing) > 1 else 'has'} no default"
        todo = "add " + " ".join(f"--recipe-arg {name}=VALUE" for name in missing)
        raise UsageError("An argument of the recipe is missing.", why, todo)


def _kind(parameter: inspect.Parameter) -> type:
    if type(parameter.default) in (int, float, str, bool):
        return type(parameter.default)
    named = {"int": int, "float": float, "bool": bool, int: int, float: float, bool: bool}
    return named.get(parameter.annotation, str)


def _read_value(argument: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            return _TRUTH[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        why = f"{argument.partition('=')[0]} is of type {kind.__name__}"
        raise UsageError(f"Can't read --recipe-arg {argument!r}.", why, "correct the value") from None
