"""Tars: what macOS adds is passed over, an unsorted one says how to sort it, and a lying header costs nothing."""

import io
import resource
import tarfile
import time
from collections import Counter
from pathlib import Path

import pytest

from bitvar.data.layouts import read_records
from bitvar.data.records import RawSample, Rejected
from tests.support.captioned import encoded, make_image, outcome, tar


def sample(number: int) -> dict[str, bytes]:
    return {f"{number:03d}.png": encoded(make_image(seed=number)), f"{number:03d}.txt": b"a cat"}


def test_what_macos_adds_is_passed_over(tmp_path: Path) -> None:
    members: dict[str, bytes] = {"./.DS_Store": b"x", "__MACOSX/000.png": b"x", "PaxHeader/000.png": b"x"}
    for number in range(4):
        for name, data in sample(number).items():
            members |= {f"./._{name}": b"\0\5\x16\7", f"./{name}": data}
    other_files: Counter[str] = Counter()
    entries = list(read_records(tar(tmp_path, members), other_files=other_files))
    assert [entry.name for entry in entries if isinstance(entry, RawSample)] == [
        f"shard-000.tar:{n:03d}" for n in range(4)
    ]
    assert len(entries) == 4
    assert other_files == {"hidden": 11}


@pytest.mark.parametrize("order", ["images first", "one member late"])
def test_an_unsorted_tar_says_how_to_sort_it(tmp_path: Path, order: str) -> None:
    members = {name: data for number in range(3) for name, data in sample(number).items()}
    names = sorted(members, key=lambda name: name[::-1]) if order == "images first" else sorted(members)
    if order == "one member late":
        names.append(names.pop(1))
    path = tar(tmp_path, {name: members[name] for name in names})
    good, refused = outcome(path)
    torn = {f"shard-000.tar:{n:03d}" for n in range(3 if order == "images first" else 1)}
    assert refused == dict.fromkeys(torn, "unsorted-tar")
    assert len(good) == 3 - len(torn)
    details = [entry.detail for entry in read_records(path) if isinstance(entry, Rejected)]
    assert all("tar --sort=name" in detail for detail in details)


def test_members_that_are_there_twice_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in [
            *sample(1).items(),
            ("001.png", encoded(make_image())),
            ("001.jpg", encoded(make_image(), "JPEG")),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert outcome(path)[0] == ["t.tar:001"]
    assert [(e.name, e.reason) for e in read_records(path) if isinstance(e, Rejected)] == [
        ("t.tar:001.jpg", "duplicate"), ("t.tar:001.png", "duplicate"),
    ]  # fmt: skip


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [6 << 30, (1 << 20) + 2048])
def test_an_extension_of_gigabytes_is_refused_at_once(tmp_path: Path, kind: bytes, size: int) -> None:
    path = tar(tmp_path, sample(1))
    whole = path.read_bytes().rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    with path.open("wb") as file:
        file.write(whole + header("x", size, kind))
        file.truncate(len(whole) + 512 + size)  # a hole: it costs no disk
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    good, refused = outcome(path)
    assert (good, refused) == (["shard-000.tar:001"], {"shard-000.tar": "broken-tar"})
    assert time.monotonic() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def pax(**records: str) -> bytes:
    """An extended header of these records."""
    body = b""
    for key, value in records.items():
        text = f" {key}={value}\n".encode()
        size = len(text) + 2
        size = len(text) + len(str(size))
        body += str(size).encode() + text
    return header("x", len(body), tarfile.XHDTYPE) + body + bytes(-len(body) % 512)


@pytest.mark.parametrize(
    "data",
    [
        pax(size="-1536") + header("2.png", 0, tarfile.REGTYPE),
        pax(size="9" * 30) + header("2.png", 0, tarfile.REGTYPE),
        pax(comment="x") * 2000 + header("2.png", 0, tarfile.REGTYPE),
        pax(path="a\0b") + header("2.png", 0, tarfile.REGTYPE),
        header("2.png", -512, tarfile.REGTYPE),
        b"\xff" * 512,
    ],
    ids=range(6),
)
def test_headers_that_lie_end_or_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(data + bytes(1024))
    start = time.monotonic()
    good, refused = outcome(path)
    assert not good
    assert refused
    assert time.monotonic() - start < 2


def test_links_holes_and_names_that_lead_out(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("1.png", tarfile.LNKTYPE), ("2.png", tarfile.SYMTYPE), ("3.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, data in (
            ("/4.png", encoded(make_image())),
            ("/4.txt", b"a cat"),
            ("../5.png", encoded(make_image())),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("6.png")
        info.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(info)
    good, refused = outcome(path)
    assert good == ["t.tar:4"]  # a name is only a name: nothing is unpacked
    assert refused == {
        "t.tar:1.png": "bad-member", "t.tar:2.png": "bad-member", "t.tar:3.png": "bad-member",
        "t.tar:../5": "no-caption", "t.tar:6.png": "bad-member",
    }  # fmt: skip
