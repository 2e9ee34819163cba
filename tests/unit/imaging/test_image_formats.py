"""Images of every format, and of every kind of oddity: read rightly, or refused by one error and nothing else."""

import contextlib
import io
import random
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitvar.data.views import decode_planes, image_size
from bitvar.errors import UsageError
from bitvar.imaging import formats
from bitvar.imaging.open import (
    ImageLimits,
    RefusedError,
    as_rgb,
    decode_image,
    open_image,
    require_image,
    seen_size,
)
from bitvar.imaging.orientation import parse_orientation

LIMITS = ImageLimits()
RED, BLUE = (np.full((24, 20, 3), colour, np.uint8) for colour in ((220, 30, 30), (20, 40, 200)))
HALVES = Image.fromarray(np.concatenate([RED, BLUE], axis=1))
"""Red at the left, blue at the right; 40 x 24."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, **options)
    return file.getvalue()


def mpo(second: Image.Image | None = None) -> bytes:
    return encoded(HALVES, "MPO", save_all=True, append_images=[second or HALVES.transpose(Image.Transpose.ROTATE_180)])


def ultra_hdr() -> bytes:
    """A JPEG with a gain map appended and no index of it, as some phones have."""
    return encoded(HALVES, "JPEG", quality=95) + encoded(HALVES.convert("L"), "JPEG")


READ: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(HALVES, "PNG"),
    "JPEG": lambda: encoded(HALVES, "JPEG", quality=95, subsampling=0),
    "progressive JPEG": lambda: encoded(HALVES, "JPEG", quality=95, subsampling=0, progressive=True),
    "CMYK JPEG": lambda: encoded(HALVES.convert("CMYK"), "JPEG", quality=95),
    "MPO": mpo,
    "ultra HDR": ultra_hdr,
    "WebP": lambda: encoded(HALVES, "WEBP", lossless=True),
    "TIFF": lambda: encoded(HALVES, "TIFF"),
    "LZW TIFF": lambda: encoded(HALVES, "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": lambda: encoded(HALVES, "TIFF", compression="jpeg", quality=95),
    "CMYK TIFF": lambda: encoded(HALVES.convert("CMYK"), "TIFF"),
    "palette TIFF": lambda: encoded(HALVES.quantize(8), "TIFF"),
    "BMP": lambda: encoded(HALVES, "BMP"),
    "palette BMP": lambda: encoded(HALVES.quantize(8), "BMP"),
    "GIF": lambda: encoded(HALVES, "GIF"),
    "AVIF": lambda: encoded(HALVES, "AVIF", quality=95),
    "HEIC": lambda: heic(HALVES),
    "palette PNG": lambda: encoded(HALVES.quantize(8), "PNG"),
}


def difference(image: Image.Image, other: Image.Image) -> float:
    assert image.mode == other.mode == "RGB" and image.size == other.size
    return float(np.abs(np.asarray(image).astype(int) - np.asarray(other).astype(int)).mean())


@pytest.mark.parametrize("kind", READ)
def test_every_format_is_read_whatever_its_name(kind: str, tmp_path: Path) -> None:
    data = READ[kind]()
    assert difference(decode_image(data, LIMITS), HALVES) < 4
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert image_size(path, LIMITS) == (40, 24)
    assert difference(require_image(path, LIMITS, todo="x"), HALVES) < 4
    for channels in (1, 3, 4):
        assert [plane.size for plane in decode_planes(data, LIMITS, channels)] == [(40, 24)]


def test_opened_images_with_a_second_one_inside_are_the_first() -> None:
    with Image.open(io.BytesIO(mpo())) as image:
        assert getattr(image, "is_animated", False)
        open_image(mpo(), LIMITS)
        assert difference(as_rgb(image), HALVES) < 4


# Orientation


def exif(orientation: Any = None, kind: int = 3, count: int = 1, order: str = "<", extra: bytes = b"") -> bytes:
    """A block of EXIF by hand: an orientation of any type, and one more entry."""
    entries = [struct.pack(order + "HHI", 0x0112, kind, count) + orientation] if orientation is not None else []
    entries += [extra] if extra else []
    body = struct.pack(order + "H", len(entries)) + b"".join(entries) + struct.pack(order + "I", 0)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + head + struct.pack(order + "I", 8) + body


def short(value: int, order: str = "<") -> bytes:
    return struct.pack(order + "HH", value, 0)


TEXT_RESOLUTION = struct.pack("<HHI", 0x011A, 2, 4) + b"300\0"
ZERO_RATIONAL = struct.pack("<HHII", 0x011A, 5, 1, 38)
TURNING: dict[str, tuple[bytes, bool]] = {
    "6": (exif(short(6)), True),
    "6, resolution as text": (exif(short(6), extra=TEXT_RESOLUTION), True),
    "6, rational over zero": (exif(short(6), extra=ZERO_RATIONAL) + struct.pack("<II", 1, 0), True),
    "6, entry beyond the end": (exif(short(6), extra=struct.pack("<HHII", 0x9286, 7, 1 << 30, 1 << 30)), True),
    "6, an unknown type": (exif(short(6), extra=struct.pack("<HHII", 0x9286, 99, 1, 1)), True),
    "6, big endian": (exif(short(6, ">"), order=">"), True),
    "8": (exif(short(8)), True),
    "long 6": (exif(struct.pack("<I", 6), kind=4), True),
    "1": (exif(short(1)), False),
    "0": (exif(short(0)), False),
    "9": (exif(short(9)), False),
    "65535": (exif(short(65535)), False),
    "a text": (exif(b"6\0\0\0", kind=2, count=2), False),
    "two": (exif(struct.pack("<HH", 6, 6), count=2), False),
    "a byte": (exif(b"\x06\0\0\0", kind=1), False),
    "none": (exif(), False),
    "only a head": (b"Exif\0\0II*\0", False),
    "no head": (b"Exif\0\0", False),
    "cut": (exif(short(6))[:-12], False),
    "noise": (b"Exif\0\0" + bytes(range(200)), False),
    "far away": (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
}


def with_exif(data: bytes, blob: bytes, kind: str) -> bytes:
    """A JPEG, PNG or WebP with this very EXIF in it."""
    if kind == "JPEG":
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(blob) + 2) + blob + data[2:]
    body = blob.removeprefix(b"Exif\0\0")
    if kind == "PNG":
        piece = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        return data[:33] + piece + data[33:]
    return encoded(HALVES, "WEBP", lossless=True, exif=body)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", TURNING)
def test_the_orientation_is_read_alone_and_nothing_else_of_it_matters(name: str, kind: str, tmp_path: Path) -> None:
    blob, turned = TURNING[name]
    plain = encoded(HALVES, kind, **({"lossless": True} if kind == "WEBP" else {}))
    data = with_exif(plain, blob, kind)
    size = (24, 40) if turned else (40, 24)
    assert decode_image(data, LIMITS).size == size
    (tmp_path / "a").write_bytes(data)
    assert image_size(tmp_path / "a", LIMITS) == size
    assert seen_size(open_image(data, LIMITS)) == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_turns_as_pillow_would(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    tags = Image.Exif()
    tags[0x0112] = orientation
    image = HALVES.crop((5, 0, 40, 24))
    data = encoded(image, kind, exif=tags)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert difference(decode_image(data, LIMITS), expected) < 1
    assert seen_size(open_image(data, LIMITS)) == expected.size


def test_heic_is_turned_once() -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    data = heic(HALVES, exif=tags.tobytes())
    assert decode_image(data, LIMITS).size == open_image(data, LIMITS).size


def test_parsing_never_fails() -> None:
    draw = random.Random(0)
    blob = exif(short(6), extra=TEXT_RESOLUTION)
    for _ in range(3000):
        changed = bytearray(blob)
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        assert parse_orientation(bytes(changed[: draw.randrange(len(changed))])) in (None, *range(1, 9))


# Modes


def test_sixteen_bits_in_every_format_are_cut_to_the_upper_eight() -> None:
    deep = Image.fromarray(np.tile((np.arange(40) * 6 * 257).astype(np.uint16), (24, 1)))
    wanted = np.tile(np.arange(40) * 6, (24, 1))
    for data in (encoded(deep, "PNG"), encoded(deep, "TIFF"), encoded(deep.convert("I"), "TIFF")):
        assert np.array_equal(np.asarray(decode_image(data, LIMITS))[..., 0], wanted)


def test_floats_are_read_in_two_ranges_and_nothing_else() -> None:
    steps = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (24, 1))
    for values in (steps, steps * 255):
        found = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF"), LIMITS))[..., 0].astype(int)
        assert np.abs(found - steps * 255).max() <= 1
    for bad in (np.nan, np.inf, -1.0, 300.0):
        spoilt = steps.copy()
        spoilt[3, 3] = bad
        with pytest.raises(RefusedError, match="broken-image"):
            decode_image(encoded(Image.fromarray(spoilt), "TIFF"), LIMITS)


@pytest.mark.parametrize("value", [-1, 70_000, 1 << 30])
def test_whole_numbers_of_more_than_sixteen_bits_are_refused(value: int) -> None:
    numbers = np.zeros((24, 40), np.int32)
    numbers[2, 2] = value
    with pytest.raises(RefusedError, match="16 bits"):
        decode_image(encoded(Image.fromarray(numbers), "TIFF"), LIMITS)


def test_transparency_of_every_kind_lies_on_white() -> None:
    clear = Image.new("RGBA", (40, 24), (200, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 20, 24))
    palette = clear.convert("RGB").quantize(4)
    red = palette.getpixel((30, 5))
    grey = clear.convert("LA")
    files = {
        "RGBA": encoded(clear, "PNG"),
        "LA": encoded(grey, "PNG"),
        "palette, one clear": encoded(palette, "PNG", transparency=red),
        "palette, bytes": encoded(palette, "PNG", transparency=bytes(0 if i == red else 255 for i in range(4))),
        "GIF": encoded(palette, "GIF", transparency=red),
        "WebP": encoded(clear, "WEBP", lossless=True),
        "TIFF": encoded(clear, "TIFF"),
        "AVIF": encoded(clear, "AVIF", quality=100),
    }
    for name, data in files.items():
        found = decode_image(data, LIMITS)
        assert np.asarray(found)[5, 30].min() > 250, name
        assert np.asarray(found)[5, 5, :2].max() < 60, name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_rgb(Image.open(io.BytesIO(files["palette, bytes"]))).mode == "RGB"
        assert as_rgb(Image.open(io.BytesIO(files["palette, bytes"])).convert("PA")).mode == "RGB"


def test_sixteen_bit_transparency_lies_on_white() -> None:
    deep = np.full((24, 40), 500, np.uint16)
    deep[:, 20:] = 40_000
    data = encoded(Image.fromarray(deep), "PNG", transparency=40_000)
    found = decode_image(data, LIMITS)
    assert found.getpixel((30, 5)) == (255, 255, 255)
    assert np.asarray(found)[5, 5].max() <= 2


# What isn't read


def pages(*sides: int) -> bytes:
    images = [Image.new("RGB", (side, side), (side, 0, 0)) for side in sides]
    return encoded(images[0], "TIFF", save_all=True, append_images=images[1:])


UNREAD: dict[str, tuple[str, bytes]] = {
    "JPEG XL": ("JPEG XL", b"\xff\x0a" + bytes(40)),
    "boxed JPEG XL": ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)),
    "JPEG 2000": ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)),
    "PSD": ("Photoshop", b"8BPS\0\x01" + bytes(40)),
    "PDF": ("PDF", b"%PDF-1.7\n" + bytes(40)),
    "SVG": ("SVG", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "bare SVG": ("SVG", b"  <svg></svg>"),
    "CR2": ("camera RAW", b"II*\0\x10\0\0\0CR\x02\0" + bytes(40)),
    "CR3": ("camera RAW", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(40)),
    "RAF": ("camera RAW", b"FUJIFILMCCD-RAW 0201" + bytes(40)),
    "web page": ("web page", b"<!DOCTYPE html><html><body>Not found"),
    "video": ("video", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(40)),
    "LFS": ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
    "ZIP": ("ZIP", b"PK\x03\x04" + bytes(40)),
    "EXR": ("OpenEXR", b"v/1\x01" + bytes(40)),
}


@pytest.mark.parametrize("name", UNREAD)
def test_other_formats_are_called_by_name(name: str, tmp_path: Path) -> None:
    words, data = UNREAD[name]
    with pytest.raises(RefusedError, match=f"other-format: it is .*{words}"):
        decode_image(data, LIMITS)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(RefusedError, match="other-format"):
        image_size(tmp_path / "a.png", LIMITS)
    with pytest.raises(UsageError, match=rf"a\.png can't be used(?s:.*){words}(?s:.*)do:  mend it"):
        require_image(tmp_path / "a.png", LIMITS, todo="mend it")


def test_heic_without_its_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(HALVES)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(RefusedError, match="HEIC file, which needs an extra: pip install pillow-heif"):
        decode_image(data, LIMITS)


def test_avif_without_its_decoder_is_called_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.features, "check", lambda name: False)
    with pytest.raises(RefusedError, match="AVIF"):
        decode_image(READ["AVIF"](), LIMITS)


def test_animations_and_pages_are_refused_and_single_frames_are_not() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    for kind in ("GIF", "PNG", "WEBP", "AVIF"):
        with pytest.raises(RefusedError, match="animated"):
            decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), LIMITS)
        assert decode_image(encoded(frames[0], kind, save_all=True), LIMITS).size == (20, 20)
    with pytest.raises(RefusedError, match="several-pages"):
        decode_image(pages(40, 32), LIMITS)


# Bombs


def huge_tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 16)]
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(16)


def huge_bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info + bytes(64)


def huge_gif(width: int, height: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02L\x01\0;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame


def huge_box(data: bytes, width: int, height: int) -> bytes:
    """An AVIF or HEIC whose box of sizes lies."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


