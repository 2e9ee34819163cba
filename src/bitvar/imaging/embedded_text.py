"""A text stored under a key inside PNG, WebP and JPEG files, found without decoding a pixel.

A PNG holds it as a text chunk. WebP and JPEG hold `{"KEY": TEXT}` in the comment of their EXIF data, so the text must
be JSON. The search reads only the length of every other part of a file, and checks each length against a limit first.
"""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from bitvar.files import open_plain

_MAX_CHUNKS: Final = 200_000
_COMMENT: Final = b"ASCII\0\0\0"
_EXIF, _USER_COMMENT = 0x8769, 0x9286


def find_text(path: Path, key: str, *, max_bytes: int) -> str | None:
    """Return the text under a key, or None if the file has none.

    Args:
        path: A PNG, WebP or JPEG file.
        key: Name of the text chunk in a PNG, and of the only entry in an EXIF comment.
        max_bytes: Largest text to read.

    Raises:
        OSError: If the file can't be read, or is a pipe or a device.
        ValueError: If the file has another format, or its text is damaged or too long.
    """
    with open_plain(path) as file:
        return _find(file, key, max_bytes)


def exif_with(key: str, text: str) -> Image.Exif:
    """Make EXIF data whose comment holds a JSON text in ASCII under a key."""
    exif = Image.Exif()
    exif.get_ifd(_EXIF)[_USER_COMMENT] = _COMMENT + f'{{"{key}": {text}}}'.encode("ascii")
    return exif


def find_text_in(data: bytes, key: str, *, max_bytes: int) -> str | None:
    """Return the text under a key in the bytes of a file, as `find_text` does by its path.

    Raises:
        ValueError: If the file has another format, or its text is damaged or too long.
    """
    return _find(io.BytesIO(data), key, max_bytes)


def _find(file: BinaryIO | io.BytesIO, key: str, max_bytes: int) -> str | None:
    """Find the text by the rules of the file's format."""
    start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        file.seek(8)
        return next(_png_texts(file, key.encode() + b"\0", max_bytes), None)
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        return _comment(next(_riff_chunks(file, b"EXIF", max_bytes), None), key)
    if start.startswith(b"\xff\xd8\xff"):
        file.seek(2)
        return _comment(next(_jpeg_exif(file), None), key)
    raise ValueError("it is not a PNG, WebP or JPEG file")


def _png_texts(file: BinaryIO | io.BytesIO, wanted: bytes, max_bytes: int) -> Iterator[str]:
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, os.SEEK_CUR)
            continue
        key = file.read(min(length, len(wanted)))
        if key != wanted:
            file.seek(length - len(key) + 4, os.SEEK_CUR)
            continue
        rest = file.read(_bounded(length, max_bytes) - len(key))
        if zlib.crc32(kind + key + rest).to_bytes(4, "big") != file.read(4):
            raise ValueError("its settings are damaged: their checksum is wrong")
        yield _png_text(kind, rest, max_bytes)
    raise ValueError(f"it has more than {_MAX_CHUNKS} chunks")


def _png_text(kind: bytes, rest: bytes, max_bytes: int) -> str:
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _unpacked(rest[1:], max_bytes).decode("latin-1")
    compressed, rest = rest[:1] == b"\1", rest[2:]
    _, _, rest = rest.partition(b"\0")  # language
    _, _, rest = rest.partition(b"\0")  # the keyword, translated
    return (_unpacked(rest, max_bytes) if compressed else rest).decode()


def _unpacked(data: bytes, max_bytes: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, max_bytes)
    except zlib.error as error:
        raise ValueError(f"its settings are damaged: {error}") from None
    if not unpacker.eof:
        raise ValueError(f"its settings unpack to more than {max_bytes} bytes, or are cut off")
    return text


def _riff_chunks(file: BinaryIO | io.BytesIO, wanted: bytes, max_bytes: int) -> Iterator[bytes]:
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], "little")
        if head[:4] == wanted:
            yield file.read(_bounded(length, max_bytes))
            return
        file.seek(length + length % 2, os.SEEK_CUR)
    raise ValueError(f"it has more than {_MAX_CHUNKS} chunks")


def _jpeg_exif(file: BinaryIO | io.BytesIO) -> Iterator[bytes]:
    for _ in range(_MAX_CHUNKS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):  # the pixels begin, or the file ends
            return
        length = int.from_bytes(head[2:], "big") - 2
        if length < 0:
            return
        if head[1] == 0xE1:
            data = file.read(length)
            if data.startswith(b"Exif\0\0"):
                yield data
        else:
            file.seek(length, os.SEEK_CUR)
    raise ValueError(f"it has more than {_MAX_CHUNKS} segments")


def _bounded(length: int, max_bytes: int) -> int:
    if length > max_bytes:
        raise ValueError(f"its settings have {length} bytes; at most {max_bytes} are read")
    return length


def _comment(data: bytes | None, key: str) -> str | None:
    """Return the text under a key in the comment of EXIF data, or None if there is none."""
    if data is None:
        return None
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():  # Pillow warns about odd entries; only ours matters
            warnings.simplefilter("ignore")
            exif.load(data)
            comment = exif.get_ifd(_EXIF).get(_USER_COMMENT)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error, OverflowError) as error:
        raise ValueError(f"its EXIF data can't be read: {error}") from None
    if not isinstance(comment, bytes) or not comment.startswith(_COMMENT):
        return None
    text = comment.removeprefix(_COMMENT).decode("utf-8")
    before, after = f'{{"{key}": ', "}"
    return text[len(before) : -len(after)] if text.startswith(before) and text.endswith(after) else None
