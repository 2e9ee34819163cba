"""The tokenizer's files: outputs that are there already, bit files that are damaged or claim too much."""

import os
import struct
import zlib

from tests.support.careless.kind import Kind
from tests.support.careless.stage import Stage, expect, pixels, tree

TOKENIZER = ("--tokenizer", "tiny/image_tokenizer")


def _encode(stage: Stage, source: str, target: str, *more: str) -> None:
    stage.works("tokenizer", "encode", source, "-o", target, *TOKENIZER, *more)


def encoded_again(stage: Stage) -> None:
    """An output that is there already, and something changed: what lies there afterwards is as if made afresh."""
    stage.copy("tiny")
    folder = stage.turn([False, True])
    sources = [f"in/{name}.png" for name in "abc"[: 3 if folder else 1]]
    for source in sources:
        stage.image(source)
    given, target, options = ("in", "out", []) if folder else (sources[0], "x.bits", [])
    _encode(stage, given, target)
    what = stage.pick(["image", "older", "same size", "scales", "refine steps", "dtype", "nothing", "cut", "garbage"])
    changed = stage.folder / stage.random.choice(sources)
    there = stage.folder / (f"out/{changed.stem}.bits" if folder else "x.bits")
    if what in ("image", "older", "same size"):
        before = changed.stat()
        stage.image(str(changed.relative_to(stage.folder)), size=pixels(changed)[0] if what == "same size" else None)
        if what == "older":
            os.utime(changed, ns=(0, before.st_mtime_ns - 10**12))
    elif what in ("scales", "refine steps", "dtype"):
        settings = {"scales": ["--scales", "2"], "refine steps": ["--refine-steps", "2"], "dtype": ["--dtype", "bf16"]}
        options = settings[what]
    elif what == "cut":
        there.write_bytes(there.read_bytes()[:-5])
    elif what == "garbage":
        there.write_bytes(b"\x89BITVAR\n" + stage.random.randbytes(30))
    kept = tree(stage.folder)
    _encode(stage, given, target, *options)
    _encode(stage, given, f"fresh/{'' if folder else 'x.bits'}", *options)
    pairs = [(there, stage.folder / "fresh" / there.name)]
    pairs += (
        [(stage.folder / f"out/{name}.bits", stage.folder / f"fresh/{name}.bits") for name in "abc"] if folder else []
    )
    for old, fresh in pairs:
        expect(old.read_bytes() == fresh.read_bytes(), f"after another {what}, {old.name} is not what would be made")
    if what == "nothing":
        expect(kept.items() <= tree(stage.folder).items(), "what was there was touched")


def decoded_again(stage: Stage) -> None:
    """Bits changed under an image that was decoded; images that somebody else made stay in a folder."""
    stage.copy("tiny")
    for name in "ab":
        stage.image(f"in/{name}.png", size=(24, 20))
        _encode(stage, f"in/{name}.png", f"bits/{name}.bits")
    decode = ("tokenizer", "decode", "bits", "-o", "out", *TOKENIZER)
    stage.works(*decode)
    what = stage.turn(["swap", "scales", "foreign", "spoilt"])
    first = stage.folder / "bits" / "a.bits"
    more = []
    if what == "swap":
        times = first.stat()
        first.write_bytes((stage.folder / "bits" / "b.bits").read_bytes())
        os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif what == "scales":
        more = ["--scales", "1"]
    elif what == "spoilt":
        path = stage.folder / "out" / "a.png"
        path.write_bytes(path.read_bytes()[:-30])
    else:
        stage.image("out/a.png", size=(24, 20))
        mine = (stage.folder / "out" / "a.png").read_bytes()
        done = stage.run(*decode)
        expect(done.code == 1, f"it should exit with 1:\n{done}")
        expect((stage.folder / "out" / "a.png").read_bytes() == mine, f"somebody's image is gone:\n{done}")
        return
    stage.works(*decode, *more)
    stage.works("tokenizer", "decode", "bits", "-o", "fresh", *TOKENIZER, *more)
    for name in "ab":
        both = [pixels(stage.folder / place / f"{name}.png") for place in ("out", "fresh")]
        expect(both[0] == both[1], f"after {what}, {name}.png is not what would be made")


