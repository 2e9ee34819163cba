"""What is done is told by content, one broken file keeps no other from being done, and odd names are printed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.cli import main as cli
from bitvar.cli.echo import printable, say, show_path
from bitvar.codec import BitFile, ImageCodec
from bitvar.codec.bitfile import Origin
from bitvar.codec.folders import Failed, decode_folder, encode_files, encode_folder
from bitvar.codec.reading import MAX_PIXELS_PER_BIT, read_bitfile
from bitvar.errors import ComputationError, UsageError
from bitvar.imaging.pixels import to_uint8
from bitvar.training.export import save_tokenizer
from bitvar.weights.identity import identify
from tests.support.tiny import tiny_tokenizer

SIZE = (20, 16)


@pytest.fixture
def tiny() -> ImageCodec:
    tokenizer = tiny_tokenizer()
    return ImageCodec(tokenizer, identify("tiny", tokenizer.state_dict()))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_tokenizer(tiny_tokenizer(), tmp_path / "tokenizer", name="tiny")
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", SIZE, colour).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(verb: str, *arguments: str | Path) -> tuple[int, str, str]:
        command = ["bitvar", "tokenizer", verb, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command + (["--tokenizer", "tokenizer"] if verb != "info" else []))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stop.value.code or 0), captured.out, captured.err

    return run


# Done is told by content


def test_another_image_to_the_same_file_is_encoded(bitvar: Any, place: Path) -> None:
    tiny = ImageCodec.from_pretrained(place / "tokenizer", device="cpu")
    assert bitvar("encode", "red.png", "-o", "x.bits")[0] == 0
    red = (place / "x.bits").read_bytes()
    code, out, _ = bitvar("encode", "red.png", "-o", "x.bits")
    assert (code, "unchanged" in out) == (0, True)
    os.utime(place / "blue.png", (1, 1))  # long before its bits
    code, out, _ = bitvar("encode", "blue.png", "-o", "x.bits")
    assert (code, "unchanged" in out, "replaced other bits" in out) == (0, False, True)
    blue = (place / "x.bits").read_bytes()
    assert read_bitfile(blue) == tiny.encode(place / "blue.png") != read_bitfile(red)
    assert bitvar("encode", "red.png", "-o", "x.bits")[0] == 0
    assert (place / "x.bits").read_bytes() == red


def test_another_image_in_the_same_folder_is_encoded(bitvar: Any, place: Path) -> None:
    for folder, name in (("one", "red"), ("two", "blue")):
        (place / folder).mkdir()
        (place / folder / "a.png").write_bytes((place / f"{name}.png").read_bytes())
        os.utime(place / folder / "a.png", (1, 1))
    assert bitvar("encode", "one", "-o", "bits")[0] == 0
    one = (place / "bits" / "a.bits").read_bytes()
    code, out, _ = bitvar("encode", "two", "-o", "bits")
    assert (code, "unchanged" in out) == (0, False)
    assert (place / "bits" / "a.bits").read_bytes() != one


@pytest.mark.parametrize("change", [("--scales", 2), ("--refine-steps", 3), ("--dtype", "bf16")], ids=str)
def test_other_settings_are_encoded_and_the_same_are_not(bitvar: Any, place: Path, change: tuple[str, Any]) -> None:
    wanted = [("encode", "red.png", "-o", "x.bits"), ("encode", "red.png", "-o", "x.bits", *change)]
    for arguments in (*wanted, wanted[0]):
        code, out, err = bitvar(*arguments)
        assert (code, "unchanged" in out) == (0, False), err
        code, out, _ = bitvar(*arguments)
        assert (code, "unchanged" in out) == (0, True)
    assert bitvar("encode", "red.png", "-o", "x.bits", "--tile", 64)[1].count("unchanged") == 1


def test_refinement_by_all_scales_is_told_from_refinement_by_two(bitvar: Any, place: Path) -> None:
    assert bitvar("encode", "red.png", "-o", "x.bits", "--refine-steps", 3)[0] == 0
    (place / "x.bits").write_bytes(read_bitfile(place / "x.bits").first(2).to_bytes())
    code, out, _ = bitvar("encode", "red.png", "-o", "x.bits", "--refine-steps", 3, "--scales", 2)
    assert (code, "unchanged" in out) == (0, False)


def test_the_origin_is_in_the_file_and_version_1_is_read(bitvar: Any, place: Path) -> None:
    tiny = ImageCodec.from_pretrained(place / "tokenizer", device="cpu")
    assert bitvar("encode", "red.png", "-o", "x.bits")[0] == 0
    new = read_bitfile(place / "x.bits")
    facts = json.loads(bitvar("info", "x.bits", "--json")[1])
    digest = hashlib.sha256((place / "red.png").read_bytes()).hexdigest()
    assert (facts["source_sha256"], facts["refine_steps"], facts["precision"]) == (digest, 0, "fp32")
    assert new.origin == Origin(digest)
    old = BitFile(new.header, new.payloads).to_bytes()
    assert old[8:10] == b"\x01\0" and (place / "x.bits").read_bytes()[8:10] == b"\x02\0"
    assert len((place / "x.bits").read_bytes()) == len(old) + 36
    assert BitFile.from_bytes(old) == new and BitFile.from_bytes(old).origin is None
    assert np.array_equal(np.asarray(tiny.decode(old)), np.asarray(tiny.decode(new)))
    (place / "x.bits").write_bytes(old)  # nobody knows of what: made again
    assert "unchanged" not in bitvar("encode", "red.png", "-o", "x.bits")[1]


def test_a_flipped_bit_of_the_origin_is_found(bitvar: Any, place: Path) -> None:
    assert bitvar("encode", "red.png", "-o", "x.bits")[0] == 0
    data = (place / "x.bits").read_bytes()
    end = 14 + int.from_bytes(data[10:14], "little")
    for at in range(end - 36, end):
        with pytest.raises(UsageError, match="checksum of its header"):
            BitFile.from_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


# What isn't ours


def test_named_files_are_replaced_and_others_in_folders_are_not(bitvar: Any, place: Path) -> None:
    (place / "x.bits").write_text("my notes")
    assert bitvar("encode", "red.png", "-o", "x.bits")[0] == 0
    (place / "bits").mkdir()
    (place / "bits" / "red.bits").write_text("my notes")
    code, _, err = bitvar("encode", "red.png", "blue.png", "-o", "bits")
    assert code == 1
    assert "red.bits is not replaced" in err and "--overwrite" not in err.splitlines()[0]
    assert (place / "bits" / "red.bits").read_text() == "my notes"
    assert read_bitfile(place / "bits" / "blue.bits").is_whole
    code, _, err = bitvar("encode", "red.png", "blue.png", "-o", "bits", "--overwrite")
    assert code == 0, err

    before = (place / "red.png").read_bytes()
    code, _, err = bitvar("decode", "bits", "-o", ".")
    assert code == 1
    assert err.count("is not replaced") == 2
    assert (place / "red.png").read_bytes() == before
    assert bitvar("decode", "x.bits", "-o", "red.png")[0] == 0  # named
    assert (place / "red.png").read_bytes() != before
    code, _, err = bitvar("decode", "x.bits", "-o", "x.bits")
    assert code == 2


def test_a_file_is_not_replaced_by_what_is_made_of_it(bitvar: Any, place: Path) -> None:
    assert bitvar("encode", "red.png", "-o", "x.bits")[0] == 0
    (place / "x.bits").rename(place / "x.png")
    code, _, err = bitvar("decode", "x.png", "-o", "x.png")
    assert code == 2
    assert "it is the input file" in err


# One broken file


def broken(place: Path) -> Path:
    folder = place / "in"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", SIZE, (i, 0, 0)).save(folder / f"{i}.png")
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:50])
    (folder / "2b.jpg").write_bytes(b"no image")
    os.mkfifo(folder / "3b.png")
    (folder / ".hidden.png").write_bytes(b"x")
    return folder


def test_the_rest_of_a_folder_is_encoded_and_decoded(bitvar: Any, place: Path) -> None:
    folder = broken(place)
    code, out, err = bitvar("encode", folder, "-o", "bits")
    assert code == 1
    assert sorted(path.name for path in (place / "bits").iterdir()) == ["0.bits", "2.bits", "3.bits"]
    for name in ("1.png", "2b.jpg", "3b.png"):
        assert err.count(f"left out: {folder / name}: The image {folder / name} can't be used.") == 1
    assert "3 of 6 files failed" in err
    assert "1 hidden" in err
    code, out, _ = bitvar("encode", folder, "-o", "bits")
    assert (code, out.count("unchanged")) == (1, 3)
    (place / "bits" / "2.bits").write_bytes(b"no bits")
    code, out, err = bitvar("decode", "bits", "-o", "out")
    assert (code, out.count("\n")) == (1, 2)
    assert "2.bits: " in err and "1 of 3 files failed" in err
    (place / "bits" / "2.bits").unlink()
    assert bitvar("decode", "bits", "-o", "out")[0] == 0


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_from_python_all_others_are_done_before_it_is_said(tiny: ImageCodec, place: Path, batch_size: int) -> None:
    folder, seen = broken(place), []
    with pytest.raises(UsageError, match=r"3 of 6 files failed(?s:.*)1\.png can't be used(?s:.*)And 2 more"):
        encode_folder(tiny, folder, place / "bits", batch_size=batch_size, log=seen.append)
    assert [each.source.name for each in seen if isinstance(each, Failed)] == ["1.png", "2b.jpg", "3b.png"]
    assert len(list((place / "bits").iterdir())) == 3
    pairs = [(folder / "1.png", place / "a.bits"), (folder / "0.png", place / "b.bits")]
    assert [type(each).__name__ for each in encode_files(tiny, pairs)] == ["Failed", "Done"]


def test_one_image_alone_is_refused_as_before(bitvar: Any, place: Path) -> None:
    (place / "a.png").write_bytes(b"no image")
    code, out, err = bitvar("encode", "a.png", "-o", "a.bits")
    assert (code, out) == (2, "")
    assert "a.png can't be used" in err and "why:" in err and "do:" in err


# Names


def test_names_that_are_no_utf8_are_printed_escaped(bitvar: Any, place: Path) -> None:
    folder = place / "in"
    folder.mkdir()
    names = [b"a\xff.png", b"b\nc.png", b"d\x1b[31m.png", "e\u732b.png".encode(), b"f.png", b"z\xfe.jpg"]
    for name in names:
        path = folder / os.fsdecode(name)
        if name.endswith(b"png"):
            Image.new("RGB", SIZE, (9, 9, 9)).save(path, "PNG")
        else:
            Path(path).write_bytes(b"no image")
    code, out, err = bitvar("encode", folder, "-o", "bits")
    assert code == 1
    assert len(list((place / "bits").iterdir())) == 5
    for shown in (r"a\xff.bits", r"b\nc.bits", r"d\x1b[31m.bits", "e\u732b.bits"):
        assert shown in out
    assert r"z\xfe.jpg" in err
    code, out, err = bitvar("decode", "bits", "-o", "out")
    assert (code, out.count("\n")) == (0, 5), err
    code, _, err = bitvar("encode", os.fsdecode(b"gone\xff.png"), "-o", "a.bits")
    assert code == 2
    assert r"gone\xff.png" in err


def test_text_is_escaped_for_any_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("a\udcffb\ud800\x07\x9b\u732b\n\tc") == "a\\xffb\\ud800\\x07\\x9b\u732b\n\tc"
    assert printable("\u732b", "ascii") == "\\u732b"
    assert printable("\u732b", "nobody-knows") == "\\u732b"
    assert show_path("a\nb") == "a\\nb"
    say("x\udcff")
    say("y\udcfe", err=True)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("x\\xff\n", "y\\xfe\n")


# Numbers that are none


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("tile", [1024, 8])
def test_broken_weights_give_an_error_and_no_file(place: Path, part: str, value: float, tile: int) -> None:
    sound = tiny_tokenizer()
    bits = ImageCodec(sound, identify("tiny", sound.state_dict())).encode(place / "red.png")
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        getattr(tokenizer, part).conv_out.weight[0, 0] = value
    codec = ImageCodec(tokenizer, identify("tiny", sound.state_dict()), tile=tile)
    with pytest.raises(ComputationError, match="fp32 on cpu"):
        if part == "encoder":
            encode_folder(codec, place, place / "bits")
        else:
            codec.decode(bits)
    assert not list(place.rglob("*.bits"))


def test_pixels_that_are_no_numbers_are_no_bytes() -> None:
    with pytest.raises(ComputationError):
        to_uint8(torch.tensor([[[[0.0, float("nan")]]]]))
    with pytest.raises(ComputationError):
        tiny_tokenizer().decode(torch.full((1, 4, 2, 2), torch.nan))


# Claims


def claim(width: int, height: int, codec: ImageCodec, scales: int = 1) -> bytes:
    header = codec.header_for(width, height)
    return BitFile(header, tuple(bytes(length) for length in header.payload_sizes()[:scales])).to_bytes()


def test_a_hundred_bytes_that_claim_fifty_megapixels_are_refused_at_once(tiny: ImageCodec, tmp_path: Path) -> None:
    data = claim(8000, 6000, tiny)
    assert len(data) < 200
    with pytest.raises(
        UsageError, match=r"declares 8000x6000 pixels(?s:.*)scales 1 to 1 of \d+, 4 bits(?s:.*)--scales 1"
    ):
        tiny.decode(data)
    (tmp_path / "a.bits").write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.bits declares"):
        decode_folder(tiny, tmp_path, tmp_path / "out")
    small = tiny.decode(claim(80, 60, tiny))  # a small one may
    assert small.size == (80, 60)


def test_declared_pixels_are_checked_unless_scales_are_named(tiny: ImageCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitvar.codec.reading.MAX_UNCHECKED_PIXELS", 1000)
    wide = claim(120, 90, tiny)
    with pytest.raises(UsageError, match="declares 120x90 pixels"):
        tiny.decode(wide)
    with pytest.raises(UsageError, match="declares 120x90 pixels"):
        list(tiny.decode_many([wide]))
    assert tiny.decode(wide, scales=1).size == (120, 90)  # asked for
    whole = BitFile.from_bytes(claim(120, 90, tiny, scales=len(tiny.header_for(120, 90).grids)))
    enough = next(file for file in map(whole.first, range(1, 20)) if MAX_PIXELS_PER_BIT * file.num_bits >= 120 * 90)
    assert not enough.is_whole
    assert tiny.decode(enough).size == (120, 90)


# Misuse

MISUSE = """
import numpy as np
from PIL import Image
from pathlib import Path
from bitvar import ImageCodec
from bitvar.codec import BitFile, decode_folder, encode_folder
from bitvar.errors import UsageError
codec = ImageCodec.from_pretrained(device="cpu")
nan = Image.fromarray(np.full((32, 32), np.nan, np.float32))
image, array = Image.new("RGB", (32, 32)), np.zeros((32, 32, 3), np.uint8)
file = codec.encode(image)
calls = {}
odd = {"None": None, "5": 5, "bytes": b"abc", "array": array, "floats": array / 255.0, "surrogate": "a\\ud800.png"}
odd |= {"zero byte": "a\\0.png", "empty": "", "list": [image], "NaN": nan, "object": object()}
for name, bad in odd.items():
    calls["encode " + name] = lambda bad=bad: codec.encode(bad)
    calls["decode " + name] = lambda bad=bad: codec.decode(bad)
    calls["encode_folder " + name] = lambda bad=bad: encode_folder(codec, bad, "out")
    calls["decode_folder " + name] = lambda bad=bad: decode_folder(codec, "in", bad)
    calls["encode_batch " + name] = lambda bad=bad: codec.encode_batch(bad)
