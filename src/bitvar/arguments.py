"""Arguments of public functions converted to plain values: one rule for each kind of value, wherever it enters.

Every rule returns the plain value or raises a `ValueError` that says what is needed and what was given; `checked` turns
that into a `UsageError`. The rules don't know any option by name.
"""

import numbers
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from bitvar.errors import UsageError
from bitvar.files import is_file_name

T = TypeVar("T")

MAX_IMAGES: Final = 1024
"""Most images of one call: more would fill the memory before the first one is generated."""


def checked(name: str, value: Any, rule: Callable[[Any], T]) -> T:
    """Apply a rule to an argument.

    Args:
        name: Name of the argument, for the error.
        value: Value of the argument.
        rule: Function that returns the plain value or raises a `ValueError`.

    Raises:
        UsageError: The rule refuses the value.
    """
    try:
        return rule(value)
    except ValueError as error:
        raise UsageError(f"Bad value for {name!r}.", str(error), "give another value") from None


def whole_number(value: Any) -> int:
    """Convert an integer of Python, NumPy or a one-element tensor. Booleans, text and floats are refused."""
    if not isinstance(value, bool | np.bool_) and str(getattr(value, "dtype", "")) not in ("bool", "torch.bool"):
        try:
            return operator.index(value)
        except (TypeError, ValueError):
            pass
    raise ValueError(f"it must be a whole number, got {shown(value)}")


def real_number(value: Any) -> float:
    """Convert a real number of any type, including NaN and infinity. Booleans and text are refused."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_):
        try:
            return float(value)
        except OverflowError:
            pass
    raise ValueError(f"it must be a number, got {shown(value)}")


def per_scale(value: Any) -> float | tuple[float, ...]:
    """Convert one number, or a list with one number per scale."""
    if isinstance(value, list | tuple | np.ndarray) and not (isinstance(value, np.ndarray) and value.ndim != 1):
        return tuple(real_number(entry) for entry in value)
    try:
        return real_number(value)
    except ValueError:
        raise ValueError(f"it must be a number, or a list of one per scale, got {shown(value)}") from None


def whole_numbers(value: Any) -> int | tuple[int, ...]:
    """Convert one whole number, or a list of them."""
    if _is_array(value) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return tuple(whole_number(entry) for entry in value[: MAX_IMAGES + 1])
    try:
        return whole_number(value)
    except ValueError:
        raise ValueError(f"it must be a whole number, or a list of them, got {shown(value)}") from None


def text(value: Any) -> str:
    """Convert text that can be encoded as UTF-8. Half of a surrogate pair, which is not a character, is refused."""
    if not isinstance(value, str):
        raise ValueError(f"it must be text, got {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half of a surrogate pair, which is not text") from None
    return str(value)


def path(value: Any) -> str | Path:
    """Check a path, or a name such as a hub id, and return it unchanged, including a slash at its end."""
    if not isinstance(value, str | Path):
        raise ValueError(f"it must be a path, got {shown(value)}")
    if not is_file_name(str(value)):
        raise ValueError(f"no file or folder can be called {str(value)!a}")
    return value


def entries(value: Any) -> list[Any]:
    """Convert one text, or any ordered collection (a list, an array, a generator), to a list."""
    if isinstance(value, str):
        return [value]
    ordered = isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | memoryview | Mapping | Set)
    if not ordered or getattr(value, "ndim", 1) != 1:
        raise ValueError(f"it must be text, or a list of texts, got {shown(value)}")
    items = list(islice(value, MAX_IMAGES + 1))
    if len(items) > MAX_IMAGES:
        raise ValueError(f"a call takes at most {MAX_IMAGES:,} of them")
    return items


def shown(value: Any, *, limit: int = 60) -> str:
    """Format a value for an error message, on one line of limited length."""
    if _is_array(value):
        return f"a {type(value).__name__} of {value.dtype} and shape {tuple(value.shape)}"
    try:
        whole = repr(value) if isinstance(value, Sequence | int | float | None) else f"a {type(value).__name__}"
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    one_line = " ".join(whole.encode("ascii", "backslashreplace").decode().split())
    return one_line if len(one_line) <= limit else f"{one_line[:limit]}..."


def _is_array(value: Any) -> bool:
    """Whether a value is a NumPy array or a tensor; without loading torch, of which nobody has a tensor then."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))