def bit_files(stage: Stage) -> None:
    """Bit files cut, altered or claiming: a cut one is coarser and says so; any other is refused."""
    stage.copy("tiny")
    path = stage.copy("image.bits")
    data = path.read_bytes()
    how = stage.turn(["cut", "flip", "grow", "claim", "noise", "scale", "cut", "flip", "header"])
    place = stage.random.randrange(2, len(data))
    info = ("tokenizer", "info", "image.bits")
    decode = ("tokenizer", "decode", "image.bits", "-o", "x.png", *TOKENIZER)
    if how == "cut":
        path.write_bytes(data[:place])
        stage.note(place)
        done = stage.either(2, *decode)
        if done is not None:
            expect("ends after scale" in done.err, f"it does not say that it was cut:\n{done}")
            stage.works(*info)
        return
    if how == "flip":
        data = data[:place] + bytes([data[place] ^ (1 << stage.random.randrange(8))]) + data[place + 1 :]
    elif how == "grow":
        data += stage.random.randbytes(stage.random.randint(1, 20))
    elif how == "noise":
        data = data[:8] + stage.random.randbytes(60)
    elif how == "scale":
        data = data[: place // 2] + data[place:]
    else:
        data = _claim(stage, data)
    path.write_bytes(data)
    stage.refused((2, 3), *decode)
    if how != "claim":
        stage.refused(2, *info)


def _claim(stage: Stage, data: bytes) -> bytes:
    """The same bits under a header that claims otherwise, its checksum right."""
    length = struct.unpack_from("<I", data, 10)[0]
    header = bytearray(data[14 : 14 + length])
    side = stage.pick([7000, 1, 65_535, 2**31, 0])
    struct.pack_into("<II", header, 0, side, side)
    start = data[:14] + bytes(header)
    return start + struct.pack("<I", zlib.crc32(start)) + data[18 + length :]


def broken_among_many(stage: Stage) -> None:
    """Broken files in a folder: the others are done, each is named, and the exit code tells."""
    stage.copy("tiny")
    total, broken = stage.random.randint(3, 5), stage.turn([1, 2, 0])
    for i in range(total):
        stage.image(f"in/{i}.png")
    bad = stage.random.sample(range(total), broken)
    for i in bad:
        path = stage.folder / "in" / f"{i}.png"
        path.write_bytes(stage.random.choice([b"", path.read_bytes()[:60], stage.random.randbytes(50)]))
    done = stage.run("tokenizer", "encode", "in", "-o", "out", *TOKENIZER)
    made = {path.stem for path in (stage.folder / "out").iterdir()}
    expect(made == {str(i) for i in range(total) if i not in bad}, f"made {made}:\n{done}")
    expect(done.code == (1 if broken else 0), f"another exit code:\n{done}")
    expect(all(f"{i}.png" in done.err for i in bad), f"not each is named:\n{done}")


def same_place(stage: Stage) -> None:
    """Two sources for one output, an output that is a source, a folder for a file: refused."""
    stage.copy("tiny")
    stage.image("a.png")
    stage.image("b/a.jpg")
    form = stage.turn(["two", "itself", "wrong suffix", "file for folder"])
    calls = {
        "two": ("encode", "a.png", "b/a.jpg", "-o", "out"),
        "itself": ("encode", "a.png", "-o", "a.png"),
        "wrong suffix": ("encode", "a.png", "-o", f"x{stage.pick(['', '.png', '.bit', '.bits.txt'])}"),
        "file for folder": ("encode", "b", "-o", "a.png"),
    }
    stage.refused(2, "tokenizer", *calls[form], *TOKENIZER)


KINDS = {
    "encoded again": Kind(18, encoded_again, quick=True),
    "decoded again": Kind(8, decoded_again),
    "bit files": Kind(22, bit_files),
    "broken among many": Kind(6, broken_among_many),
    "same place": Kind(4, same_place),
}
