"""The bit file: nothing is lost, nothing damaged is believed, and nothing is allocated on a stranger's word."""

import random
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from bitvar.bits import pack, packed_length, unpack
from bitvar.codec.bitfile import MAGIC, BitFile, BitHeader
from bitvar.errors import UsageError

GRIDS = ((1, 1), (2, 3), (3, 5))
HEADER = BitHeader(
    width=17, height=11, bits=5, stride=4, channels=3, tokenizer="tiny", sha256="ab" * 32, grids=GRIDS
)  # fmt: skip
START = struct.Struct("<8sHI")


def bits_of(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(HEADER.bits, *grid, generator=generator) < 0.5 for grid in GRIDS]


def example() -> BitFile:
    return BitFile(HEADER, tuple(pack(bits) for bits in bits_of()))


def ends() -> list[int]:
    """Where each scale of the example ends."""
    whole, found = example(), []
    for scales in range(1, len(GRIDS) + 1):
        found.append(len(whole.first(scales).to_bytes()))
    return found


def rewritten(header: bytes, version: int = 1, rest: bytes = b"") -> bytes:
    """A file with another header, its checksum right."""
    start = START.pack(MAGIC, version, len(header)) + header
    return start + struct.pack("<I", zlib.crc32(start)) + rest


def raw_header() -> bytes:
    data = example().to_bytes()
    return data[START.size :][: START.unpack_from(data)[2]]


@pytest.mark.parametrize("bits", [1, 5, 8, 32])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 8)])
def test_packing_loses_nothing(bits: int, grid: tuple[int, int]) -> None:
    given = torch.rand(bits, *grid, generator=torch.Generator().manual_seed(1)) < 0.5
    data = pack(given)
    assert len(data) == packed_length(bits, grid)
    assert torch.equal(unpack(data, bits, grid), given)


def test_bits_lie_cell_by_cell_and_the_first_is_highest() -> None:
    bits = torch.zeros(4, 1, 3, dtype=torch.bool)
    bits[0, 0, 0] = bits[3, 0, 1] = bits[1, 0, 2] = True
    assert pack(bits) == bytes([0b1000_0001, 0b0100_0000])


def test_a_file_reads_as_it_was_written() -> None:
    read = BitFile.from_bytes(example().to_bytes())
    assert read == example()
    assert read.is_whole
    for data, grid, bits in zip(read.payloads, GRIDS, bits_of(), strict=True):
        assert torch.equal(unpack(data, HEADER.bits, grid), bits)


def test_it_is_little_more_than_its_bits() -> None:
    header = START.size + 4 + 47 + len("tiny") + 4 * len(GRIDS)
    assert len(example().to_bytes()) == header + sum(HEADER.payload_sizes()) + 8 * len(GRIDS)


def test_a_long_name_is_cut_between_letters() -> None:
    read = BitFile.from_bytes(replace(example(), header=replace(HEADER, tokenizer="\u00e9" * 200)).to_bytes())
    assert read.header.tokenizer == "\u00e9" * 127


def test_cut_anywhere_it_has_the_scales_that_are_whole() -> None:
    data, last = example().to_bytes(), ends()
    for length in range(len(data)):
        whole_scales = sum(end <= length for end in last)
        if whole_scales == 0:
            with pytest.raises(UsageError, match=r"damaged|no bit file"):
                BitFile.from_bytes(data[:length])
        else:
            read = BitFile.from_bytes(data[:length])
            assert read == example().first(whole_scales)
            assert not read.is_whole


@pytest.mark.parametrize("scales", [0, 4, -1])
def test_first_refuses_scales_that_are_not_there(scales: int) -> None:
    with pytest.raises(UsageError, match="choose 1 to 3"):
        example().first(scales)


