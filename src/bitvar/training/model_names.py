"""Names that users give to the models they train: checked before any work, since they end up in files."""

from pathlib import Path
from typing import Final

from bitvar.errors import UsageError

MAX_LENGTH: Final = 100
DEFAULT: Final = "model"


def find_fault(name: str) -> str | None:
    """Say why a text can't name a model; None if it can. Letters of any script, digits, spaces and signs are fine."""
    faults = {
        "it is empty": not name.strip(),
        f"it has {len(name)} characters, more than {MAX_LENGTH}": len(name) > MAX_LENGTH,
        "it begins or ends with a space": name != name.strip(),
        f"it begins with {name[:1]!r}": name.startswith(("-", ".")),
        "it has a slash": "/" in name or "\\" in name,
        "it has characters that can't be printed, or is not UTF-8": not name.isprintable(),
    }
    return next((fault for fault, found in faults.items() if found), None)


def check_name(name: str) -> str:
    """Return the name.

    Raises:
        UsageError: If it can't name a model.
    """
    fault = find_fault(name)
    if fault is not None:
        fix = "use letters, digits, spaces and signs such as - _ . +, with a letter or digit first"
        raise UsageError(f"--name {ascii(name)[:120]} can't be used.", fault, fix)
    return name


def choose_name(out: Path, given: str | None) -> str:
    """The name given, checked; without one, the folder's own name, or "model" if that can't name a model."""
    if given is not None:
        return check_name(given)
    own = out.absolute().name
    return DEFAULT if find_fault(own) else own
