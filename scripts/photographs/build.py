r"""Photographs in the public domain, 207 of them, from the Debian package gcompris-qt-data.

python scripts/photographs/build.py photographs

The package (44 MB) is downloaded with `apt-get download`. Where that isn't available, `--package FILE` takes the same
file. It is read with `dpkg-deb`; nothing in it is installed or run. An image is taken if its folder's README says that
it is in the public domain or under CC0, and names its page on Wikimedia Commons. Of duplicates, only the larger file is
taken. The bytes of images are copied unchanged. The script writes

- `train/` and `held_out/`, split by a hash of the name;
- `ATTRIBUTION.md`: each image's title, author, licence and source;
- `photographs.json`: counts, what was left out and why, and the package.
"""

import argparse
import hashlib
import io
import json
import re
import struct
import subprocess
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote

from bitvar.errors import UsageError
from bitvar.files import new_folder

PACKAGE: Final = "gcompris-qt-data"
VERSION: Final = "3.1-2"
SHA256: Final = "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"

LICENCES: Final = {"public domain": "public domain", "cc0-1.0": "CC0-1.0"}
"""The accepted licences: as the READMEs write them in lower case, and as they are written here."""
RASTER: Final = (".webp", ".png", ".jpg", ".jpeg")
COMMONS: Final = "https://commons.wikimedia.org/wiki/File:"
NO_PHOTOGRAPHS: Final = {
    "solar_system-jupiter.webp": "a globe computed from many exposures, cut out on transparency",
    "solar_system-venus.webp": "a globe coloured from radar data, cut out on transparency",
}
"""Images that pass the rules but are not photographs. Every image was looked at."""
HELD_OUT: Final = 0.2

_MAX_BYTES: Final = 64 << 20
_DIRECTORY, _COMPRESSED, _ZSTANDARD = 2, 1, 4
_FIELD: Final = re.compile(r"(Copyright|Licen[cs]e|Source|Comments?|Files):(.*)")


Notes = dict[str, list[str]]
"""A paragraph of a README: the lines of each field, such as "License" and "Files"."""


@dataclass(frozen=True)
class Photograph:
    """An image, and what its folder's README says about it."""

    name: str
    data: bytes
    title: str
    author: str
    licence: str
    source: str


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Photographs in the public domain, from a Debian package.")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--package", type=Path, help=f"{PACKAGE} {VERSION} as a .deb; fetched if not given")
    options = parser.parse_args()
    try:
        build(options.destination, options.package)
    except UsageError as error:
        parser.exit(2, f"{error}\n")


def build(destination: Path, package: Path | None = None) -> None:
    """Write the folder, completely or not at all.

    Raises:
        UsageError: If the folder exists, or the package can't be downloaded, is another one, or can't be read.
    """
    if destination.exists():
        raise UsageError(f"Can't write to {destination}.", "it exists", "name a folder that doesn't")
    with tempfile.TemporaryDirectory() as downloads:
        package = package or fetch_package(Path(downloads))
        check_package(package)
        taken, left_out = choose(resource_files(package))
    destination.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(destination) as folder:
        write_folder(folder, taken, left_out)


def fetch_package(downloads: Path) -> Path:
    """Download the package with `apt-get download`. Raise UsageError if that fails."""
    run(["apt-get", "download", f"{PACKAGE}={VERSION}"], cwd=downloads, what=f"Can't fetch {PACKAGE} {VERSION}.")
    return next(downloads.glob("*.deb"))


def check_package(package: Path) -> None:
    """Raise UsageError unless the file is exactly the package whose images were looked at."""
    if not package.is_file():
        raise UsageError(f"There is no file {package}.", "--package names it", "check the path")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != SHA256:
        why = f"its sha256 is {digest}, expected {SHA256}"
        raise UsageError(f"{package} is not {PACKAGE} {VERSION}.", why, "fetch that version")