def mutate(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    kind = draw.randrange(6)
    at = draw.randrange(len(changed))
    if kind == 0:
        changed[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        changed[at : at + 4] = draw.randbytes(4)
    elif kind == 2:
        del changed[at : at + draw.randrange(1, 9)]
    elif kind == 3:
        changed[at:at] = draw.randbytes(draw.randrange(1, 9))
    elif kind == 4:
        other = draw.randrange(len(changed))
        changed[at : at + 8], changed[other : other + 8] = changed[other : other + 8], changed[at : at + 8]
    else:
        del changed[at:]
    return bytes(changed)


def test_two_thousand_mutations_are_refused_or_say_less_but_never_something_else() -> None:
    data, draw = example().to_bytes(), random.Random(0)
    prefixes = [example().first(scales) for scales in (1, 2, 3)]
    outcomes = {"refused": 0, "read": 0}
    for _ in range(2000):
        changed = mutate(data, draw)
        try:
            read = BitFile.from_bytes(changed)
        except UsageError as error:
            assert "why:" in str(error)
            assert "do:" in str(error)
            outcomes["refused"] += 1
        else:
            assert read in prefixes
            outcomes["read"] += 1
    assert outcomes["refused"] > 1000
    assert outcomes["read"] > 50


def test_mutated_headers_with_right_checksums_never_crash() -> None:
    draw, rest = random.Random(1), example().to_bytes()[START.size + len(raw_header()) + 4 :]
    headers = [mutate(raw_header(), draw) for _ in range(2000)]
    for header in headers:
        if header != raw_header():
            with pytest.raises(UsageError, match="damaged"):
                BitFile.from_bytes(rewritten(header, rest=rest))


def test_scales_of_another_image_are_refused() -> None:
    own, other = example().to_bytes(), replace(example(), header=replace(HEADER, width=18)).to_bytes()
    begin = START.size + len(raw_header()) + 4
    with pytest.raises(UsageError, match="checksum of scale 1"):
        BitFile.from_bytes(own[:begin] + other[begin:])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no bit file"),
        (MAGIC[:5], "no bit file"),
        (MAGIC, "within its header"),
        (rewritten(raw_header(), version=3), "version is 3.*\n.*newer bitvar"),
        (rewritten(raw_header(), version=2), "is malformed"),
        (example().to_bytes() + b"x", "1 bytes follow"),
        (START.pack(MAGIC, 1, 0xFFFFFFFF) + bytes(1000), "within its header"),
    ],
    ids=["empty", "png", "short", "magic only", "newer", "no origin", "longer", "endless header"],
)
def test_other_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s){words}"):
        BitFile.from_bytes(data, source="a.bits")


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0xFFFFFFFF, "height": 0xFFFFFFFF},
        {"width": 0},
        {"width": 50_000_001, "height": 1},
        {"bits": 0},
        {"bits": 0xFFFF},
        {"stride": 0},
        {"channels": 0},
        {"channels": 255},
        {"grids": ((1, 1), (0xFFFF, 0xFFFF))},
        {"grids": ((1, 1), (3, 5), (2, 5), (3, 5))},
        {"grids": ((0, 1), (3, 5))},
        {"grids": ((1, 1), (3, 4))},
        {"grids": ()},
        {"grids": ((1, 1),) * 100 + ((3, 5),)},
    ],
    ids=str,
)
def test_hostile_headers_are_refused_before_anything_is_allocated(changes: dict[str, object]) -> None:
    values = {**vars(HEADER), **changes}
    sizes = [int(str(values[name])) for name in ("width", "height", "bits", "stride", "channels")]
    grids: tuple[tuple[int, int], ...] = values["grids"]  # type: ignore[assignment]
    header = struct.pack("<IIHHBBB32s", *sizes, len(grids), 4, bytes(32)) + b"tiny"
    header += b"".join(struct.pack("<HH", *grid) for grid in grids)
    data = rewritten(header, rest=bytes(64))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match="damaged"):
            BitFile.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_promised_scale_is_not_allocated() -> None:
    """An image of the largest size that holds its first scale only: reading it costs its own bytes."""
    grids = ((1, 1), (7000, 7000))
    header = BitHeader(7000, 7000, 128, 1, 3, "tiny", "00" * 32, grids)
    data = BitFile(header, (bytes(16),)).to_bytes()
    tracemalloc.start()
    try:
        assert BitFile.from_bytes(data).payloads == (bytes(16),)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_checksums_are_crc32_of_each_part_in_turn() -> None:
    """The format as docs/tokenizer.md has it, read without the package."""
    data = example().to_bytes()
    length = struct.unpack_from("<I", data, 10)[0]
    at = 14 + length
    checksum = zlib.crc32(data[:at])
    assert struct.unpack_from("<I", data, at)[0] == checksum
    at += 4
    for bits in bits_of():
        size = struct.unpack_from("<I", data, at)[0]
        packed = np.packbits(bits.numpy().transpose(1, 2, 0).ravel()).tobytes()
        assert data[at + 4 : at + 4 + size] == packed
        checksum = zlib.crc32(data[at : at + 4 + size], checksum)
        assert struct.unpack_from("<I", data, at + 4 + size)[0] == checksum
        at += 8 + size
    assert at == len(data)
