"""The bit file: one image as the bits of its scales, checksummed scale by scale. Knows nothing of models or pixels.

All numbers are little-endian. `magic, version u16, header length u32, header, crc32 u32`, then for every scale
`length u32, packed bits, crc32 u32`. Each crc32 covers all bytes of its part and starts from the one before it, so a
scale counts only after the very scales and header it was written after. Between scales a file may be cut.

Version 2 is version 1 with one thing more at the end of its header: what the bits were made of (`Origin`). A file whose
origin isn't known is written as version 1.
"""

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Final

from bitvar.bits import packed_length
from bitvar.errors import UsageError
from bitvar.scales import Grid

MAGIC: Final = b"\x89BITVAR\n"
VERSION: Final = 2
PRECISIONS: Final = ("fp32", "bf16", "fp16", "fp64")
MAX_PASSES: Final = 65_535
MAX_PIXELS: Final = 50_000_000
MAX_SCALES: Final = 64
MAX_BITS: Final = 128
MAX_STRIDE: Final = 1 << 11

_START: Final = struct.Struct("<8sHI")
_NUMBER: Final = struct.Struct("<I")
_SIZES: Final = struct.Struct("<IIHHBBB32s")
_GRID: Final = struct.Struct("<HH")
_ORIGIN: Final = struct.Struct("<32sHBB")
_MAX_HEADER: Final = _SIZES.size + 255 + MAX_SCALES * _GRID.size + _ORIGIN.size
_AGAIN: Final = "get the file again, or encode the image again"


@dataclass(frozen=True)
class BitHeader:
    """What the bits mean.

    Attributes:
        width, height: of the image, in pixels.
        bits: of a cell.
        stride: pixels per cell side.
        channels: of the image.
        tokenizer: name of the tokenizer that made the bits, for people.
        sha256: its digest, in hex (`checkpoints.folder.TokenizerIdentity`).
        grids: rows and columns of cells of every scale, coarse to fine, whether or not the file goes on so far. The
            last covers the image.
    """

    width: int
    height: int
    bits: int
    stride: int
    channels: int
    tokenizer: str
    sha256: str
    grids: tuple[Grid, ...]

    def lengths(self) -> tuple[int, ...]:
        """Bytes of packed bits of every scale."""
        return tuple(packed_length(self.bits, grid) for grid in self.grids)


@dataclass(frozen=True)
class Origin:
    """What bits were made of, and how: the same image, settings and tokenizer give the same bits.

    Attributes:
        sha256: digest of the image file's bytes, in hex.
        passes: as the image was encoded with.
        aimed: number of the first scales that the passes went by; 0 for all, or without passes.
        precision: that of the tokenizer, one of `PRECISIONS`.
    """

    sha256: str
    passes: int = 0
    aimed: int = 0
    precision: str = "fp32"


@dataclass(frozen=True)
class BitFile:
    """An image as bits. Two are equal if their bits are, whatever those were made of.

    Attributes:
        header: what they mean.
        payloads: packed bits of the first scales, or of all (`bits.pack`).
        origin: what they were made of, if it is known.
    """

    header: BitHeader
    payloads: tuple[bytes, ...] = field(repr=False)
    origin: Origin | None = field(default=None, compare=False)

    @property
    def is_whole(self) -> bool:
        """Whether no scale is missing."""
        return len(self.payloads) == len(self.header.grids)

    def first(self, scales: int | None) -> "BitFile":
        """The first scales only, for a coarser image; all there are for None.

        Raises:
            UsageError: for fewer than one, or more than there are.
        """
        if scales is None:
            return self
        if not is_integer(scales) or not 1 <= scales <= len(self.payloads):
            why = f"there are {len(self.payloads)}"
            raise UsageError(f"Can't take the first {scales} scales.", why, f"choose 1 to {len(self.payloads)}")
        return replace(self, payloads=self.payloads[:scales])

    @property
    def num_bits(self) -> int:
        """Bits that are there, of the scales that are."""
        return sum(self.header.bits * h * w for h, w in self.header.grids[: len(self.payloads)])

    def to_bytes(self) -> bytes:
        """The file's content.

        Raises:
            UsageError: for a header that can't be, or payloads that aren't its own.
        """
        problem = _find_problem(self.header) or _find_lack(self)
        if problem is not None:
            raise UsageError("This bit file can't be written.", problem, "encode the image again")
        header = _pack_header(self.header)
        if self.origin is not None:
            header += _pack_origin(self.origin)
        parts = [_START.pack(MAGIC, 1 if self.origin is None else VERSION, len(header)) + header]
        checksum = zlib.crc32(parts[0])
        parts.append(_NUMBER.pack(checksum))
        for payload in self.payloads:
            part = _NUMBER.pack(len(payload)) + payload
            checksum = zlib.crc32(part, checksum)
            parts += [part, _NUMBER.pack(checksum)]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "the data") -> "BitFile":
        """Read a file's content; one that ends early is read up to its last whole scale.

        Everything is checked against the length of `data` or a fixed limit before it is used for a size.

        Args:
            data: the content.
            source: names it in errors.

        Raises:
            UsageError: for other formats, newer versions, and anything damaged.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            why = f"it is {type(data).__name__}, not bytes"
            raise UsageError("This is no bit file's content.", why, "give bytes, or decode the file's path")
        data = bytes(data)
        header, origin, at, checksum = _read_start(data, source)
        payloads: list[bytes] = []
        for k, length in enumerate(header.lengths()):
            end = at + 2 * _NUMBER.size + length
            if len(data) >= at + _NUMBER.size and _NUMBER.unpack_from(data, at)[0] != length:
                raise _damaged(source, f"scale {k + 1} does not have the {length} bytes that its grid needs")
            if len(data) < end:
                break
            checksum = zlib.crc32(data[at : end - _NUMBER.size], checksum)
            if _NUMBER.unpack_from(data, end - _NUMBER.size)[0] != checksum:
                raise _damaged(source, f"the checksum of scale {k + 1} is wrong")
            payloads.append(data[at + _NUMBER.size : end - _NUMBER.size])
            at = end
        if not payloads:
            raise _damaged(source, "it ends before its first scale does")
        if len(payloads) == len(header.grids) and at != len(data):
            raise _damaged(source, f"{len(data) - at} bytes follow its last scale")
        return cls(header, tuple(payloads), origin)


def is_integer(value: object) -> bool:
    """Whether a value is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _read_start(data: bytes, source: str) -> tuple[BitHeader, Origin | None, int, int]:
    """The header, the origin, where the first scale begins, and the checksum it goes on from."""
    if len(data) < len(MAGIC) or not data.startswith(MAGIC):
        why = "its first bytes are those of another kind of file" if data else "it is empty"
        raise UsageError(f"{source} is no bit file.", why, "give a file that `bitvar tokenizer encode` wrote")
    if len(data) < _START.size:
        raise _damaged(source, "it ends within its header")
    _, version, length = _START.unpack_from(data)
    if version not in (1, VERSION):
        why = f"it is of version {version}, and this bitvar reads versions 1 to {VERSION}"
        raise UsageError(f"Can't read {source}.", why, "use a newer bitvar, or encode the image again")
    end = _START.size + length
    if length > _MAX_HEADER or len(data) < end + _NUMBER.size:
        raise _damaged(source, "it ends within its header")
    checksum = zlib.crc32(data[:end])
    if _NUMBER.unpack_from(data, end)[0] != checksum:
        raise _damaged(source, "the checksum of its header is wrong")
    cut = end if version == 1 else max(_START.size, end - _ORIGIN.size)
    header = _unpack_header(data[_START.size : cut])
    origin = None if version == 1 else _unpack_origin(data[cut:end])
    if header is None or (origin is None and version != 1):
        raise _damaged(source, "its header makes no sense")
    if problem := _find_problem(header):
        raise _damaged(source, problem)
    return header, origin, end + _NUMBER.size, checksum


