"""Captioned samples: tables, samples.jsonl, captions, tars and names, with a known number of good ones."""

import csv
import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Callable
from typing import Any

from PIL import Image

from .kind import Kind
from .stage import Done, Stage, expect
from .training import words

WORDS = (
    "a",
    "red",
    "Haus",
    "\u732b",
    "dog;",
    "caf\u00e9",
    'so-called "cat"',
    "one, two",
    "tab\there",
    "x=1",
    "it's",
    "100%",
    "\U0001f408",
)


def _caption(stage: Stage) -> str:
    return " ".join(stage.random.choices(WORDS, k=stage.random.randint(1, 6)))


def _folded(caption: str) -> str:
    return " ".join(caption.split())


def _good(stage: Stage, source: str, *more: str) -> tuple[int, Done]:
    """How many samples `data check` calls good."""
    done = stage.works("data", "check", source, "--max-bad-fraction", "1", "--json", *more)
    return json.loads(done.out)["good"], done


def _imported(stage: Stage, source: str, *more: str) -> list[str]:
    """The captions of the set that `data import` makes."""
    stage.works("data", "import", source, "imported", "--size", "16", "--max-bad-fraction", "1", *more)
    lines = (stage.folder / "imported" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(caption for line in lines for caption in json.loads(line)["captions"])


def tables(stage: Stage) -> None:
    """Tables with random faults among good rows: exactly the good ones count, with their whole captions."""
    delimiter = stage.turn([",", "\t", ";", ",", "|"])
    suffix = {"\t": "tsv"}.get(delimiter, "csv")
    header = ["file_name", "caption", *stage.pick([[], ["note"], ["split"]])]
    rows, expected = [_line(header, delimiter, stage)], []
    for i in range(stage.random.randint(4, 9)):
        caption = _caption(stage)
        stage.image(f"{i}.png", size=(16, 16))
        values = [f"{i}.png", caption, *["train"] * (len(header) - 2)]
        fault = stage.random.choice(["", "", "", *FAULTS])
        if not fault:
            expected.append(_folded(caption))
            rows.append(_line(values, delimiter, stage))
        else:
            stage.note(fault)
            rows.append(FAULTS[fault](values, delimiter))
    for i in range(2):
        stage.image(f"last-{i}.png", size=(16, 16))
        rows.append(_line([f"last-{i}.png", f"a last one {i}", *[""] * (len(header) - 2)], delimiter, stage))
        expected.append(f"a last one {i}")
    ends = stage.pick([b"\n", b"\r\n"])
    mark = stage.pick([b"", b"\xef\xbb\xbf"])
    (stage.folder / f"t.{suffix}").write_bytes(
        mark + ends.join(row.encode("utf-8", "surrogateescape") for row in rows) + ends
    )
    found, done = _good(stage, f"t.{suffix}")
    expect(found == len(expected), f"{found} good, {len(expected)} are:\n{done}\n{rows}")
    captions = _imported(stage, f"t.{suffix}")
    expect(captions == sorted(expected), f"captions {captions}, not {sorted(expected)}\n{rows}")


def _line(values: list[str], delimiter: str, stage: Stage | None = None) -> str:
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if stage is not None and stage.random.random() < 0.3 else csv.QUOTE_MINIMAL
    csv.writer(file, delimiter=delimiter, lineterminator="", quoting=quoting).writerow(values)
    return file.getvalue()


FAULTS: dict[str, Callable[[list[str], str], str]] = {
    "more": lambda values, delimiter: _line([*values, "sitting on a mat"], delimiter),
    "fewer": lambda values, delimiter: values[0],
    "open": lambda values, delimiter: delimiter.join([values[0], '"never closed', *values[2:]]),
    "empty": lambda values, delimiter: _line([values[0], " ", *values[2:]], delimiter),
    "bytes": lambda values, delimiter: _line([values[0], "a\udcff", *values[2:]], delimiter),
    "nul": lambda values, delimiter: _line([values[0], "a\0b", *values[2:]], delimiter),
    "control": lambda values, delimiter: _line([values[0], "a\x07b", *values[2:]], delimiter),
    "missing": lambda values, delimiter: _line(["nowhere.png", *values[1:]], delimiter),
    "no name": lambda values, delimiter: _line(["", *values[1:]], delimiter),
    "long": lambda values, delimiter: _line([values[0], "word " * 900, *values[2:]], delimiter),
    "after quote": lambda values, delimiter: delimiter.join([values[0], '"a cat"x', *values[2:]]),
}


def _rows(stage: Stage, count: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        stage.image(f"set/{i}.png", size=(16, 16))
        split = "val" if i == 0 else "train"
        rows.append(
            {"image_path": f"{i}.png", "captions": [f"a red dog {i}", _folded(_caption(stage))], "split": split}
        )
    return rows


ODD: tuple[Any, ...] = (
    None, True, 5, -1.5, "", " ", "a cat", [], [""], [[]], {}, {"a": "b"}, [None], [5], ["a", 5], "x" * 5000, "a\0b", "\ud800",
    ["\u200b"], "../0.png", "/nowhere.png", "val", "../val", 1e309, "nan", "0", "1.5", ["a cat", "a cat"],
)  # fmt: skip
KEYS = ("image_path", "captions", "split", "h_div_w", "caption", "file_name", "long_caption", "extra", "text")


def schemas(stage: Stage) -> None:
    """samples.jsonl with odd values: check, index, import and training agree on which lines are good."""
    for name in ("tiny", "recipe.py"):
        stage.copy(name)
    rows = _rows(stage, 8)
    row = rows[stage.random.randrange(1, 8)]
    form = stage.turn(["value", "value", "value", "gone", "twice", "duplicate", "text"])
    lines = None
    if form == "value":
        row[stage.pick(KEYS)] = stage.pick(ODD)
    elif form == "gone":
        del row[stage.pick([*row])]
    elif form == "duplicate":
        rows.append(dict(row))
    lines = [json.dumps(each) for each in rows]
    if form == "twice":
        lines[3] = lines[3][:-1] + ', "split": "train"}'
    elif form == "text":
        lines[3] = stage.pick(
            [
                "{",
                "[]",
                "5",
                "null",
                "[" * 9000,
                '{"image_path": NaN}',
                lines[3] + lines[3],
                '"' + "x" * 99,
                lines[3][:-1],
            ]
        )
    (stage.folder / "set" / "samples.jsonl").write_text("\n".join(lines) + "\n")
    found, done = _good(stage, "set")
    indexed = stage.works("data", "index", "set", "index", "--max-bad-fraction", "1", "--json")
    expect(
        json.loads(indexed.out)["good"] == found, f"check finds {found} good ones, and index others:\n{done}\n{indexed}"
    )
    imported = len({*_imported(stage, "set")}) and len(
        (stage.folder / "imported" / "samples.jsonl").read_text().splitlines()
    )
    expect(imported == found, f"check finds {found} good ones, and import {imported}:\n{done}")
    call = ("train", *words(), "--out", "run", "--dry-run")
    if found == len(lines):
        stage.works(*call)
    else:
        stage.refused(2, *call)


def _expected(caption: str) -> str | None:
    """What docs/data.md says of a caption: refused, or the text without marks of layout; by Python's own tables."""
    kept = ""
    for character in caption:
        code, category = ord(character), unicodedata.category(character)
        never = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF or category == "Cs"
        if never or (category == "Cc" and not character.isspace()):
            return None
        layout = code in (0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF) or 0x202A <= code <= 0x202E
        if not (layout or 0x2060 <= code <= 0x206F or 0xFFF9 <= code <= 0xFFFB):
            kept += character
    return _folded(kept)


def captions(stage: Stage) -> None:
    """Characters of every category of Unicode: kept, left out or refused by one rule, whoever reads them."""
    for name in ("tiny", "recipe.py"):
        stage.copy(name)
    wanted = stage.turn(["Cf", "Cc", "Co", "Cn", "Mn", "So", "Zs", "Lo", "any", "edges", "Sk", "Zl"])
    pool = [c for c in map(chr, range(0x110000)) if wanted == "any" or unicodedata.category(c) == wanted]
    pool = [c for c in pool if unicodedata.category(c) != "Cs"]
    if wanted == "edges":
        pool = [
            chr(c)
            for c in (
                0,
                9,
                13,
                31,
                127,
                0x85,
                0x9F,
                0xA0,
                0xAD,
                0x200C,
                0x200D,
                0x2028,
                0xFDD0,
                0xFFFE,
                0xE0067,
                0x10FFFF,
                0xFEFF,
            )
        ]
    rows, expected, bad = [], [], 0
    for i in range(12):
        stage.image(f"set/{i}.png", size=(16, 16))
        plain = i < 2  # a set of nothing good is refused in any case
        caption = f"a red dog {i}" if plain else f"a{''.join(stage.random.choices(pool, k=2))}b dog {i}"
        rows.append({"image_path": f"{i}.png", "captions": [caption], "split": "val" if i == 0 else "train"})
        meant = _expected(caption)
        bad += meant is None
        expected += [] if meant is None else [meant]
    (stage.folder / "set" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, done = _good(stage, "set")
    expect(found == 12 - bad, f"{found} good captions, {12 - bad} are: {rows}\n{done}")
    if found:
        made = _imported(stage, "set")
        expect(made == sorted(expected), f"captions {made!r}, not {sorted(expected)!r}")
    call = ("train", *words(), "--out", "run", "--dry-run")
    stage.refused(2, *call) if bad else stage.works(*call)


def tars(stage: Stage) -> None:
    """Tars of samples with odd members among them: exactly the good ones count."""
    count = stage.random.randint(3, 6)
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    for i in range(count):
        data = stage.image(f"{i}.png", size=(16, 16)).read_bytes()
        members += [_member(f"{i:03d}.png", data), _member(f"{i:03d}.txt", f"a dog {i}".encode())]
    form = stage.turn(
        [
            "plain",
            "hidden",
            "unsorted",
            "outside",
            "link",
            "device",
            "folder",
            "no caption",
            "no image",
            "two",
            "bad bytes",
            "cut",
            "pax",
        ]
    )
    expected = count
    if form == "hidden":
        members = [
            each
            for info, data in members
            for each in (_member(f"._{info.name}", b"\0\5\26\7" + data[:20]), (info, data))
        ]
        members.append(_member("__MACOSX/._000.png", b"x"))
    elif form == "unsorted":
        stage.random.shuffle(members)
    elif form == "outside":
        members.append(_member("../../evil.png", members[0][1]))
    elif form in ("link", "device"):
        info = tarfile.TarInfo("zzz.png")
        info.type = tarfile.SYMTYPE if form == "link" else tarfile.CHRTYPE
        info.linkname = "/etc/passwd"
        members += [(info, b""), _member("zzz.txt", b"a cat")]
    elif form == "folder":
        info = tarfile.TarInfo("zzz")
        info.type = tarfile.DIRTYPE
        members.append((info, b""))
    elif form == "no caption":
        members.append(_member("zzz.png", stage.image("z.png").read_bytes()))
    elif form == "no image":
        members.append(_member("zzz.txt", b"a cat"))
    elif form == "two":  # the second is a copy by its name
        expected += 1
        members += [
            _member("zzz.png", stage.image("z.png").read_bytes()),
            _member("zzz.jpg", stage.image("z.jpg").read_bytes()),
            _member("zzz.txt", b"a cat"),
        ]
    elif form == "bad bytes":
        members += [_member("zzz.png", stage.random.randbytes(90)), _member("zzz.txt", b"a cat")]
    elif form == "pax":
        members[0][0].pax_headers = {
            stage.pick(["comment", "path\0x", "\ud800"[:0] + "x" * 300]): "y" * stage.pick([5, 70_000])
        }
    with tarfile.open(stage.folder / "s.tar", "w", format=stage.pick([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as file:
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    path = stage.folder / "s.tar"
    if form == "cut":
        path.write_bytes(path.read_bytes()[: 512 + stage.random.randrange(900)])
        stage.run("data", "check", "s.tar")
        return
    if form == "unsorted":
        done = stage.run("data", "check", "s.tar", "--max-bad-fraction", "1", "--json")
        good = json.loads(done.out)["good"] if done.code == 0 else 0
        stems = [info.name[:3] for info, _ in members]
        together = sum(stems.index(stem) + 1 == len(stems) - 1 - stems[::-1].index(stem) for stem in set(stems))
        said = "sort" in done.err or "sort" in done.out.decode()
        expect(
            good in (together, count) and (good == count or said),
            f"{good} of {together}, or no word of sorting:\n{done}",
        )
        return
    found, done = _good(stage, "s.tar")
    expect(found == expected, f"{found} good, {expected} are:\n{done}")
    made = _imported(stage, "s.tar")
    expect(made == sorted([f"a dog {i}" for i in range(count)] + ["a cat"] * (form == "two")), f"captions {made}")


def _member(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


NAMES = (
    b"\xff\xfe",
    b"a\nb",
    b"\x1b[31m",
    b"-x",
    b"--help",
    b" ",
    b"a b",
    b"'q'",
    b'"',
    b"%s",
    b"{x}",
    b"*",
    b"\xe7\x8c\xab",
    b"\xc3",
    b"a\tb",
    b"\x7f",
    b"=cmd",
    b"#",
)


def names(stage: Stage) -> None:
    """Names that are no UTF-8 or hold control characters: every file is done, and nothing of them reaches a terminal."""
    stage.copy("tiny")
    first = stage.turn(NAMES)
    chosen = {first, *stage.random.sample(NAMES, 3)}
    for i, name in enumerate(sorted(chosen)):
        stage.image(b"in/" + name + b".png", size=(16, 16))
        (stage.folder / "in" / os.fsdecode(name + b".txt")).write_text(f"a dog {i}")
    if stage.random.random() < 0.5:
        (stage.folder / "in" / os.fsdecode(first + b"0.png")).write_bytes(b"no image")
        chosen.add(first + b"0")
    whole = len([path for path in (stage.folder / "in").glob("*.png") if path.stat().st_size > 20])
    encoded = stage.run("tokenizer", "encode", "in", "-o", "bits", "--tokenizer", "tiny")
    expect(len([*(stage.folder / "bits").iterdir()]) == whole, f"not every image has bits:\n{encoded}")
    expect(encoded.code == (0 if whole == len(chosen) else 1), f"another exit code:\n{encoded}")
    found, done = _good(stage, "in")
    plain = stage.works("data", "check", "in", "--max-bad-fraction", "1")
    expect(found == whole, f"{found} good, {whole} are:\n{done}")
    imported = _imported(stage, "in")
    expect(len(imported) == whole, f"{len(imported)} imported, {whole} are good")
    for each in (encoded, plain):
        shown = each.out.decode("utf-8", "replace") + each.err
        expect("\x1b" not in shown and "\x7f" not in shown, f"a control character is printed:\n{each}")


# Images of every sort

Made = tuple[bytes, bool | None, tuple[int, int]]


def _bytes(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _odd_image(stage: Stage, form: str) -> Made:
    """Content, whether it is sound (None: who knows), and the size that people see."""
    width, height = stage.random.randint(17, 40), stage.random.randint(17, 40)
    image = Image.frombytes("RGB", (width, height), stage.random.randbytes(3 * width * height))
    if form == "orientation":
        exif, turned = Image.Exif(), stage.random.randint(5, 8)
        exif[0x0112] = turned
        exif[0x011A] = stage.random.choice([0.0, 72.0, 1e9])
        exif[0x010F] = stage.random.choice(["maker", "\xff\xff"])
        return _bytes(image, stage.random.choice(["JPEG", "WEBP"]), exif=exif.tobytes()), True, (height, width)
    if form == "odd exif":
        data = b"Exif\0\0" + stage.random.choice(
            [
                b"",
                b"MM\0*",
                b"II*\0\xff\xff\xff\xff",
                stage.random.randbytes(40),
                b"MM\0*\0\0\0\x08\xff\xff" + bytes(30),
            ]
        )
        return _bytes(image, "JPEG", exif=data), True, (width, height)
    if form == "mpo":
        return _bytes(image, "MPO", save_all=True, append_images=[image.resize((9, 9))]), True, (width, height)
    if form in ("truncated", "zeroed", "flipped"):
        data = bytearray(_bytes(image, stage.random.choice(["PNG", "JPEG", "WEBP", "TIFF", "BMP"])))
        place = stage.random.randrange(10, len(data))
        if form == "truncated":
            return bytes(data[:place]), None, (width, height)
        if form == "zeroed":
            return bytes(data[:place]) + bytes(len(data) - place), None, (width, height)
        data[place] ^= 1 << stage.random.randrange(8)
        return bytes(data), None, (width, height)
    if form == "mode":
        mode = stage.random.choice(["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
        made = (
            Image.new("I;16", (width, height), 5000)
            if mode == "I;16"
            else image.convert("RGB").convert(mode if mode != "LA" else "L")
        )
        container = "TIFF" if mode == "CMYK" else "PNG"
        return _bytes(made, container), True, (width, height)
    if form == "palette":
        made = image.quantize(16)
        return _bytes(made, "PNG", transparency=bytes(range(16))), True, (width, height)
    if form == "format":
        container = stage.random.choice(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
        return _bytes(image, container), True, (width, height)
    if form == "animated":
        frames = [image.rotate(90 * i) for i in range(3)]
        return (
            _bytes(image, stage.random.choice(["GIF", "WEBP", "PNG", "TIFF"]), save_all=True, append_images=frames),
            False,
            (width, height),
        )
    if form == "bomb":
        data = bytearray(_bytes(image, "PNG"))
        data[16:24] = (60_000).to_bytes(4, "big") * 2
        return bytes(data), False, (width, height)
    return (
        stage.random.choice([b"", b"\x89PNG", b"<svg/>", b"%PDF-1.7", b"GIF89a", b"<html>", b"\xff\xd8\xff"]),
        False,
        (width, height),
    )


IMAGES = (
    "orientation",
    "odd exif",
    "mpo",
    "truncated",
    "zeroed",
    "mode",
    "palette",
    "format",
    "animated",
    "bomb",
    "flipped",
    "none",
)


def images(stage: Stage) -> None:
    """Images of every sort: check, import, the tokenizer and evaluation agree, and sound ones are taken as people see them."""
    stage.copy("tiny")
    form = stage.turn(IMAGES)
    data, sound, size = _odd_image(stage, form)
    (stage.folder / "in").mkdir()
    suffix = stage.pick(["png", "jpg", "webp"])  # the content tells, not the name
    (stage.folder / "in" / f"odd.{suffix}").write_bytes(data)
    (stage.folder / "in" / "odd.txt").write_text("a cat")
    stage.image("in/plain.png", size=(30, 20))
    (stage.folder / "in" / "plain.txt").write_text("a dog")
    stage.image("in/more.webp", size=(20, 30))
    (stage.folder / "in" / "more.txt").write_text("a bird")
    found, done = _good(stage, "in")
    expect(sound is None or found == 2 + sound, f"{form}: {found} of 3 are good:\n{done}")
    imported = _imported(stage, "in")
    expect(len(imported) == found, f"{form}: check finds {found}, import {len(imported)}:\n{done}")
    encoded = stage.run("tokenizer", "encode", "in", "-o", "bits", "--tokenizer", "tiny")
    bits = sorted((stage.folder / "bits").iterdir())
    expect(len(bits) == found, f"{form}: check finds {found} good, the tokenizer {len(bits)}:\n{done}\n{encoded}")
    expect(encoded.code == (0 if found == 3 else 1), f"{form}: another exit code:\n{encoded}")
    call = ("evaluate", "reconstruction", "in", "-o", "report", "--tokenizer", "tiny", "--against", "none")
    evaluated = stage.run(*call, "--size", "16")
    expect(evaluated.code == (0 if found == 3 else 1), f"{form}: evaluation gives another exit code:\n{evaluated}")
    if found == 3 and sound:
        told = json.loads(stage.works("tokenizer", "info", "bits/odd.bits", "--json").out)
        expect((told["width"], told["height"]) == size, f"{form}: {told['width']}x{told['height']}, not {size}")


KINDS = {
    "tables": Kind(30, tables, quick=True),
    "schemas": Kind(24, schemas, quick=True),
    "captions": Kind(16, captions),
    "tars": Kind(18, tars),
    "names": Kind(12, names, quick=True),
    "images": Kind(24, images),
}