def resource_files(package: Path) -> dict[str, bytes]:
    """Read the Qt resource files of a Debian package, by name."""
    archive = run(["dpkg-deb", "--fsys-tarfile", str(package)], what=f"Can't read {package}.")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = [member for member in tar if member.isfile() and member.name.endswith(".rcc")]
        return {PurePosixPath(m.name).name: f.read() for m in members if (f := tar.extractfile(m)) is not None}


def run(command: Sequence[str], *, what: str, cwd: Path | None = None) -> bytes:
    """Run a program and return its output. Raise UsageError(`what`) if it is missing or fails."""
    todo = f"run this under Debian 12 with a network, or give {PACKAGE} {VERSION} with --package; dpkg-deb is needed"
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError(what, f"the program {command[0]} is not on the PATH", todo) from None
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split())[-300:] or f"{command[0]} gives no reason"
        raise UsageError(what, said, todo)
    return done.stdout


def read_resources(name: str, data: bytes) -> dict[str, bytes]:
    """Read the files in a Qt resource file of format 2 or 3, unpacked, by path.

    The header points to three tables: a tree of 22-byte nodes, in which the children of a folder are adjacent; names in
    UTF-16; and the bytes of the files, each preceded by its length. Numbers are big-endian.

    Raises:
        UsageError: If the data are not a resource file, are truncated or damaged, or use Zstandard, which this package
            never does.
    """
    try:
        if data[:4] != b"qres":
            raise ValueError("it doesn't begin with 'qres'")
        version, tree, content, names = struct.unpack_from(">4I", data, 4)
        if version not in {2, 3}:
            raise ValueError(f"its format is {version}, not 2 or 3")
        return dict(_walk(data, tree, content, names))
    except (struct.error, ValueError, zlib.error) as error:  # a UnicodeDecodeError is a ValueError
        raise UsageError(
            f"{name} is not a complete Qt resource file.", str(error), "download the package again"
        ) from None


def _walk(data: bytes, tree: int, content: int, names: int) -> Iterator[tuple[str, bytes]]:
    folders, seen = [(0, "")], {0}
    for node, path in folders:
        count, first = struct.unpack_from(">II", data, tree + 22 * node + 6)
        for child in range(first, first + count):
            if child in seen:
                raise ValueError(f"folder {path!r} holds what another folder holds")
            seen.add(child)
            start = tree + 22 * child
            name_at, flags = struct.unpack_from(">IH", data, start)
            (length,) = struct.unpack_from(">H", data, names + name_at)
            name = _slice(data, names + name_at + 6, 2 * length).decode("utf-16-be")
            if "/" in name or name in {"", ".", ".."} or not name.isprintable():
                raise ValueError(f"{name!r} is not a file name")
            if flags & _DIRECTORY:
                folders.append((child, f"{path}{name}/"))
            else:
                (data_at,) = struct.unpack_from(">I", data, start + 10)
                (size,) = struct.unpack_from(">I", data, content + data_at)
                yield path + name, _unpack(_slice(data, content + data_at + 4, size), flags)


def _slice(data: bytes, start: int, size: int) -> bytes:
    if start + size > len(data):
        raise ValueError(f"it ends at byte {len(data)}, and a part of it at {start + size}")
    return data[start : start + size]


def _unpack(packed: bytes, flags: int) -> bytes:
    if flags & _ZSTANDARD:
        raise ValueError("a file in it is packed with Zstandard")
    if not flags & _COMPRESSED:
        return packed
    (size,) = struct.unpack_from(">I", packed)
    if size > _MAX_BYTES:
        raise ValueError(f"a file in it has {size} bytes; at most {_MAX_BYTES} are read")
    stream = zlib.decompressobj()
    data = stream.decompress(packed[4:], size + 1)
    if len(data) != size or not stream.eof:
        raise ValueError("a file in it is not as long as it says")
    return data


