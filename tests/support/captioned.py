"""Captioned images for tests, in every layout, and every way in which one can be bad."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bitvar.data.layouts import MAX_CAPTION, read_records
from bitvar.data.validation import Accepted, validate
from bitvar.imaging.open import ImageLimits

LIMITS = ImageLimits(max_bytes=200_000, max_pixels=200_000)


def make_image(width: int = 40, height: int = 30, mode: str = "RGB", seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int = 9000, height: int = 9000) -> bytes:
    """A PNG of 81 megapixels in a few bytes: its header says so, its pixels are missing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def outcome(source: Path, limits: ImageLimits = LIMITS) -> tuple[list[str], dict[str, str]]:
    """Names of the good samples, and the reason of every refused one."""
    good, refused = [], {}
    for sample in validate(read_records(source), lambda image: image.size, limits=limits):
        if isinstance(sample, Accepted):
            good.append(sample.raw_sample.name)
        else:
            assert sample.detail
            refused[sample.name] = sample.reason
    return good, refused


def sidecars(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "a.png").write_bytes(encoded(make_image(seed=1)))
    (folder / "a.txt").write_text("a cat\n  a  small cat \n\na cat\n", encoding="utf-8")
    (folder / "deep" / "b.JPG").write_bytes(encoded(make_image(seed=2), "JPEG"))
    (folder / "deep" / "b.json").write_text(json.dumps({"caption": "a dog", "long_caption": "a dog that sits"}))
    return folder


def table(folder: Path, name: str = "set.csv") -> Path:
    sidecars(folder)
    comma = "\t" if name.endswith(".tsv") else ","
    lines = [comma.join(("file_name", "text", "split")), comma.join(("a.png", '"a cat, sitting"', "val"))]
    (folder / name).write_text("\n".join([*lines, comma.join(("deep/b.JPG", "a dog", ""))]) + "\n", encoding="utf-8")
    return folder / name


def lines(folder: Path, name: str = "1.000_000000002.jsonl") -> Path:
    sidecars(folder)
    rows = [
        {"image_path": "a.png", "h_div_w": 0.75, "long_caption": "a long cat", "text": "a cat"},
        {"image_path": str(folder / "deep" / "b.JPG"), "h_div_w": "0.75", "long_caption": "a dog"},
    ]
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return folder / name


def tar(folder: Path, members: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    members = members or {
        "x/1.png": encoded(make_image(seed=1)), "x/1.txt": b"a cat", "x/2.more.txt": b"ignored",
        "x/2.jpg": encoded(make_image(seed=2), "JPEG"), "x/2.json": b'{"text": "a dog"}', "x/2.txt": b"a dog\na hound",
    }  # fmt: skip
    with tarfile.open(folder / "shard-000.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / "shard-000.tar"


# Bad samples: one maker a reason

GOOD_ROW = {"image_path": "p.png", "caption": "a cat"}


def row(**changes: Any) -> bytes:
    return json.dumps({**GOOD_ROW, **changes}).encode()


BAD_LINES: dict[str, tuple[str, bytes]] = {
    "no JSON": ("broken-line", b"{"),
    "no object": ("broken-line", b"[1]"),
    "deep": ("broken-line", b"[" * 100_000),
    "huge": ("broken-line", b'"' + b"x" * (3 << 20) + b'"'),
    "latin-1": ("not-utf8", '{"image_path": "p.png", "caption": "caf\xe9"}'.encode("latin-1")),
    "no path": ("missing-field", b'{"caption": "a cat"}'),
    "path is a number": ("wrong-type", row(image_path=3)),
    "path has a zero byte": ("wrong-type", row(image_path="a\0.png")),
    "no caption": ("no-caption", b'{"image_path": "p.png"}'),
    "no captions": ("no-caption", row(captions=[])),
    "blank caption": ("empty-caption", row(caption=" \t")),
    "caption is a list": ("wrong-type", row(caption=["a"])),
    "captions hold a number": ("wrong-type", row(captions=["a", 1])),
    "long caption": ("long-caption", row(caption="x" * (MAX_CAPTION + 1))),
    "control characters": ("bad-caption", row(caption="a \x1b[31m cat")),
    "lone surrogate": ("bad-caption", rb'{"image_path": "p.png", "caption": "a \ud800"}'),
    "split is a number": ("wrong-type", row(split=1)),
    "ratio is text": ("wrong-type", row(h_div_w="wide")),
    "ratio is nought": ("wrong-type", row(h_div_w=0)),
    "ratio is NaN": ("wrong-type", row(h_div_w=float("nan"))),
    "wrong ratio": ("wrong-ratio", row(h_div_w=2.0)),
    "missing image": ("missing-image", row(image_path="gone.png")),
    "a folder": ("unreadable-file", row(image_path=".")),
}

BAD_IMAGES: dict[str, tuple[str, bytes]] = {
    "empty": ("empty-file", b""),
    "text": ("not-an-image", b"not an image"),
    "JPEG XL": ("other-format", b"\xff\x0a" + bytes(100)),
    "two-page TIFF": (
        "several-pages",
        encoded(make_image(), "TIFF", save_all=True, append_images=[make_image(seed=9)]),
    ),
    "bomb": ("too-many-pixels", bomb()),
    "giant": ("too-many-pixels", bomb(60_000, 60_000)),
    "many bytes": ("too-many-bytes", encoded(make_image()) + bytes(200_000)),
    "tiny": ("too-small", encoded(make_image(8, 8))),
    "ribbon": ("extreme-ratio", encoded(make_image(200, 20))),
    "cut PNG": ("broken-image", encoded(make_image())[:1500]),
    "cut JPEG": ("broken-image", encoded(make_image(seed=3), "JPEG")[:-300]),
    "cut WebP": ("not-an-image", encoded(make_image(seed=4), "WEBP")[:-300]),
    "broken PNG data": ("broken-image", encoded(make_image())[:60] + bytes(200) + encoded(make_image())[260:]),
    "APNG": ("animated", encoded(make_image(), save_all=True, append_images=[make_image(seed=9)])),
    "animated WebP": ("animated", encoded(make_image(), "WEBP", save_all=True, append_images=[make_image(seed=9)])),
}  # fmt: skip
