"""Names that users give to what they make: checked before any work, since they end up in files."""

import os
from pathlib import Path
from typing import Final

from bitvar.errors import UsageError

LONGEST: Final = 100
DEFAULT: Final = "model"


def fault_of(name: str) -> str | None:
    """Why a text is no name of a model; None if it is one. Letters of any script, digits, spaces and signs are fine."""
    faults = {
        "it is empty": not name.strip(),
        f"it has {len(name)} characters, more than {LONGEST}": len(name) > LONGEST,
        "it begins or ends with a space": name != name.strip(),
        f"it begins with {name[:1]!r}": name.startswith(("-", ".")),
        "it has a slash": "/" in name or "\\" in name,
        "it has characters that can't be printed, or is not UTF-8": not name.isprintable(),
    }
    return next((fault for fault, found in faults.items() if found), None)


def check_name(name: str, *, option: str = "--name") -> str:
    """The name; UsageError with the reason if it is none."""
    fault = fault_of(name)
    if fault is not None:
        todo = "use letters, digits, spaces and signs such as - _ . +, with a letter or digit first"
        raise UsageError(f"{option} {ascii(name)[:120]} can't be used.", fault, todo)
    return name


def name_for(out: Path, given: str | None) -> str:
    """The name given, checked; or else that of a folder, as far as it is one."""
    if given is not None:
        return check_name(given)
    own = out.absolute().name
    return DEFAULT if fault_of(own) else own


def printable(text: str | os.PathLike[str]) -> str:
    """A text or path that can be printed anywhere: bytes that are not UTF-8 are escaped."""
    return os.fspath(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
