"""Captioned samples in CSV and TSV tables, also as some spreadsheets write them. A broken row affects no other row.

A rejected row is named by the line it begins on. A quoted field may span lines. Since a quote that is never closed
would swallow the rows after it, a field ends where it would take in a line that is a whole row by itself: the row that
opened the quote is rejected, and reading goes on with the next line.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from bitvar.data.records import (
    CAPTION_FIELDS,
    IMAGE_FIELDS,
    MAX_LINE,
    OTHER_FIELDS,
    SUFFIXES,
    RawFields,
    ReadOptions,
    Record,
    Rejected,
    fields_in_row,
    parse_record,
)
from bitvar.errors import UsageError
from bitvar.imaging.open import RefusedError

_DELIMITERS: Final = ",;\t|"
_MAX_SPANNED: Final = 200
"""Largest number of lines that a quoted field may span."""

_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_OPEN: Final = "unexpected end of data"
"""The error text of `csv` for a quote that isn't closed."""


@dataclass(frozen=True)
class _Header:
    delimiter: str
    names: tuple[str, ...]

    @property
    def image(self) -> int | None:
        """Index of the column of image paths."""
        return next((self.names.index(name) for name in IMAGE_FIELDS if name in self.names), None)

    @property
    def has_caption(self) -> bool:
        return bool({"captions", *CAPTION_FIELDS} & set(self.names))


def read_table(path: Path, options: ReadOptions, *, split: str | None = None) -> Iterator[Record]:
    """Read a CSV or TSV table whose header names the image and caption columns.

    The delimiter is whichever of comma, semicolon, tab and bar splits the header into such columns. The encoding is
    UTF-8, or UTF-16 with a byte order mark.

    Args:
        path: The table.
        options: Options for reading the source.
        split: Split of the rows that name none.

    Raises:
        UsageError: If the header has no image or caption column, or names one of them twice.
    """
    with path.open("rb") as file:
        mark = file.read(2)
    try:
        if mark in _UTF16_MARKS:
            with path.open(encoding="utf-16") as file:
                yield from _read_rows(path, file, options, split)
        else:  # invalid bytes become surrogates, so that only their own row is rejected
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
                yield from _read_rows(path, file, options, split)
    except UnicodeError as error:
        yield Rejected(path.name, "not-utf8", f"broken UTF-16, so the rest of the table is unread: {error}"[:200])


def _read_rows(path: Path, file: TextIO, options: ReadOptions, split: str | None) -> Iterator[Record]:
    lines = _Lines(file)
    header = _read_header(path, lines, options)
    while (line := lines.take()) is not None:
        number, text = line
        if not text.strip("\r\n \t"):
            continue
        name = f"{path.name}:{number}"

        def read_fields(text: str = text) -> RawFields:
            fields = _read_fields(text, header, lines)
            return fields_in_row(path.parent, dict(zip(header.names, fields, strict=True)), options)

        yield parse_record(name, read_fields, options, split=split)


