"""Data sets of the Hugging Face hub, or on disk in its layouts, as captioned samples. Needs the package `datasets`.

Its own decoding would stop at the first bad image, so images are taken as bytes and opened like any others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitvar.data.records import DEFAULT_OPTIONS, RawFields, ReadOptions, Record, parse_record
from bitvar.errors import UsageError, install_hint
from bitvar.imaging.open import Location, RefusedError


@dataclass(frozen=True)
class Cell:
    """An image in a row of a data set's table."""

    name: str
    table: Any
    row: int
    column: str

    @property
    def address(self) -> str:
        """The row."""
        return self.name

    def read(self, *, max_bytes: int) -> bytes:
        """The bytes in the cell, or in the file that it names.

        Raises:
            RefusedError: if there are none, or more than `max_bytes`.
        """
        cell = self.table[self.row][self.column]
        if not isinstance(cell, Mapping) or not (cell.get("bytes") or cell.get("path")):
            raise RefusedError("missing-image", f"its {self.column} is empty")
        data = cell.get("bytes")
        if data is None:
            return Location(Path(cell["path"])).read(max_bytes=max_bytes)
        if len(data) > max_bytes:
            raise RefusedError("too-many-bytes", f"larger than {max_bytes} bytes")
        return data


def read_dataset(
    name: str, *, split: str, image_column: str, caption_column: str, options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[Record]:
    """The samples of one split of a data set, named `SPLIT:ROW`.

    Args:
        name: a data set's name on the hub, which is fetched, or a folder that `datasets` reads.
        split: the split of the data set.
        image_column: images, their bytes or their paths.
        caption_column: texts, or lists of them.
        options: gives samples without a caption one, if it does.

    Raises:
        UsageError: if `datasets` is missing, or there is no such data set, split or column.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports] - an extra
    except ModuleNotFoundError:
        why = "the package datasets is missing"
        raise UsageError(f"Can't read hf:{name}.", why, install_hint("huggingface")) from None
    try:
        table = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"Can't read hf:{name}.", why, "check the name and --split") from None
    for option, column in (("--image-column", image_column), ("--caption-column", caption_column)):
        if column not in table.column_names:
            why = f"its columns are {', '.join(table.column_names)}"
            raise UsageError(f"hf:{name} has no column {column!r}.", why, f"name one of them with {option}")
    captions = table.select_columns([caption_column])
    images = table.select_columns([image_column])
    try:
        images = images.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        why = str(error).splitlines()[0][:200]
        what = f"The column {image_column!r} of hf:{name} holds no images."
        raise UsageError(what, why, "name another with --image-column") from None
    return (
        _entry(Cell(f"{split}:{row}", images, row, image_column), values[caption_column], options)
        for row, values in enumerate(captions)
    )


def _entry(cell: Cell, given: Any, options: ReadOptions) -> Record:
    fields = {"captions": given} if isinstance(given, list) else {"caption": given}
    return parse_record(cell.name, lambda: RawFields(cell, fields, cell.name), options)