def _pack_origin(origin: Origin) -> bytes:
    precision = PRECISIONS.index(origin.precision)
    return _ORIGIN.pack(bytes.fromhex(origin.sha256), origin.passes, origin.aimed, precision)


def _unpack_origin(data: bytes) -> Origin | None:
    if len(data) != _ORIGIN.size:
        return None
    sha256, passes, aimed, precision = _ORIGIN.unpack(data)
    return Origin(sha256.hex(), passes, aimed, PRECISIONS[precision]) if precision < len(PRECISIONS) else None


def _pack_header(header: BitHeader) -> bytes:
    name = header.tokenizer.encode()[:255].decode(errors="ignore").encode()
    numbers = (header.width, header.height, header.bits, header.stride, header.channels, len(header.grids), len(name))
    sizes = _SIZES.pack(*numbers, bytes.fromhex(header.sha256))
    return sizes + name + b"".join(_GRID.pack(*grid) for grid in header.grids)


def _unpack_header(data: bytes) -> BitHeader | None:
    """The header, or nothing if its parts don't fill it."""
    if len(data) < _SIZES.size:
        return None
    width, height, bits, stride, channels, num_scales, name_length, sha256 = _SIZES.unpack_from(data)
    name, grids = data[_SIZES.size :][:name_length], data[_SIZES.size + name_length :]
    if len(data) != _SIZES.size + name_length + num_scales * _GRID.size:
        return None
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    return BitHeader(width, height, bits, stride, channels, text, sha256.hex(), tuple(_GRID.iter_unpack(grids)))


def _find_problem(header: BitHeader) -> str | None:
    """What a header says that can't be, if anything."""
    if not 1 <= header.width * header.height <= MAX_PIXELS:
        return f"an image of {header.width}x{header.height} pixels; the limit is {MAX_PIXELS} pixels"
    if not 1 <= header.bits <= MAX_BITS or not 1 <= header.stride <= MAX_STRIDE or not 1 <= header.channels <= 16:
        return f"{header.bits} bits a cell of {header.stride} pixels and {header.channels} channels"
    if not 1 <= len(header.grids) <= MAX_SCALES:
        return f"{len(header.grids)} scales; there may be 1 to {MAX_SCALES}"
    before = (1, 1)
    for grid in header.grids:
        if grid[0] < before[0] or grid[1] < before[1]:
            return f"a grid {grid} after {before}"
        before = grid
    if before != (-(-header.height // header.stride), -(-header.width // header.stride)):
        return f"a last grid {before} for {header.width}x{header.height} pixels at {header.stride} a cell"
    return None


def _find_lack(file: BitFile) -> str | None:
    lengths = file.header.lengths()[: len(file.payloads)]
    if not file.payloads or tuple(map(len, file.payloads)) != lengths:
        return f"its payloads have {tuple(map(len, file.payloads))} bytes; its grids need {file.header.lengths()}"
    return None


def _damaged(source: str, why: str) -> UsageError:
    return UsageError(f"{source} is damaged.", why, _AGAIN)
