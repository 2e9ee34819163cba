"""Reading a multipart form into memory, with a bound for each part. No file is written.

Every fault of a form is an `ApiError` of status 400, 408 or 413. The file knows nothing about the fields inside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bitvar.serving.http.body import Receive, check_headers, read_body
from bitvar.serving.http.errors import ApiError, shown

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MEDIA_TYPE: Final = "multipart/form-data"

MAX_ENTRIES: Final = 256
"""Most entries of a form: all fields of a request, with lists that have one for each value."""

MAX_TEXT: Final = 1 << 18
"""Longest value in bytes that isn't a file, and most bytes of names and headers of a part."""

MAX_TEXTS: Final = 1 << 20
"""Most bytes of all values together that aren't files."""


@dataclass(frozen=True)
class FormEntry:
    """A part of a form.

    Attributes:
        name: Name of the field as it was sent, such as "image[]".
        is_file: Whether it came with a file name. The name itself, and the type that it claims, mean nothing here.
        data: Its bytes.
    """

    name: str
    is_file: bool
    data: bytes

    def text(self) -> str:
        """The value of a field that is no file.

        Raises:
            ApiError: It isn't UTF-8.
        """
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{self.name} isn't UTF-8 at byte {error.start:,}."
            raise ApiError(400, message, param=self.name, code="invalid_value") from None


@dataclass(frozen=True)
class FormLimits:
    """Bounds of a form.

    Attributes:
        body: Longest body in bytes.
        file: Longest file in bytes.
        seconds: Longest time for the whole body to come.
    """

    body: int
    file: int
    seconds: float


async def read_form(
    receive: Receive, headers: Mapping[str, str], *, limits: FormLimits, hold: Callable[[int], object]
) -> list[FormEntry]:
    """Read a form.

    Args:
        receive: The connection's ASGI callable.
        headers: Headers by name in lower case.
        limits: Bounds of the form.
        hold: Told how many bytes each piece has before it is kept; it may refuse to hold more.

    Returns:
        The entries, in order.

    Raises:
        ApiError: The form is too long (413), too slow (408), or damaged (400).
        ClientLeft: The client left.
    """
    check_headers(headers, media_type=MEDIA_TYPE, max_bytes=limits.body)
    _, options = parse_options_header(headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise _damaged("its Content-Type names no boundary; let the HTTP library write that header")
    collector = _Collector(limits.file)
    try:
        parser = MultipartParser(boundary, collector.callbacks())
    except FormParserError:
        raise _damaged("its boundary is too long") from None

    def take(piece: bytes) -> None:
        hold(len(piece))
        try:
            parser.write(piece)
        except FormParserError:
            raise _damaged("it isn't what its Content-Type says, or was altered on the way") from None

    await read_body(receive, take, max_bytes=limits.body, timeout_seconds=limits.seconds)
    if not collector.is_complete:
        raise _damaged("it ends before its last boundary")
    return collector.entries


class _Collector:
    """Collects entries from the parser's callbacks.

    Args:
        max_file: Longest file in bytes.
    """

    def __init__(self, max_file: int) -> None:
        self.entries: list[FormEntry] = []
        self.is_complete = False
        self._max_file = max_file
        self._texts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._name = ""
        self._is_file = False
        self._data = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._start_entry,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _start_entry(self) -> None:
        if len(self.entries) >= MAX_ENTRIES:
            raise _damaged(f"it has more than {MAX_ENTRIES} entries")
        self._headers, self._data = {}, bytearray()

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not name:
            raise _damaged("a part has no name")
        self._name = name.decode("utf-8", "backslashreplace")
        self._is_file = b"filename" in options
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"7bit", b"8bit"):
            raise _damaged("a part is encoded for mail; send its bytes as they are")

    def _take(self, data: bytes, start: int, end: int) -> None:
        length = len(self._data) + end - start
        if self._is_file and length > self._max_file:
            message = f"{shown(self._name)} is longer than {self._max_file:,} bytes, the most this server reads."
            raise ApiError(413, message, param=self._name, code="too_large")
        if not self._is_file:
            self._texts += end - start
            if length > MAX_TEXT or self._texts > MAX_TEXTS:
                message = f"{shown(self._name)} is too long for a text; send an image as a file, with a file name."
                raise ApiError(413, message, param=self._name, code="too_large")
        self._data += memoryview(data)[start:end]

    def _end(self) -> None:
        self.entries.append(FormEntry(self._name, self._is_file, bytes(self._data)))
        self._data = bytearray()

    def _complete(self) -> None:
        self.is_complete = True


def _damaged(why: str) -> ApiError:
    return ApiError(400, f"The body can't be read as a form: {why}.", code="invalid_form")
