"""Settings inside image files: every record survives every format, and no file can do more than be refused."""

import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from bitvar.errors import UsageError
from bitvar.pipeline.file_names import Target
from bitvar.pipeline.image_files import FORMATS, encode_image, write_image
from bitvar.pipeline.record import MAX_RECORD_BYTES, ImageRecord, read_record

PLAIN: dict[str, Any] = {
    "prompt": "a red dog",
    "seed": 3,
    "width": 64,
    "height": 64,
    "guidance_scale": 1.0,
    "temperature": 0.25,
    "top_k": 0,
    "top_p": 0.0,
}
OLD: dict[str, Any] = PLAIN | {
    "batch_index": 1, "batch_size": 3, "device": "cpu", "dtype": "float32", "enlarge": 1, "model": "icons@e7853a9a622d",
    "model_source": None, "negative_prompt": None, "version": "0.1.0",
}  # fmt: skip
"""What version 0.1.0 wrote into the second of three images."""

numbers = st.floats(0, 100) | st.integers(0, 100)
per_scale = numbers | st.lists(numbers, min_size=1, max_size=14).map(tuple)
words = st.text(min_size=1, max_size=300).filter(lambda text: bool(text.strip()))
seeds = st.integers(0, 2**63 - 1)
sides = st.integers(1, 300)


@st.composite
def records(draw: st.DrawFn) -> ImageRecord:
    values: dict[str, Any] = {
        "prompt": draw(words),
        "negative_prompt": draw(st.none() | words),
        "seed": draw(seeds),
        "width": draw(sides),
        "height": draw(sides),
        "enlarge": draw(st.integers(1, 4)),
        "guidance_scale": draw(per_scale),
        "temperature": draw(per_scale),
        "top_k": draw(st.integers(0, 1_000_000)),
        "top_p": draw(st.floats(0, 1)),
        "model": draw(st.none() | st.text(max_size=100)),
        "model_source": draw(st.none() | st.just("someone/model-2.0")),
        "dtype": draw(st.sampled_from([None, "float32", "bfloat16", "float16"])),
        "device": draw(st.sampled_from([None, "cpu", "cuda"])),
        "version": draw(st.none() | st.just("0.1.0")),
        "watermark": draw(st.none() | st.from_regex(r"[0-9a-f]{16}", fullmatch=True)),
    }
    if draw(st.booleans()):
        values |= {"requested_width": draw(sides), "requested_height": draw(sides), "exact_size": draw(st.booleans())}
    if draw(st.booleans()):
        more = draw(st.lists(seeds, max_size=63))
        values |= {"grid": True, "seeds": (values["seed"], *more)}
    if draw(st.booleans()):
        adapter = {
            "name": "style",
            "weight": draw(st.floats(-9, 9)),
            "source": "a/b",
            "sha256": "0" * 64,
            "fused": False,
        }
        values["lora"] = [adapter]
    return ImageRecord.parse(values, source="the test")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.just("evil/repo"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=8,
)