def read_notes(text: str) -> Iterator[Notes]:
    """Yield the paragraphs of a README that describe files: the lines of each field, by name."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        field = ""
        for line in paragraph.splitlines():
            begins = _FIELD.match(line)
            field = begins[1] if begins else field
            value = (begins[2] if begins else line).strip()
            fields.setdefault(field.replace("Licence", "License"), []).extend([value] if value else [])
        if "Files" in fields:
            yield fields


def choose(packages: Mapping[str, bytes]) -> tuple[list[Photograph], dict[str, str]]:
    """Choose the photographs in resource files. Return them, and the reasons for leaving out other images, by name."""
    largest: dict[str, Photograph] = {}
    left_out: dict[str, str] = {}
    for name, data, notes in listed_images(packages):
        reason = rejection_reason(name, notes)
        if reason is not None or data is None:
            left_out[name] = reason or "the README names it, but the package lacks it"
            continue
        found = describe(name, data, notes)
        other = largest.get(found.source, found)
        kept, dropped = (other, found) if len(other.data) > len(found.data) else (found, other)
        largest[found.source] = kept
        if dropped is not kept:
            left_out[dropped.name] = f"the same photograph as {kept.name}, smaller"
    return sorted(largest.values(), key=lambda photograph: photograph.name), dict(sorted(left_out.items()))


def listed_images(packages: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | None, Notes]]:
    """Yield every image that a README names: its name, its bytes if the package has them, and the notes."""
    for resource, data in sorted(packages.items()):
        files = read_resources(resource, data)
        for readme in sorted(path for path in files if PurePosixPath(path).name == "README"):
            for notes in read_notes(files[readme].decode("utf-8", errors="replace")):
                for listed in (file for file in notes["Files"] if file.lower().endswith(RASTER)):
                    path = str(PurePosixPath(readme).parent / listed)
                    yield flat_name(path), files.get(path), notes


def flat_name(path: str) -> str:
    """Flatten a path: "gcompris/src/activities/clickgame/resource/sea1.webp" becomes "clickgame-sea1.webp"."""
    parts = PurePosixPath(path.removeprefix("gcompris/src/activities/")).parts
    return "-".join(part for part in parts if part not in {"resource", "images", "image"})


def rejection_reason(name: str, notes: Notes) -> str | None:
    """Return the reason for leaving out an image, or None."""
    licence = _field(notes, "License")
    if licence.lower() not in LICENCES:
        return f"licence: {licence or 'none given'}"
    if not _field(notes, "Source").startswith(COMMONS):
        return "its source is not Wikimedia Commons"
    return NO_PHOTOGRAPHS.get(name)


def describe(name: str, data: bytes, notes: Notes) -> Photograph:
    """Combine an image with the notes on it."""
    source = _field(notes, "Source")
    title = PurePosixPath(unquote(source.removeprefix(COMMONS))).stem.replace("_", " ")
    return Photograph(name, data, title, _field(notes, "Copyright"), LICENCES[_field(notes, "License").lower()], source)


def _field(notes: Notes, name: str) -> str:
    return " ".join(notes.get(name, []))


def is_held_out(name: str) -> bool:
    """Tell whether an image is held out from training. The choice depends on its name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) < HELD_OUT * 2**64


def write_folder(folder: Path, taken: Sequence[Photograph], left_out: Mapping[str, str]) -> None:
    """Write the images, `ATTRIBUTION.md` and `photographs.json`."""
    lines = [
        f"Photographs from the Debian package {PACKAGE} {VERSION} (GCompris), which took them from Wikimedia Commons.",
        "Titles, authors and licences are as the package states them.",
        "",
    ]
    counts: Counter[str] = Counter()
    for photograph in taken:
        split = "held_out" if is_held_out(photograph.name) else "train"
        counts[split] += 1
        path = folder / split / photograph.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph.data)
        said = f"{photograph.title}, by {photograph.author or 'unknown'}, {photograph.licence}, {photograph.source}"
        lines.append(f"- `{split}/{photograph.name}`: {said}")
    (folder / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = {
        "format": 1,
        "package": {"name": PACKAGE, "version": VERSION, "sha256": SHA256},
        "counts": {"photographs": len(taken), **dict(sorted(counts.items()))},
        "licences": dict(sorted(Counter(photograph.licence for photograph in taken).items())),
        "left_out": dict(left_out),
    }
    (folder / "photographs.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