class _Lines:
    """Numbered lines of a table, with lookahead."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._number = file, 0
        self._ahead: deque[tuple[int, str]] = deque()

    def take(self) -> tuple[int, str] | None:
        """Return the next line with its number, or None at the end."""
        return self._ahead.popleft() if self._ahead else self._read()

    def drop(self, count: int) -> None:
        """Skip lines that were peeked at."""
        for _ in range(count):
            self._ahead.popleft()

    def peek(self, index: int) -> str | None:
        """Return the line `index` lines after the next one, without consuming it."""
        while len(self._ahead) <= index:
            line = self._read()
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[index][1]

    def _read(self) -> tuple[int, str] | None:
        """Read a line. Only the beginning of a line over the limit is held in memory."""
        text = rest = self._file.readline(MAX_LINE)
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = self._file.readline(MAX_LINE)
        self._number += 1
        return (self._number, text) if text else None


def _read_header(path: Path, lines: _Lines, options: ReadOptions) -> _Header:
    _, text = lines.take() or (0, "")
    delimiters = "\t,;|" if path.suffix.lower() == ".tsv" else _DELIMITERS
    if text.lower().startswith("sep=") and len(text.strip()) == len("sep=") + 1:  # as some spreadsheets write
        delimiters = text.strip()[-1]
        _, text = lines.take() or (0, "")
    found = []
    for delimiter in delimiters:
        try:
            names = parse_row(text, delimiter)
        except RefusedError:
            names = []
        found.append(_Header(delimiter, tuple("_".join(name.casefold().replace("-", " ").split()) for name in names)))
    header = max(found, key=lambda one: (one.image is not None) + one.has_caption)  # the first if equal
    shown = [name for name in header.names if name]
    known = {"image": IMAGE_FIELDS, "caption": ("captions", *CAPTION_FIELDS)}
    missing = [] if header.image is not None else ["image"]
    missing += [] if header.has_caption or options.makes_captions else ["caption"]
    if missing and "\0" in text:
        why = "it has zero bytes, like UTF-16 and UTF-32 without a byte order mark"
        raise UsageError(f"Can't read {path}.", why, "save it as UTF-8")
    for what in missing:
        why = f"its header is {shown or 'empty'}; {what} columns are named {', '.join(known[what])}"
        raise UsageError(f"{path} has no {what} column.", why, "name the columns in the first line")
    counts = Counter(header.names)
    if twice := [name for name in (*IMAGE_FIELDS, *CAPTION_FIELDS, *OTHER_FIELDS) if counts[name] > 1]:
        why = f"its header is {shown}, and either could be meant"
        raise UsageError(f"{path} has the column {twice[0]!r} twice.", why, "rename one of them")
    return header


def _read_fields(text: str, header: _Header, lines: _Lines) -> Sequence[str]:
    """Return the fields of the row that begins with the line `text` and may continue on the lines after it."""
    _require_text(text)
    begun = text
    for spanned in range(_MAX_SPANNED):
        fields = parse_row(text, header.delimiter)
        if fields:
            lines.drop(spanned)
            if len(fields) != len(header.names):
                why = f"it has {len(fields)} fields, but the header names {len(header.names)}"
                more = f": put quotes around a text with {header.delimiter!r} in it"
                raise RefusedError("broken-line", why + more * (len(fields) > len(header.names)))
            return fields
        following = lines.peek(spanned)
        if following is None:
            raise RefusedError("broken-line", "a quote is never closed")
        if _is_row(following, header, begun):
            raise RefusedError("broken-line", "a quote is not closed before the next row")
        text += following
        _require_text(text)
    raise RefusedError("broken-line", f"a quote is not closed within {_MAX_SPANNED} lines")


def _is_row(line: str, header: _Header, begun: str) -> bool:
    """Tell whether a line is a whole row by itself, rather than part of the quoted field that the row `begun` opened.

    It is one if it has as many fields as the header and an image name in the image column: a name with a known ending
    or, in a table whose image names have none, a single word.
    """
    image, fields = _image(line, header), line.count(header.delimiter) + 1
    if image is None or fields < len(header.names):
        return False
    if image.lower().endswith(SUFFIXES):
        return True
    first = _image(begun, header)
    same_kind = first is not None and Path(first).suffix.lower() == Path(image).suffix.lower() not in SUFFIXES
    return same_kind and len(image.split()) == 1 and fields == len(header.names)


def _image(line: str, header: _Header) -> str | None:
    """Return the image column of a line, or None if it can't be told."""
    try:
        fields = parse_row(line, header.delimiter) or line.split(header.delimiter)  # the line may open a quote itself
    except RefusedError:
        return None
    assert header.image is not None
    return fields[header.image].strip(' "\r\n') if len(fields) > header.image else None


def _require_text(text: str) -> None:
    if len(text) >= MAX_LINE:
        raise RefusedError("broken-line", f"it is longer than {MAX_LINE} characters")
    if "\0" in text:
        raise RefusedError("broken-line", "it has a zero byte")
    bad = next((i for i, character in enumerate(text) if "\udc80" <= character <= "\udcff"), None)
    if bad is not None:
        raise RefusedError("not-utf8", f"character {bad} is not UTF-8: save the table as UTF-8")


def parse_row(text: str, delimiter: str) -> list[str]:
    """Split a row into its fields; empty if a quote in it is still open.

    Raises:
        RefusedError: If the text is not a row.
    """
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as error:
        if str(error) == _OPEN:
            return []
        raise RefusedError("broken-line", str(error)) from None
    return rows[0] if rows else []
