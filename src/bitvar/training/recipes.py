"""Running a recipe: a user's Python file whose function `recipe()` returns a configuration.

Anything may be wrong with the file. Whatever it raises becomes an error of three lines that names file and line.
Whatever it prints goes to stderr, since stdout is for the result of a command.
"""

import contextlib
import inspect
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from bitvar.arguments import checked
from bitvar.arguments import path as path_rule
from bitvar.config import unknown
from bitvar.errors import UsageError
from bitvar.training.config import TokenizerTraining, TransformerTraining

_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_TRUTH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def configure(
    recipe: str | Path | TransformerTraining | TokenizerTraining,
    *,
    arguments: Sequence[str] | Mapping[str, Any] = (),
    settings: Sequence[str] | Mapping[str, Any] = (),
) -> TokenizerTraining | TransformerTraining:
    """The configuration of a run: that of a recipe, with settings changed.

    Args:
        recipe: Path of a recipe, or a configuration.
        arguments: Arguments of the recipe's function, by name or as `NAME=VALUE`.
        settings: Changes to the configuration, by dotted key or as `a.b=VALUE`.

    Raises:
        UsageError: For whatever is wrong with the recipe, its arguments or the settings.
    """
    if isinstance(recipe, TransformerTraining | TokenizerTraining):
        if arguments:
            why = "a configuration takes no arguments"
            raise UsageError("recipe_args needs a recipe.", why, "give the path of a recipe, or change settings")
        config = type(recipe).parse(recipe.model_dump(mode="json", warnings=False), source="the configuration")
    else:
        config = read_recipe(Path(checked("recipe", recipe, path_rule)), arguments)
    return config.override(_as_settings(settings))


def read_recipe(path: Path, arguments: Sequence[str] | Mapping[str, Any]) -> TokenizerTraining | TransformerTraining:
    """The configuration that a recipe's function returns.

    Args:
        path: Path of the recipe.
        arguments: Arguments of the function: `NAME=VALUE` texts, or values by name, in which texts are read alike.

    Raises:
        UsageError: For whatever is wrong with the file, its function, the arguments or the configuration.
    """
    _require_python(path)
    with _stdout_to_stderr(), _errors_of(path):
        function = runpy.run_path(str(path)).get("recipe")
    if not callable(function):
        why = "it has no function recipe()" if function is None else f"its recipe is of type {type(function).__name__}"
        raise UsageError(f"{path} is not a recipe.", why, "write `def recipe():` that returns a configuration")
    values = _read_arguments(path, function, arguments)
    with _stdout_to_stderr(), _errors_of(path):
        config = function(**values)
    if inspect.iscoroutine(config):
        config.close()  # or Python complains that nobody waited for it
    if not isinstance(config, TokenizerTraining | TransformerTraining):
        why = f"recipe() returns {type(config).__name__}, not TransformerTraining or TokenizerTraining"
        raise UsageError(f"{path} is not a recipe.", why, "return a training configuration")
    with _errors_of(path):
        values = config.model_dump(mode="json", warnings=False)
    return type(config).parse(values, source=f"what {path} returns")  # `model_copy(update=...)` checks nothing


def _require_python(path: Path) -> None:
    """Refuse a path that is no file of Python source, before a line of it runs."""
    if path.is_dir():
        raise UsageError(f"{path} is not a recipe.", "it is a folder", "give a Python file, such as recipes/cpu.py")
    if not path.is_file():
        why = "the file is missing" if not path.exists() else "it is a pipe or a device"
        raise UsageError(f"There is no recipe {path}.", why, "see recipes/ for examples")
    source = path.read_bytes()
    try:
        compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else str(path)
        raise UsageError(f"{where} is not valid Python.", _one_line(error.msg), "correct the file") from None
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, or nested too deep to be compiled
        raise UsageError(f"{path} is not valid Python.", _one_line(str(error)), "give a recipe") from None


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what is written to stdout to stderr, by this process and those that it starts."""
    sys.stdout.flush()  # noqa: TID251  (the recipe prints, not we)
    try:
        kept = os.dup(1)
    except OSError:  # there is no stdout
        kept = None
    try:
        if kept is not None:
            os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):  # noqa: TID251
            yield
    finally:
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn whatever the recipe raises, `sys.exit` included, into an error of three lines; let Ctrl-C through."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is somebody else's code
        where = _place(error, path)
        raise UsageError(f"The recipe failed: {where}.", _describe(error), "correct the recipe") from None


def _place(error: BaseException, path: Path) -> str:
    """Name file and line of the innermost call in the recipe, or in a file beside it."""
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


def _read_arguments(
    path: Path, function: Callable[..., Any], arguments: Sequence[str] | Mapping[str, Any]
) -> dict[str, Any]:
    """Read arguments by the function's signature; a text takes the type of the default, or of the annotation."""
    try:
        known = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a recipe.", _one_line(str(error)), "make recipe a function") from None
    by_name = {name: parameter for name, parameter in known.items() if parameter.kind in _BY_NAME}
    values: dict[str, Any] = {}
    if isinstance(arguments, str):
        arguments = [arguments]
    given = arguments.items() if isinstance(arguments, Mapping) else (_split(argument) for argument in arguments)
    for name, value in given:
        shown = name if value is None else f"{name}={value}"
        if name not in by_name:
            raise UsageError(unknown(f"argument {shown!r} of the recipe", str(name), list(by_name)))
        if value is None and not isinstance(arguments, Mapping):
            raise UsageError(f"Can't read --recipe-arg {shown!r}.", "it has no '='", f"write {name}=VALUE")
        values[name] = _read_value(shown, value, _kind(by_name[name])) if isinstance(value, str) else value
    _require_all(path, known, values)
    return values


def _split(argument: str) -> tuple[str, str | None]:
    name, separator, text = argument.partition("=")
    return name, text if separator else None


def _as_settings(settings: Sequence[str] | Mapping[str, Any]) -> Sequence[str]:
    """Settings as the texts that `Config.override` reads."""
    if not isinstance(settings, Mapping):
        return [settings] if isinstance(settings, str) else settings
    texts = []
    for key, value in settings.items():
        try:
            texts.append(f"{key}={json.dumps(value)}")
        except (TypeError, ValueError) as error:
            what, why = f"Bad value for {key!r} in the settings.", _one_line(str(error))
            raise UsageError(what, why, "give a number, a text, a list or the like") from None
    return texts


def _require_all(path: Path, known: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> None:
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        name
        for name, parameter in known.items()
        if parameter.kind not in optional and parameter.default is inspect.Parameter.empty and name not in values
    ]
    if missing:
        why = f"recipe() of {path} takes {', '.join(missing)}, which {'have' if len(missing) > 1 else 'has'} no default"
        fix = "add " + " ".join(f"--recipe-arg {name}=VALUE" for name in missing)
        raise UsageError("An argument of the recipe is missing.", why, fix)


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
