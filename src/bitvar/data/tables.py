"""Captioned samples in tables: CSV, TSV and what spreadsheets make of them. A broken row harms no other.

Rows are rejected by the number of the line they begin on. A quoted field may span lines; but a quote that is opened and
never closed would swallow the rows after it, so a field that would take in a whole row of its own ends the attempt: the
row that opened it is rejected, and the next line is read as if nothing had been open.
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
"""Lines that one quoted field may span."""

_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_OPEN: Final = "unexpected end of data"
"""What `csv` says of a quote that isn't closed."""


@dataclass(frozen=True)
class _Header:
    delimiter: str
    names: tuple[str, ...]

    @property
    def image(self) -> int | None:
        """The column of images' paths."""
        return next((self.names.index(name) for name in IMAGE_FIELDS if name in self.names), None)

    @property
    def has_caption(self) -> bool:
        return bool({"captions", *CAPTION_FIELDS} & set(self.names))


def read_table(path: Path, options: ReadOptions, *, split: str | None = None) -> Iterator[Record]:
    """CSV or TSV with a header that names the image and caption columns.

    The delimiter is the one of comma, semicolon, tab and bar under which the header names both. UTF-8, or UTF-16 with a
    byte order mark.

    Args:
        path: the table.
        options: how samples are read.
        split: the split of rows that name none.

    Raises:
        UsageError: if the header names no image or caption column, or one of them twice.
    """
    with path.open("rb") as file:
        mark = file.read(2)
    try:
        if mark in _UTF16_MARKS:
            with path.open(encoding="utf-16") as file:
                yield from _read_rows(path, file, options, split)
        else:  # bytes that are no UTF-8 become surrogates, and cost their own row alone
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

        def find(text: str = text) -> RawFields:
            fields = _read_fields(text, header, lines)
            return fields_in_row(path.parent, dict(zip(header.names, fields, strict=True)), options)

        yield parse_record(name, find, options, split=split)


class _Lines:
    """Numbered lines of a table, with a look ahead."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._number = file, 0
        self._ahead: deque[tuple[int, str]] = deque()

    def take(self) -> tuple[int, str] | None:
        """The next line; None at the end."""
        return self._ahead.popleft() if self._ahead else self._read()

    def drop(self, count: int) -> None:
        """Pass over lines that were peeked at."""
        for _ in range(count):
            self._ahead.popleft()

    def peek(self, index: int) -> str | None:
        """The line `index` after the next one, left in place."""
        while len(self._ahead) <= index:
            line = self._read()
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[index][1]

    def _read(self) -> tuple[int, str] | None:
        """Of a line longer than the limit, only so much is ever held."""
        text = rest = self._file.readline(MAX_LINE)
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = self._file.readline(MAX_LINE)
        self._number += 1
        return (self._number, text) if text else None


def _read_header(path: Path, lines: _Lines, options: ReadOptions) -> _Header:
    _, text = lines.take() or (0, "")
    delimiters = "\t,;|" if path.suffix.lower() == ".tsv" else _DELIMITERS
    if text.lower().startswith("sep=") and len(text.strip()) == len("sep=") + 1:  # as spreadsheets write
        delimiters = text.strip()[-1]
        _, text = lines.take() or (0, "")
    found = []
    for delimiter in delimiters:
        try:
            names = parse_row(text, delimiter)
        except RefusedError:
            names = []
        found.append(_Header(delimiter, tuple("_".join(name.casefold().replace("-", " ").split()) for name in names)))
    header = max(found, key=lambda one: (one.image is not None) + one.has_caption)  # the first of equals
    shown = [name for name in header.names if name]
    known = {"image": IMAGE_FIELDS, "caption": ("captions", *CAPTION_FIELDS)}
    missing = [] if header.image is not None else ["image"]
    missing += [] if header.has_caption or options.makes_captions else ["caption"]
    if missing and "\0" in text:
        why = "its text has zero bytes, as UTF-16 and UTF-32 without a byte order mark have"
        raise UsageError(f"Can't read {path}.", why, "save it as UTF-8")
    for what in missing:
        why = f"its header is {shown or 'empty'}; {what} columns are {', '.join(known[what])}"
        raise UsageError(f"{path} has no {what} column.", why, "name the columns in the first line")
    counts = Counter(header.names)
    if twice := [name for name in (*IMAGE_FIELDS, *CAPTION_FIELDS, *OTHER_FIELDS) if counts[name] > 1]:
        why = f"its header is {shown}, and nobody could say which of the two is meant"
        raise UsageError(f"{path} has the column {twice[0]!r} twice.", why, "rename one of them")
    return header


def _read_fields(text: str, header: _Header, lines: _Lines) -> Sequence[str]:
    """The fields of the row that begins with `text`, and of the lines after it that belong to it."""
    _require_text(text)
    begun = text
    for spanned in range(_MAX_SPANNED):
        fields = parse_row(text, header.delimiter)
        if fields:
            lines.drop(spanned)
            if len(fields) != len(header.names):
                why = f"{len(fields)} fields, and the header names {len(header.names)}"
                more = f": put quotes around a text with {header.delimiter!r} in it"
                raise RefusedError("broken-line", why + more * (len(fields) > len(header.names)))
            return fields
        following = lines.peek(spanned)
        if following is None:
            raise RefusedError("broken-line", "a quote is opened and never closed")
        if _is_row(following, header, begun):
            raise RefusedError("broken-line", "a quote is opened and not closed before the next row")
        text += following
        _require_text(text)
    raise RefusedError("broken-line", f"a quote is opened and not closed within {_MAX_SPANNED} lines")


def _is_row(line: str, header: _Header, begun: str) -> bool:
    """Whether a line is a whole row by itself, rather than a part of the text that the row `begun` opened a quote for.

    It is if it has the header's fields, and an image's name where one belongs: one with a known ending, or, where the
    table's images have none, a single word.
    """
    image, fields = _image(line, header), line.count(header.delimiter) + 1
    if image is None or fields < len(header.names):
        return False
    if image.lower().endswith(SUFFIXES):
        return True
    first = _image(begun, header)
    alike = first is not None and Path(first).suffix.lower() == Path(image).suffix.lower() not in SUFFIXES
    return alike and len(image.split()) == 1 and fields == len(header.names)


def _image(line: str, header: _Header) -> str | None:
    """What stands in the image column of a line, as far as it can be told."""
    try:
        fields = parse_row(line, header.delimiter) or line.split(header.delimiter)  # it may open a quote of its own
    except RefusedError:
        return None
    assert header.image is not None
    return fields[header.image].strip(' "\r\n') if len(fields) > header.image else None


def _require_text(text: str) -> None:
    if len(text) >= MAX_LINE:
        raise RefusedError("broken-line", f"longer than {MAX_LINE} characters")
    if "\0" in text:
        raise RefusedError("broken-line", "it has a zero byte")
    bad = next((i for i, character in enumerate(text) if "\udc80" <= character <= "\udcff"), None)
    if bad is not None:
        raise RefusedError("not-utf8", f"character {bad}: save the table as UTF-8")


def parse_row(text: str, delimiter: str) -> list[str]:
    """The fields of one row; none if a quote in it is still open.

    Raises:
        RefusedError: if it is no row.
    """
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True))
    except csv.Error as error:
        if str(error) == _OPEN:
            return []
        raise RefusedError("broken-line", str(error)) from None
    return rows[0] if rows else []
