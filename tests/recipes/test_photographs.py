"""The photographs recipe on a made-up package: what is taken, what is left out, and what a broken file says."""

import io
import json
import re
import runpy
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from bitvar.errors import UsageError

RECIPE = Path(__file__).parents[2] / "scripts" / "photographs" / "build.py"
BUILD = runpy.run_path(str(RECIPE))
FOLDER = "gcompris/src/activities/zoo/resource"
COMMONS = "https://commons.wikimedia.org/wiki/File:"
README = f"""Copyright: Ann Author
Source: {COMMONS}A_red_panda_%28{{number}}%29.jpg
License: Public Domain
Files:
panda.webp

Copyright: Bea Builder
License: CC0-1.0
Source: {COMMONS}Tower.jpg
Comments: cropping
Files: tower.webp

Copyright: Bea Builder
License: CC0-1.0
Source: {COMMONS}Tower.jpg
Files:
towers/small.webp
absent.webp

Copyright: Carl Sharer
License: CC-BY-SA 4.0
Source: {COMMONS}Fox.jpg
Files:
fox.webp
fox.svg

Copyright: Dora Drawer
License: Public Domain
Comment: original source at {COMMONS}Sun.jpg
Files:
sun.webp
"""


def image(side: int, colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "WEBP", lossless=True)
    return file.getvalue()


def zoo() -> dict[str, bytes]:
    images = {
        "panda.webp": image(32, "red"),
        "tower.webp": image(32, "grey"),
        "towers/small.webp": image(32, "grey")[:-1],
        "fox.webp": image(32, "orange"),
        "sun.webp": image(32, "yellow"),
    }
    readme = README.replace("{number}", "2").encode()
    return {f"{FOLDER}/{name}": data for name, data in {**images, "README": readme}.items()}


def resource_file(files: Mapping[str, bytes], *, version: int = 3, flags: int = 1) -> bytes:
    """A Qt resource file with these files, READMEs packed by zlib."""
    tree: dict[str, dict] = {}
    for path, data in files.items():
        *parents, name = path.split("/")
        folder = tree
        for parent in parents:
            folder = folder.setdefault(parent, {})
        folder[name] = data
    nodes, names, content = [b""], b"", b""
    queue: list[tuple[int, str, dict | bytes]] = [(0, "", tree)]
    for index, name, item in queue:
        name_at = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if isinstance(item, dict):
            nodes[index] = struct.pack(">IHIIQ", name_at, 2, len(item), len(nodes), 0)
            queue += [(len(nodes) + k, *child) for k, child in enumerate(sorted(item.items()))]
            nodes += [b""] * len(item)
        else:
            packed = flags if name == "README" else 0
            data = struct.pack(">I", len(item)) + zlib.compress(item) if packed else item
            nodes[index] = struct.pack(">IHHHIQ", name_at, packed, 0, 1, len(content), 0)
            content += struct.pack(">I", len(data)) + data
    header = 24 if version == 3 else 20
    tree_bytes = b"".join(nodes)
    offsets = (header, header + len(tree_bytes), header + len(tree_bytes) + len(content))
    return b"qres" + struct.pack(">4I", version, *offsets) + bytes(header - 20) + tree_bytes + content + names


def debian_package(folder: Path, files: Mapping[str, bytes]) -> Path:
    root = folder / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: toy\n"
    )
    (root / "usr").mkdir()
    (root / "usr" / "zoo.rcc").write_bytes(resource_file(files))
    package = folder / "toy.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(package)], check=True, capture_output=True)
    return package


@pytest.mark.parametrize("version", [2, 3])
def test_resource_files_come_back_whole(version: int) -> None:
    assert BUILD["read_resources"]("zoo.rcc", resource_file(zoo(), version=version)) == zoo()


def test_only_open_photographs_with_a_source_are_taken() -> None:
    taken, left_out = BUILD["choose"]({"zoo.rcc": resource_file(zoo())})
    assert [(p.name, p.title, p.author, p.licence) for p in taken] == [
        ("zoo-panda.webp", "A red panda (2)", "Ann Author", "public domain"),
        ("zoo-tower.webp", "Tower", "Bea Builder", "CC0-1.0"),
    ]
    assert all(photograph.data == zoo()[f"{FOLDER}/{photograph.name.removeprefix('zoo-')}"] for photograph in taken)
    assert left_out == {
        "zoo-absent.webp": "the README names it, but the package lacks it",
        "zoo-fox.webp": "licence: CC-BY-SA 4.0",
        "zoo-sun.webp": "its source is not Wikimedia Commons",
        "zoo-towers-small.webp": "the same photograph as zoo-tower.webp, smaller",
    }


