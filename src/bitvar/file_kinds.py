"""Recognising the format of a file by its first bytes. A file that should contain weights is often something else.

This module knows no names of tensors and reads no weights.
"""

import json
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitvar.errors import WeightsError

_HEAD_BYTES: Final = 512
_AGAIN: Final = "download it again"
_UNPACK: Final = "unpack it, and give the file inside"
_LFS: Final = b"version https://git-lfs"
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number that files of `torch.save` began with before PyTorch 1.6."""

_PREFIXES: Final = (
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"GGUF", "a GGUF file, whose weights are quantised", "give the original weights"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it", "give the PyTorch weights"),
    (b"\x93NUMPY", "a NumPy array", "give the PyTorch weights"),
    (b"\x89PNG", "a PNG image", "check the path"),
    (b"\xff\xd8\xff", "a JPEG image", "check the path"),
    (b"%PDF", "a PDF document", "check the path"),
)


@dataclass(frozen=True)
class FileKind:
    """A format that a file may have.

    Attributes:
        kind: "torch" for files of `torch.save`, "safetensors", or "other".
        description: Name of the format, with an article, for messages.
        fix: What to do about a file that should have another format.
    """

    kind: str
    description: str
    fix: str


def recognise(path: Path) -> FileKind | None:
    """Recognise a file by its first bytes; None for unknown ones."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip(b"\0"):
        return FileKind("other", "empty" if not head else "nothing but zeros", _AGAIN)
    if head.startswith(_LFS):
        fix = "run `git lfs pull` in its folder, or download the file itself"
        return FileKind("other", "a Git LFS pointer, a few lines that stand for the file", fix)
    for prefix, description, fix in _PREFIXES:
        if head.startswith(prefix):
            return FileKind("other", description, fix)
    return _archive(path, head) or _text(head) or _pickle(path, head) or _safetensors(path, head)


def require_file_kind(path: Path, kind: str) -> None:
    """Refuse a file of weights that is recognised as another format.

    Args:
        path: File of weights.
        kind: Expected format by its suffix, "torch" or "safetensors".

    Raises:
        WeightsError: naming the format of the file.
    """
    file_kind = recognise(path)
    if file_kind is not None and file_kind.kind != kind:
        raise WeightsError(f"Can't read the weights {path}.", f"the file is {file_kind.description}", file_kind.fix)


def refuse_pointers(folder: Path) -> None:
    """Refuse a folder that has Git LFS pointers in place of its weights, before any digest is compared.

    Raises:
        WeightsError: naming the first pointer.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        if path.is_file() and path.stat().st_size <= 2 * _HEAD_BYTES:
            with path.open("rb") as file:
                is_pointer = file.read(_HEAD_BYTES).startswith(_LFS)
            if is_pointer:
                require_file_kind(path, "safetensors")


def _archive(path: Path, head: bytes) -> FileKind | None:
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            return FileKind("other", "truncated: a zip archive, as torch.save writes, without its end", _AGAIN)
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
            return None
        if any(name.endswith("data.pkl") for name in names):
            return FileKind("torch", "a file of torch.save, not safetensors", f"name it {path.stem}.pth")
        return FileKind("other", f"a zip archive of something else: {', '.join(names[:3])[:200] or 'nothing'}", _UNPACK)
    if head[257:262] == b"ustar":
        try:
            with tarfile.open(path) as archive:
                first = archive.next()
        except (tarfile.TarError, OSError):
            first = None
        return FileKind(
            "other", f"a tar archive, which begins with {first.name[:100] if first else 'nothing'}", _UNPACK
        )
    return None


def _text(head: bytes) -> FileKind | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<!--")):
        fix = "open its address in a browser to see what it asks for (often a log-in), and download the file itself"
        return FileKind("other", "a web page, which a download returns when it needs a log-in", fix)
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        first = text.strip().splitlines()[0][:60]
        return FileKind("other", f"text, which begins with {first!r}", _AGAIN)
    return None


def _pickle(path: Path, head: bytes) -> FileKind | None:
    if head.startswith(_LEGACY):
        line = f'torch.save(torch.load("{path.name}", map_location="cpu", weights_only=True), "new.pth")'
        return FileKind(
            "other", "in PyTorch's format from before 1.6", f"save it again with a newer PyTorch: import torch; {line}"
        )
    if head[:1] == b"\x80" and 2 <= head[1] <= 5:
        return FileKind(
            "other", "a plain pickle, which could run code when read", "save its state dict with torch.save"
        )
    return None


def _safetensors(path: Path, head: bytes) -> FileKind | None:
    """Recognise a header: its length in 8 bytes, followed by JSON of that length."""
    length, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if len(head) <= 9 or head[8:9] != b"{":
        return None
    if 8 + length > size:
        return None  # the reader of safetensors reports what is missing
    try:
        with path.open("rb") as file:
            file.seek(8)
            json.loads(file.read(min(length, 1 << 26)))
    except (ValueError, RecursionError):
        return None
    return FileKind("safetensors", "a safetensors file", f"name it {path.stem}.safetensors")
