"""The bit file: one image as the bits of its scales, with a checksum for each. It knows nothing of models or pixels.

All numbers are little-endian. A file is `magic, version u16, header length u32, header, crc32 u32`, and then for every
scale `length u32, packed bits, crc32 u32`. Each crc32 covers all bytes of its section and continues from the previous
crc32, so a scale is valid only after the header and the scales that it was written after. A file may be truncated
between scales.

Version 2 adds a field at the end of the header: what the bits were made from (`Origin`). A file with an unknown origin
is written as version 1.
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
MAX_REFINE_STEPS: Final = 65_535
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
    """The header of a bit file: the size of the image, and how to read its bits.

    Attributes:
        width, height: Size of the image in pixels.
        bits: Bits per cell.
        stride: Pixels per cell side.
        channels: Channels of the image.
        tokenizer: Name of the tokenizer that made the bits, for people.
        sha256: Digest of that tokenizer, in hex (`weights.identity.TokenizerIdentity.bits_sha256`).
        grids: Rows and columns of cells at every scale, coarse to fine, including scales that the file lacks. The last
            grid covers the image.
    """

    width: int
    height: int
    bits: int
    stride: int
    channels: int
    tokenizer: str
    sha256: str
    grids: tuple[Grid, ...]

    def payload_sizes(self) -> tuple[int, ...]:
        """Sizes of the packed bits of every scale, in bytes."""
        return tuple(packed_length(self.bits, grid) for grid in self.grids)


@dataclass(frozen=True)
class Origin:
    """What bits were made from, and how. The same image file, settings and tokenizer give the same bits.

    Attributes:
        sha256: Digest of the image file, in hex.
        refine_steps: Steps of iterative refinement.
        refined_scales: Number of scales that refinement decoded, from the coarsest; 0 for all, or without refinement.
        precision: Precision of the tokenizer, one of `PRECISIONS`.
    """

    sha256: str
    refine_steps: int = 0
    refined_scales: int = 0
    precision: str = "fp32"


@dataclass(frozen=True)
class BitFile:
    """An image as bits. Two bit files are equal if their headers and bits are, whatever their origins.

    Attributes:
        header: Header of the file.
        payloads: Packed bits (`bits.pack`) of all scales, or of the first scales only.
        origin: What the bits were made from, if known.
    """

    header: BitHeader
    payloads: tuple[bytes, ...] = field(repr=False)
    origin: Origin | None = field(default=None, compare=False)

    @property
    def is_whole(self) -> bool:
        """Whether no scale is missing."""
        return len(self.payloads) == len(self.header.grids)

    def first(self, scales: int | None) -> "BitFile":
        """Keep the first `scales` scales, for a coarser image; None keeps all.

        Raises:
            UsageError: for a number below 1, or above the number of scales in the file.
        """
        if scales is None:
            return self
        if not is_integer(scales) or not 1 <= scales <= len(self.payloads):
            why = f"the file has {len(self.payloads)}"
            raise UsageError(f"Can't take the first {scales} scales.", why, f"choose 1 to {len(self.payloads)}")
        return replace(self, payloads=self.payloads[:scales])

    @property
    def num_bits(self) -> int:
        """Number of bits of all scales in the file."""
        return sum(self.header.bits * h * w for h, w in self.header.grids[: len(self.payloads)])

    def to_bytes(self) -> bytes:
        """Serialise the file.

        Raises:
            UsageError: for an invalid header, or payloads that don't match it.
        """
        problem = _find_problem(self.header) or _find_payload_problem(self)
        if problem is not None:
            raise UsageError("This bit file can't be written.", problem, "encode the image again")
        header = _pack_header(self.header)
        if self.origin is not None:
            header += _pack_origin(self.origin)
        sections = [_START.pack(MAGIC, 1 if self.origin is None else VERSION, len(header)) + header]
        checksum = zlib.crc32(sections[0])
        sections.append(_NUMBER.pack(checksum))
        for payload in self.payloads:
            section = _NUMBER.pack(len(payload)) + payload
            checksum = zlib.crc32(section, checksum)
            sections += [section, _NUMBER.pack(checksum)]
        return b"".join(sections)

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str = "the data") -> "BitFile":
        """Parse the content of a file. A truncated file is read up to its last complete scale.

        Every size in the file is checked against the length of `data` or a fixed limit before it is used.

        Args:
            data: Content of the file.
            source: Name of the file in errors.

        Raises:
            UsageError: for other formats, newer versions and damaged files.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            why = f"it is {type(data).__name__}, not bytes"
            raise UsageError("This is no bit file's content.", why, "give bytes, or decode the file's path")
        data = bytes(data)
        header, origin, at, checksum = _read_start(data, source)
        payloads: list[bytes] = []
        for k, length in enumerate(header.payload_sizes()):
            end = at + 2 * _NUMBER.size + length
            if len(data) >= at + _NUMBER.size and _NUMBER.unpack_from(data, at)[0] != length:
                raise _damaged(source, f"scale {k + 1} does not have the {length} bytes that its grid requires")
            if len(data) < end:
                break
            checksum = zlib.crc32(data[at : end - _NUMBER.size], checksum)
            if _NUMBER.unpack_from(data, end - _NUMBER.size)[0] != checksum:
                raise _damaged(source, f"the checksum of scale {k + 1} is wrong")
            payloads.append(data[at + _NUMBER.size : end - _NUMBER.size])
            at = end
        if not payloads:
            raise _damaged(source, "it ends within its first scale")
        if len(payloads) == len(header.grids) and at != len(data):
            raise _damaged(source, f"{len(data) - at} bytes follow its last scale")
        return cls(header, tuple(payloads), origin)


