"""Captioned samples from data sets of the Hugging Face hub, or on disk in its layouts. Needs the package `datasets`.

Images are taken as bytes and opened like any others, since the package's own decoder stops at the first broken image.
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
    """An image in a row of a data set."""

    name: str
    table: Any
    row: int
    column: str

    @property
    def address(self) -> str:
        """The name of the row."""
        return self.name

    def read(self, *, max_bytes: int) -> bytes:
        """Return the bytes in the cell, or in the file that it names.

        Raises:
            RefusedError: If the cell is empty, or the image is larger than `max_bytes`.
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
    """Read the samples of one split of a data set, named `SPLIT:ROW`.

    Args:
        name: Name of a data set on the hub, which is downloaded, or a folder that `datasets` reads.
        split: Split of the data set.
        image_column: Column of images, their bytes or their paths.
        caption_column: Column of texts, or of lists of texts.
        options: Says where a sample without a caption gets one.

    Raises:
        UsageError: If `datasets` is missing, or there is no such data set, split or column.
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
        _parse_cell(Cell(f"{split}:{row}", images, row, image_column), values[caption_column], options)
        for row, values in enumerate(captions)
    )


def _parse_cell(cell: Cell, given: Any, options: ReadOptions) -> Record:
    fields = {"captions": given} if isinstance(given, list) else {"caption": given}
    return parse_record(cell.name, lambda: RawFields(cell, fields, cell.name), options)
