"""Prompts files that are tables: CSV or TSV with a header, whose cells are read as the values of a JSON line.

The columns are the keys of a JSON line. An empty cell stands for a value that was left out.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from bitvar.errors import UsageError

_WHOLE: Final = ("seed", "num_images", "enlarge", "top_k")
_NUMBERS: Final = ("guidance", "temperature", "top_p")
_YES_NO: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def table_rows(text: str, source: str, *, delimiter: str) -> Iterator[tuple[int, Callable[[], Mapping[str, Any]]]]:
    """Yield the line number of every row, and a function that reads its values.

    Args:
        text: Content of the file.
        source: Path of the file, for errors.
        delimiter: Character between cells.

    Raises:
        UsageError: The table has no header with a column `prompt`, or its quotes don't match.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if "prompt" not in header or len(set(header)) < len(header):
            why = f"its first line is {delimiter.join(header)!r}"
            fix = "give each column a name of its own, and one of them the name prompt"
            raise UsageError(f"{source} has no header that can be used.", why, fix)
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, partial(_values, header, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        why = f"line {reader.line_num}: {error}"
        raise UsageError(
            f"Can't read the table {source}.", why, "correct its quotes, or save it again as CSV"
        ) from None


def _values(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) > len(header):
        why = f"it has {len(cells)} cells, and the header has {len(header)}"
        raise UsageError("It has too many cells.", why, "put texts with commas into quotes")
    whole = [*cells, *[""] * (len(header) - len(cells))]
    return {name: _value(name, cell.strip()) for name, cell in zip(header, whole, strict=True) if cell.strip()}


def _value(name: str, cell: str) -> Any:
    try:
        if name in _WHOLE:
            return int(cell)
        if name in _NUMBERS:
            numbers = tuple(float(part) for part in cell.split(","))
            return numbers[0] if len(numbers) == 1 else numbers
        return _YES_NO[cell.lower()] if name == "exact_size" else cell
    except (ValueError, KeyError):
        kind = "a whole number" if name in _WHOLE else "a number" if name in _NUMBERS else "yes or no"
        raise UsageError(f"Bad value for {name!r}.", f"{cell!r} is not {kind}", "give another value") from None