def test_what_is_no_photograph_is_left_out_with_its_reason() -> None:
    name, reason = next(iter(BUILD["NO_PHOTOGRAPHS"].items()))
    folder, _, file = name.partition("-")
    note = f"License: CC0-1.0\nSource: {COMMONS}A.jpg\nFiles:\n{file}\n".encode()
    files = {f"gcompris/src/activities/{folder}/resource/{n}": d for n, d in ((file, b"x"), ("README", note))}
    assert BUILD["choose"]({"a.rcc": resource_file(files)}) == ([], {name: reason})


def test_the_folder_is_the_same_twice_and_keeps_the_bytes(tmp_path: Path) -> None:
    taken, left_out = BUILD["choose"]({"zoo.rcc": resource_file(zoo())})
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        BUILD["write_folder"](folder, taken, left_out)
    written, again = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert written == again
    for photograph in taken:
        split = "held_out" if BUILD["is_held_out"](photograph.name) else "train"
        assert written[Path(split) / photograph.name] == photograph.data
        line = f"`{split}/{photograph.name}`: {photograph.title}, by {photograph.author}, {photograph.licence}"
        assert line in written[Path("ATTRIBUTION.md")].decode()
    report = json.loads(written[Path("photographs.json")])
    assert (
        report["counts"]["photographs"] == report["counts"].get("train", 0) + report["counts"].get("held_out", 0) == 2
    )
    assert report["left_out"] == left_out


def test_a_fifth_is_held_out_by_name_alone() -> None:
    names = [f"zoo-{number}.webp" for number in range(2000)]
    assert 340 < sum(map(BUILD["is_held_out"], names)) < 460
    assert BUILD["is_held_out"]("categorization-fishes-fish2.webp")
    assert not BUILD["is_held_out"]("categorization-fishes-fish1.webp")


def truncations() -> list[bytes]:
    whole = resource_file(zoo())
    return [whole[:size] for size in (0, 3, 18, 40, len(whole) // 2, len(whole) - 1)]


def damages() -> list[tuple[bytes, str]]:
    whole = resource_file(zoo())
    itself = bytearray(whole)
    itself[24 + 22 + 6 : 24 + 22 + 14] = struct.pack(">II", 1, 1)  # the folder "gcompris" holds itself
    name_at = whole.index("panda.webp".encode("utf-16-be"))
    outside = whole[:name_at] + "../../../p".encode("utf-16-be") + whole[name_at + 20 :]
    return [
        (b"PK" + whole[2:], "qres"),
        (whole[:7] + b"\x04" + whole[8:], "format is 4"),
        (bytes(itself), "holds what another folder holds"),
        (outside, "not a file name"),
        (resource_file(zoo(), flags=4), "Zstandard"),
    ]


@pytest.mark.parametrize("data", truncations())
def test_a_resource_file_cut_short_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="is not a complete Qt resource file"):
        BUILD["read_resources"]("cut.rcc", data)


@pytest.mark.parametrize(("data", "why"), damages())
def test_a_damaged_resource_file_says_what_is_wrong(data: bytes, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        BUILD["read_resources"]("bad.rcc", data)


def test_a_flipped_byte_never_escapes() -> None:
    whole = resource_file(zoo())
    for position in range(0, len(whole), 7):
        data = whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :]
        try:
            BUILD["read_resources"]("bad.rcc", data)
        except UsageError as error:
            assert "\n  do:  " in str(error)


def test_the_command_refuses_another_package_and_an_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.deb"
    other.write_bytes(b"another")
    for arguments, said in (
        ((tmp_path / "out", "--package", other), "is not gcompris-qt-data 3.1-2"),
        ((tmp_path / "out", "--package", tmp_path / "none.deb"), "There is no file"),
        ((tmp_path, "--package", other), "it exists"),
    ):
        monkeypatch.setattr(sys, "argv", ["build.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(RECIPE), run_name="__main__")
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_debian_package_is_read(tmp_path: Path) -> None:
    package = debian_package(tmp_path, zoo())
    assert BUILD["resource_files"](package) == {"zoo.rcc": resource_file(zoo())}
    package.write_bytes(package.read_bytes()[:40])
    with pytest.raises(UsageError, match="Can't read"):
        BUILD["resource_files"](package)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such-program is not on the PATH"):
        BUILD["run"](["no-such-program"], what="Can't do it.", cwd=tmp_path)