@pytest.mark.parametrize("size", [(9000, 9000), (12_000, 12_000), (60_000, 60_000)])
def test_bombs_of_every_format_are_refused_before_a_pixel_is_decoded(size: tuple[int, int]) -> None:
    import tracemalloc

    makers = (huge_tiff, huge_bmp, huge_gif)
    files = [make(*size) for make in makers]
    files += [huge_box(READ[kind](), *size) for kind in ("AVIF", "HEIC")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in files:
            tracemalloc.start()
            with pytest.raises(RefusedError):
                decode_image(data, LIMITS)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
            tracemalloc.stop()


# Mutations


def spoil(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(max(1, min(len(changed), draw.choice((64, 600, 1 << 30)))))
        kind = draw.randrange(5)
        if kind == 0:
            changed[at : at + 1] = bytes(byte ^ 1 << draw.randrange(8) for byte in changed[at : at + 1])
        elif kind == 1:
            changed[at : at + 4] = draw.choice((bytes(4), b"\xff" * 4, draw.randbytes(4)))
        elif kind == 2:
            del changed[at : at + draw.randrange(1, 9)]
        elif kind == 3:
            changed[at:at] = draw.randbytes(draw.randrange(1, 9))
        else:
            del changed[max(at, 8) :]
    return bytes(changed)


def with_exif_of_all_kinds(kind: str) -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x011A], tags[0x010E], tags[0x9286] = 6, 300.0, "x", b"ASCII\0\0\0note"
    return encoded(HALVES, kind, exif=tags)


SOUND: dict[str, Callable[[], bytes]] = READ | {
    f"{kind} with EXIF": (lambda kind=kind: with_exif_of_all_kinds(kind))
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
}


@pytest.mark.parametrize("kind", SOUND)
def test_spoilt_bytes_are_refused_or_read_and_nothing_else_happens(kind: str, tmp_path: Path) -> None:
    data, draw, path = SOUND[kind](), random.Random(kind), tmp_path / "a"
    outcomes = {"read": 0, "refused": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            changed = spoil(data, draw)
            try:
                assert decode_image(changed, LIMITS, at_least=draw.choice((None, 8))).mode == "RGB"
                outcomes["read"] += 1
            except RefusedError as error:
                assert error.detail
                outcomes["refused"] += 1
            path.write_bytes(changed)
            with contextlib.suppress(RefusedError):
                assert min(image_size(path, LIMITS)) > 0
    assert outcomes["refused"] > 20
