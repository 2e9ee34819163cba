"""What a file that should hold weights really is, told by its first bytes: what arrives is often something else.

Knows no names of tensors and reads no weights.
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
"""The number that `torch.save` put first before PyTorch 1.6, pickled."""

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
class Guise:
    """What a file is.

    Attributes:
        kind: "torch" for what `torch.save` writes, "safetensors", or "other".
        what: the words for it, with an article.
        todo: what to do about a file that is not what it should be.
    """

    kind: str
    what: str
    todo: str


def recognise(path: Path) -> Guise | None:
    """What a file is, by its first bytes; None for bytes that nothing here knows."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head.strip(b"\0"):
        return Guise("other", "empty" if not head else "nothing but zeros", _AGAIN)
    if head.startswith(_LFS):
        todo = "run `git lfs pull` in its folder, or download the file itself"
        return Guise("other", "a Git LFS pointer, a few lines that stand for the file", todo)
    for prefix, what, todo in _PREFIXES:
        if head.startswith(prefix):
            return Guise("other", what, todo)
    return _archive(path, head) or _text(head) or _pickle(path, head) or _safetensors(path, head)


def require_guise(path: Path, kind: str) -> None:
    """Refuse a file that is plainly something else than it should be.

    Args:
        path: a file of weights.
        kind: "torch" or "safetensors", as its suffix says.

    Raises:
        WeightsError: naming what it is.
    """
    guise = recognise(path)
    if guise is not None and guise.kind != kind:
        raise WeightsError(f"Can't read the weights {path}.", f"the file is {guise.what}", guise.todo)


def refuse_pointers(folder: Path) -> None:
    """Refuse a folder of which only Git LFS pointers were fetched, before its digests are compared.

    Raises:
        WeightsError: naming the first of them.
    """
    for path in sorted(folder.rglob("*.safetensors")):
        if path.is_file() and path.stat().st_size <= 2 * _HEAD_BYTES:
            with path.open("rb") as file:
                is_pointer = file.read(_HEAD_BYTES).startswith(_LFS)
            if is_pointer:
                require_guise(path, "safetensors")


def _archive(path: Path, head: bytes) -> Guise | None:
    if head.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            return Guise("other", "truncated: a zip archive, as torch.save makes them, without its end", _AGAIN)
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
            return None
        if any(name.endswith("data.pkl") for name in names):
            return Guise("torch", "a file of torch.save, not safetensors", f"name it {path.stem}.pth")
        return Guise("other", f"a zip archive of something else: {', '.join(names[:3])[:200] or 'nothing'}", _UNPACK)
    if head[257:262] == b"ustar":
        try:
            with tarfile.open(path) as archive:
                first = archive.next()
        except (tarfile.TarError, OSError):
            first = None
        return Guise("other", f"a tar archive, which begins with {first.name[:100] if first else 'nothing'}", _UNPACK)
    return None


def _text(head: bytes) -> Guise | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<!--")):
        todo = "open its address in a browser to see what is asked for (often a log-in), and download the file itself"
        return Guise("other", "a web page, as a download gives that needed a log-in", todo)
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        first = text.strip().splitlines()[0][:60]
        return Guise("other", f"text, which begins with {first!r}", _AGAIN)
    return None


def _pickle(path: Path, head: bytes) -> Guise | None:
    if head.startswith(_LEGACY):
        line = f'torch.save(torch.load("{path.name}", map_location="cpu", weights_only=True), "new.pth")'
        return Guise(
            "other", "in PyTorch's format from before 1.6", f"save it again with a newer PyTorch: import torch; {line}"
        )
    if head[:1] == b"\x80" and 2 <= head[1] <= 5:
        return Guise("other", "a plain pickle, which could run code when read", "save its state dict with torch.save")
    return None


def _safetensors(path: Path, head: bytes) -> Guise | None:
    """A length of 8 bytes, and as much JSON."""
    length, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if len(head) <= 9 or head[8:9] != b"{":
        return None
    if 8 + length > size:
        return None  # its reader says what is missing
    try:
        with path.open("rb") as file:
            file.seek(8)
            json.loads(file.read(min(length, 1 << 26)))
    except (ValueError, RecursionError):
        return None
    return Guise("safetensors", "a safetensors file", f"name it {path.stem}.safetensors")