def png(text: str, **options: Any) -> bytes:
    """A PNG with a text chunk of ours."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("bitvar", text, **options)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=records())
def test_every_record_survives_every_format(tmp_path: Path, suffix: str, record: ImageRecord) -> None:
    """300 records: 75 in each of the four suffixes."""
    path = write_image(Image.new("RGB", (5, 4), "red"), record, Target(tmp_path / f"a{suffix}", named=True))
    assert read_record(path) == record
    assert encode_image(Image.new("RGB", (5, 4), "red"), record, FORMATS[suffix]) == path.read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_altered_settings_are_a_record_or_a_usage_error(tmp_path: Path, data: st.DataObject) -> None:
    values = dict(data.draw(st.sampled_from([PLAIN, OLD, json.loads(data.draw(records()).json_text())])))
    keys = st.sampled_from([*ImageRecord.model_fields, "batch_index", "batch_size"]) | st.text(max_size=12)
    values |= data.draw(st.dictionaries(keys, json_values, min_size=1, max_size=3))
    path = tmp_path / "a.png"
    path.write_bytes(png(json.dumps(values)))
    try:
        record = read_record(path)
    except UsageError as error:
        assert "\n  do:  " in str(error)
    else:
        assert ImageRecord.parse(json.loads(record.json_text()), source="itself") == record


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_altered_bytes_are_a_record_or_a_usage_error(tmp_path: Path, form: str, data: st.DataObject) -> None:
    whole = bytearray(encode_image(Image.new("RGB", (4, 4)), ImageRecord.parse(PLAIN, source="the test"), form))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.bin"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        read_record(path)
    except UsageError as error:
        assert "\n  do:  " in str(error)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": 5}, {"prompt": None}, {"prompt": ""}, {"prompt": " \n"}, {"prompt": ["a cat"]},
        {"prompt": "x" * 30_000},
        {"enlarge": "x"}, {"enlarge": -3}, {"enlarge": 200}, {"enlarge": 2.5}, {"enlarge": True}, {"enlarge": [2]},
        {"batch_size": 1_000_000}, {"batch_index": 5, "batch_size": 2}, {"batch_index": True, "batch_size": 2},
        {"batch_size": 0}, {"batch_index": -1, "batch_size": 2}, {"batch_size": "2"},
        {"seed": -1}, {"seed": 2**63}, {"seed": "3"}, {"seed": 3.5}, {"seed": None}, {"seed": [1, 2]}, {"seed": True},
        {"width": 0}, {"width": 10**9}, {"height": "64"}, {"height": None},
        {"width": 16384, "height": 16384, "enlarge": 16},
        {"guidance_scale": "3"}, {"guidance_scale": -1}, {"guidance_scale": 1e9}, {"guidance_scale": []},
        {"guidance_scale": [1] * 65}, {"guidance_scale": [[1]]}, {"guidance_scale": {"0": 1}},
        {"guidance_scale": True},
        {"temperature": None}, {"top_k": -1}, {"top_k": 1.5}, {"top_p": 2}, {"top_p": "0.9"},
        {"model_source": "/etc/passwd"}, {"model_source": "../../x"}, {"model_source": 5}, {"model_source": "a/b/c"},
        {"dtype": "float64"}, {"dtype": 1}, {"device": ["cpu"]}, {"version": 1}, {"model": {}},
        {"lora": "one"}, {"lora": [3]}, {"lora": [{"name": "a"}]}, {"lora": {"a": 1}},
        {"lora": [{"name": "a", "weight": "1", "source": None, "sha256": "0", "fused": False}]},
        {"lora": [{"name": "a", "weight": 1, "source": "/tmp/a", "sha256": "0", "fused": False}]},
        {"grid": True}, {"grid": "yes"}, {"grid": 1}, {"grid": True, "seeds": [4, 5]}, {"seeds": [3, 4]},
        {"grid": True, "seeds": [3] * 65}, {"exact_size": True},
        {"requested_width": 5}, {"requested_width": 0, "requested_height": 5},
        {"watermark": "xyz"}, {"watermark": "0" * 17}, {"watermark": "0" * 16 + "\n"}, {"watermark": 5},
        {"colour": "red"}, {"__class__": "x"}, {"Prompt": "a"},
    ],
    ids=lambda change: str(change)[:60],
)  # fmt: skip
def test_edited_settings_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "a.png").write_bytes(png(json.dumps(PLAIN | change)))
    with pytest.raises(UsageError, match=r"the settings in .*a\.png"):
        read_record(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 40_000, "nested too deeply"),
        ('{"seed": NaN}', "NaN"),
        ('{"seed": Infinity}', "Infinity"),
        ('{"seed": ' + "9" * 5000 + "}", "digits"),
        ('{"prompt": "\\ud800"}', "surrogates"),
        ("[]", "not a JSON object"),
        ("", "Expecting"),
        ("{", "Expecting"),
        ("null", "not a JSON object"),
        (json.dumps({"prompt": "a" * 300_000}), "at most 240000 are read"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_odd_texts_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.png").write_bytes(png(text))
    with pytest.raises(UsageError, match=words):
        read_record(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, kind: bytes) -> None:
    packed = zlib.compress(b" " * 50_000_000, 9)
    data = b"bitvar\0\0" + packed if kind == b"zTXt" else b"bitvar\0\1\0\0\0" + packed
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(kind, data))
    with pytest.raises(UsageError, match="unpack to more than"):
        read_record(tmp_path / "a.png")


def test_settings_are_read_in_every_kind_of_text_chunk(tmp_path: Path) -> None:
    text = json.dumps(PLAIN).encode()
    bodies = {
        "a": (b"tEXt", b"bitvar\0" + text),
        "b": (b"zTXt", b"bitvar\0\0" + zlib.compress(text)),
        "c": (b"iTXt", b"bitvar\0\1\0de\0bitvar\0" + zlib.compress(text)),
    }
    for name, (kind, body) in bodies.items():
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"x" * 9) + chunk(kind, body))
        assert read_record(tmp_path / name).prompt == "a red dog"


def test_the_size_in_a_header_costs_nothing(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + header + chunk(b"iTXt", b"bitvar\0\0\0\0\0" + json.dumps(PLAIN).encode())
    (tmp_path / "a.png").write_bytes(whole)
    assert read_record(tmp_path / "a.png").width == 64


def test_pipes_devices_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path, tmp_path / "none.png"):
        with pytest.raises(UsageError):
            read_record(path)


def test_damaged_settings_are_told_by_their_checksum(tmp_path: Path) -> None:
    whole = png(json.dumps(PLAIN)).replace(b"a red dog", b"a bad dog")
    (tmp_path / "a.png").write_bytes(whole)
    with pytest.raises(UsageError, match="checksum"):
        read_record(tmp_path / "a.png")


@pytest.mark.parametrize("batch_index", [0, 1, 2])
def test_records_of_a_batch_name_their_own_seed(batch_index: int) -> None:
    record = ImageRecord.parse(OLD | {"batch_index": batch_index}, source="the test")
    assert (record.seed, record.seeds, record.grid) == (3 + batch_index, (), False)


def test_old_sheets_name_all_of_their_seeds() -> None:
    record = ImageRecord.parse(OLD | {"grid": True, "batch_index": 0, "batch_size": 4}, source="the test")
    assert record.all_seeds == (3, 4, 5, 6)
    assert record.file_size == (132, 132)


def test_a_record_fits_every_format() -> None:
    prompt = "\U0001f600" * 4900  # twelve bytes each as ASCII
    record = ImageRecord.parse(PLAIN | {"prompt": prompt}, source="the test")
    assert MAX_RECORD_BYTES * 0.97 < len(record.json_text()) <= MAX_RECORD_BYTES
    for form in ("PNG", "WEBP", "JPEG"):
        encode_image(Image.new("RGB", (4, 4)), record, form)
    with pytest.raises(UsageError, match="longer than"):
        ImageRecord.parse(PLAIN | {"prompt": prompt + "\U0001f600" * 100}, source="the test")


def test_webp_keeps_every_pixel_and_jpeg_says_its_limits(tmp_path: Path) -> None:
    noise = Image.frombytes("RGB", (32, 32), os.urandom(32 * 32 * 3))
    record = ImageRecord.parse(PLAIN, source="the test")
    path = write_image(noise, record, Target(tmp_path / "a.webp", named=True))
    assert Image.open(path).convert("RGB").tobytes() == noise.tobytes()
    with pytest.raises(UsageError, match="16383 pixels a side"):
        encode_image(Image.new("RGB", (16_384, 1)), record, "WEBP")