def is_integer(value: object) -> bool:
    """Whether a value is an integer; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _read_start(data: bytes, source: str) -> tuple[BitHeader, Origin | None, int, int]:
    """Parse the header. Returns it with the origin, the offset of the first scale, and the checksum so far."""
    if len(data) < len(MAGIC) or not data.startswith(MAGIC):
        why = "its first bytes are those of another format" if data else "it is empty"
        raise UsageError(f"{source} is no bit file.", why, "give a file that `bitvar tokenizer encode` wrote")
    if len(data) < _START.size:
        raise _damaged(source, "it ends within its header")
    _, version, length = _START.unpack_from(data)
    if version not in (1, VERSION):
        why = f"its version is {version}; this bitvar reads versions 1 to {VERSION}"
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
        raise _damaged(source, "its header is malformed")
    if problem := _find_problem(header):
        raise _damaged(source, problem)
    return header, origin, end + _NUMBER.size, checksum


def _pack_origin(origin: Origin) -> bytes:
    precision = PRECISIONS.index(origin.precision)
    return _ORIGIN.pack(bytes.fromhex(origin.sha256), origin.refine_steps, origin.refined_scales, precision)


def _unpack_origin(data: bytes) -> Origin | None:
    if len(data) != _ORIGIN.size:
        return None
    sha256, refine_steps, refined_scales, precision = _ORIGIN.unpack(data)
    if precision >= len(PRECISIONS):
        return None
    return Origin(sha256.hex(), refine_steps, refined_scales, PRECISIONS[precision])


def _pack_header(header: BitHeader) -> bytes:
    name = header.tokenizer.encode()[:255].decode(errors="ignore").encode()
    numbers = (header.width, header.height, header.bits, header.stride, header.channels, len(header.grids), len(name))
    sizes = _SIZES.pack(*numbers, bytes.fromhex(header.sha256))
    return sizes + name + b"".join(_GRID.pack(*grid) for grid in header.grids)


def _unpack_header(data: bytes) -> BitHeader | None:
    """Parse the fields of a header; None if they don't fill it."""
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
    """Describe what is invalid in a header; None if nothing is."""
    if not 1 <= header.width * header.height <= MAX_PIXELS:
        return f"its image has {header.width}x{header.height} pixels; the limit is {MAX_PIXELS} pixels"
    if not 1 <= header.bits <= MAX_BITS or not 1 <= header.stride <= MAX_STRIDE or not 1 <= header.channels <= 16:
        return f"it has {header.bits} bits a cell, cells of {header.stride} pixels and {header.channels} channels"
    if not 1 <= len(header.grids) <= MAX_SCALES:
        return f"it has {len(header.grids)} scales; 1 to {MAX_SCALES} are allowed"
    last = (1, 1)
    for grid in header.grids:
        if grid[0] < last[0] or grid[1] < last[1]:
            return f"a grid {grid} follows the larger {last}"
        last = grid
    if last != (-(-header.height // header.stride), -(-header.width // header.stride)):
        return f"its last grid {last} does not cover {header.width}x{header.height} pixels at {header.stride} a cell"
    return None


def _find_payload_problem(file: BitFile) -> str | None:
    """Describe how payloads don't match their header; None if they do."""
    sizes = tuple(map(len, file.payloads))
    if not file.payloads or sizes != file.header.payload_sizes()[: len(file.payloads)]:
        return f"its payloads have {sizes} bytes; its grids require {file.header.payload_sizes()}"
    return None


def _damaged(source: str, why: str) -> UsageError:
    return UsageError(f"{source} is damaged.", why, _AGAIN)
