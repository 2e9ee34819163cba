"""Captioned samples: tables, samples.jsonl, captions, tars and names, with a known number of good ones."""

import csv
import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Callable
from typing import Any

from tests.support.careless.kind import Kind
from tests.support.careless.stage import Done, Stage, expect
from tests.support.careless.training import words

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


def count_good(stage: Stage, source: str, *more: str) -> tuple[int, Done]:
    """How many samples `data check` calls good."""
    done = stage.works("data", "check", source, "--max-bad-fraction", "1", "--json", *more)
    return json.loads(done.out)["accepted"], done


def import_captions(stage: Stage, source: str, *more: str) -> list[str]:
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
    found, done = count_good(stage, f"t.{suffix}")
    expect(found == len(expected), f"{found} good, {len(expected)} are:\n{done}\n{rows}")
    captions = import_captions(stage, f"t.{suffix}")
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
    None,
    True,
    5,
    -1.5,
    "",
    " ",
    "a cat",
    [],
    [""],
    [[]],
    {},
    {"a": "b"},
    [None],
    [5],
    ["a", 5],
    "x" * 5000,
    "a\0b",
    "\ud800",
    ["\u200b"],
    "../0.png",
    "/nowhere.png",
    "val",
    "../val",
    1e309,
    "nan",
    "0",
    "1.5",
    ["a cat", "a cat"],
)
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
    found, done = count_good(stage, "set")
    indexed = stage.works("data", "index", "set", "index", "--max-bad-fraction", "1", "--json")
    expect(
        json.loads(indexed.out)["accepted"] == found,
        f"check finds {found} good ones, and index others:\n{done}\n{indexed}",
    )
    imported = len({*import_captions(stage, "set")}) and len(
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
        if never or (category == "Cc" and character not in "\t\n\v\f\r\x85"):
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
    found, done = count_good(stage, "set")
    expect(found == 12 - bad, f"{found} good captions, {12 - bad} are: {rows}\n{done}")
    if found:
        made = import_captions(stage, "set")
        expect(made == sorted(expected), f"captions {made!r}, not {sorted(expected)!r}")
    call = ("train", *words(), "--out", "run", "--dry-run")
    stage.refused(2, *call) if bad else stage.works(*call)


Members = list[tuple[tarfile.TarInfo, bytes]]


def _hidden(stage: Stage, members: Members) -> Members:
    twins = [(_member(f"._{info.name}", b"\0\5\26\7" + data[:20]), (info, data)) for info, data in members]
    return [*(each for pair in twins for each in pair), _member("__MACOSX/._000.png", b"x")]


def _special(kind: bytes) -> Callable[[Stage, Members], Members]:
    def add(stage: Stage, members: Members) -> Members:
        info = tarfile.TarInfo("zzz" if kind == tarfile.DIRTYPE else "zzz.png")
        info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
        return [*members, (info, b""), *([] if kind == tarfile.DIRTYPE else [_member("zzz.txt", b"a cat")])]

    return add


def _extended(stage: Stage, members: Members) -> Members:
    members[0][0].pax_headers = {stage.pick(["comment", "x" * 300, "bitvar.x"]): "y" * stage.pick([5, 70_000])}
    return members


def _two(stage: Stage, members: Members) -> Members:
    both = [_member(name, stage.image(name).read_bytes()) for name in ("zzz.png", "zzz.jpg")]
    return [*members, *both, _member("zzz.txt", b"a cat")]


TARS: dict[str, Callable[[Stage, Members], Members]] = {
    "plain": lambda stage, members: members,
    "hidden": _hidden,
    "outside": lambda stage, members: [*members, _member("../../evil.png", members[0][1])],
    "link": _special(tarfile.SYMTYPE),
    "device": _special(tarfile.CHRTYPE),
    "pipe": _special(tarfile.FIFOTYPE),
    "folder": _special(tarfile.DIRTYPE),
    "no caption": lambda stage, members: [*members, _member("zzz.png", stage.image("z.png").read_bytes())],
    "no image": lambda stage, members: [*members, _member("zzz.txt", b"a cat")],
    "two": _two,
    "bad bytes": lambda stage, members: [
        *members,
        _member("z.png", stage.random.randbytes(90)),
        _member("z.txt", b"a"),
    ],
    "pax": _extended,
    "cut": lambda stage, members: members,
    "unsorted": lambda stage, members: stage.random.sample(members, len(members)),
}
"""What is done to the members of a tar. None of it makes a good sample bad, but for the last two."""


def tars(stage: Stage) -> None:
    """Tars of samples with odd members among them: exactly the good ones count."""
    count = stage.random.randint(3, 6)
    members: Members = []
    for i in range(count):
        data = stage.image(f"{i}.png", size=(16, 16)).read_bytes()
        members += [_member(f"{i:03d}.png", data), _member(f"{i:03d}.txt", f"a dog {i}".encode())]
    form = stage.turn(TARS)
    members = TARS[form](stage, members)
    path = stage.folder / "s.tar"
    with tarfile.open(path, "w", format=stage.pick([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as file:
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    if form == "cut":
        path.write_bytes(path.read_bytes()[: 512 + stage.random.randrange(900)])
        stage.run("data", "check", "s.tar")
    elif form == "unsorted":
        _check_unsorted(stage, members, count)
    else:
        expected = sorted([f"a dog {i}" for i in range(count)] + ["a cat"] * (form == "two"))  # of two, one is a copy
        found, done = count_good(stage, "s.tar")
        expect(found == len(expected), f"{found} good, {len(expected)} are:\n{done}")
        made = import_captions(stage, "s.tar")
        expect(made == expected, f"captions {made}")


def _check_unsorted(stage: Stage, members: Members, count: int) -> None:
    done = stage.run("data", "check", "s.tar", "--max-bad-fraction", "1", "--json")
    good = json.loads(done.out)["accepted"] if done.code == 0 else 0
    stems = [info.name[:3] for info, _ in members]
    together = sum(stems.index(stem) + 1 == len(stems) - 1 - stems[::-1].index(stem) for stem in set(stems))
    said = "sort" in done.err or "sort" in done.out.decode()
    expect(good in (together, count) and (good == count or said), f"{good} of {together}, or no word of it:\n{done}")


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
    """Names that are no UTF-8 or hold control characters: every file is done, and none reaches a terminal."""
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
    found, done = count_good(stage, "in")
    plain = stage.works("data", "check", "in", "--max-bad-fraction", "1")
    expect(found == whole, f"{found} good, {whole} are:\n{done}")
    imported = import_captions(stage, "in")
    expect(len(imported) == whole, f"{len(imported)} imported, {whole} are good")
    for each in (encoded, plain):
        shown = each.out.decode("utf-8", "replace") + each.err
        expect("\x1b" not in shown and "\x7f" not in shown, f"a control character is printed:\n{each}")


KINDS = {
    "tables": Kind(30, tables, quick=True),
    "schemas": Kind(24, schemas, quick=True),
    "captions": Kind(16, captions),
    "tars": Kind(18, tars),
    "names": Kind(12, names),
}