for name, bad in {"None": None, "5": 5, "path": "a.png", "bytes": b"abc", "image": image, "file": file}.items():
    calls["encode_many " + name] = lambda bad=bad: list(codec.encode_many(bad))
    calls["decode_many " + name] = lambda bad=bad: list(codec.decode_many(bad))
for bad in (0, -64, 1.5, "x", None, True):
    calls[f"tile {bad}"] = lambda bad=bad: ImageCodec(codec.tokenizer, codec.identity, tile=bad)
    calls[f"loaded tile {bad}"] = lambda bad=bad: ImageCodec.from_pretrained(tile=bad)
    if bad is not None:
        calls[f"scales {bad}"] = lambda bad=bad: codec.encode(image, scales=bad)
        calls[f"decoded scales {bad}"] = lambda bad=bad: codec.decode(file, scales=bad)
    if bad != 0:
        calls[f"refine_steps {bad}"] = lambda bad=bad: codec.encode(image, refine_steps=bad)
    calls[f"batch {bad}"] = lambda bad=bad: list(codec.encode_many([image], batch_size=bad))
    calls[f"width {bad}"] = lambda bad=bad: codec.header_for(bad, 32)
calls["refine_steps 10**9"] = lambda: codec.encode(image, refine_steps=10**9)
calls["scales 9"] = lambda: codec.encode(image, scales=99)
calls["no tokenizer"] = lambda: ImageCodec(None, codec.identity)
calls["model 5"] = lambda: ImageCodec.from_pretrained(5)
calls["content None"] = lambda: BitFile.from_bytes(None)
calls["wrong payload"] = lambda: BitFile(file.header, (b"",)).to_bytes()
for name, call in calls.items():
    try:
        call()
    except UsageError as error:
        lines = str(error).splitlines()
        if len(lines) != 3 or not lines[1].startswith("  why: ") or not lines[2].startswith("  do:  "):
            print(name, "->", str(error))
    except BaseException as error:
        print(name, "->", type(error).__name__, error)
    else:
        print(name, "-> taken")
print("checked", len(calls))
"""


def test_misuse_from_python_is_refused_in_three_lines(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    run = subprocess.run([sys.executable, "-c", MISUSE], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("checked 1"), run.stdout
