"""Signed manifests: what they say, that every change of a file shows, and that the record stays readable."""

import dataclasses
import io
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitvar import __version__
from bitvar.errors import UsageError
from bitvar.pipeline.image_files import encode_image
from bitvar.pipeline.record import ImageRecord, read_record
from bitvar.provenance.manifests import SOURCE_TYPE, Signer, read_manifest, read_manifest_file, record_digest
from tests.support.certificates import SignerFiles, signer_files

FORMATS = ("png", "webp", "jpeg")
FEW, MANY = range(5), pytest.param(range(50), marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SignerFiles:
    return signer_files(tmp_path_factory.mktemp("signer"))


@pytest.fixture(scope="module")
def signer(files: SignerFiles) -> Signer:
    return Signer.from_files(*files)


def record_of(number: int = 0, **changes: Any) -> ImageRecord:
    values: dict[str, Any] = {
        "prompt": f"a secret prompt {number}", "seed": number, "width": 32, "height": 24, "guidance_scale": 1.0,
        "temperature": 0.25, "top_k": 0, "top_p": 0.0, "model": "icons@0123456789ab", "watermark": "0123456789abcdef",
    }  # fmt: skip
    return ImageRecord.of(values | changes)


def encoded(number: int, form: str) -> bytes:
    """A noisy image: no byte of its pixels is padding."""
    pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
    return encode_image(Image.fromarray(pixels), record_of(number), form.upper())


def pixel_byte(signed: bytes, form: str, rng: np.random.Generator) -> int:
    """The place of a byte of the compressed pixels."""
    if form == "png":
        start = signed.index(b"IDAT") + 4
        length = int.from_bytes(signed[start - 8 : start - 4], "big")
    elif form == "webp":
        start = signed.index(b"VP8L") + 8
        length = int.from_bytes(signed[start - 4 : start], "little")
    else:
        start = signed.rindex(b"\xff\xda") + 14
        length = len(signed) - start - 2
    return start + int(rng.integers(length))


@pytest.mark.parametrize("numbers", [FEW, MANY])
def test_signed_files_verify_and_keep_record_and_pixels(signer: Signer, tmp_path: Path, numbers: range) -> None:
    for number in numbers:
        form = FORMATS[number % 3]
        data, record = encoded(number, form), record_of(number)
        signed = signer.sign(data, form, record)
        path = tmp_path / f"a.{form}"
        path.write_bytes(signed)
        report = read_manifest_file(path)
        assert (report.state, report.problems, report.trusted) == ("valid", (), False)
        assert report.matches(record)
        assert not report.matches(record_of(number + 1))
        assert read_record(path) == record
        assert Image.open(io.BytesIO(signed)).tobytes() == Image.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize("numbers", [FEW, MANY])
def test_a_changed_pixel_shows(signer: Signer, numbers: range) -> None:
    rng = np.random.default_rng(0)
    for number in numbers:
        form = FORMATS[number % 3]
        signed = bytearray(signer.sign(encoded(number, form), form, record_of(number)))
        signed[pixel_byte(bytes(signed), form, rng)] ^= 1 << int(rng.integers(8))
        report = read_manifest(bytes(signed))
        assert report.state == "tampered", number
        assert report.problems


def test_a_changed_record_shows(signer: Signer) -> None:
    signed = signer.sign(encoded(1, "jpeg"), "jpeg", record_of(1))
    report = read_manifest(signed.replace(b"secret prompt", b"public prompt"))
    assert report.state == "tampered"
    assert any("mismatch" in problem for problem in report.problems)


def test_a_change_anywhere_is_never_valid_for_other_content(signer: Signer) -> None:
    """Wherever a byte is changed, the file is not called valid, or says exactly what it said before."""
    signed = signer.sign(encoded(2, "png"), "png", record_of(2))
    before, rng = read_manifest(signed), np.random.default_rng(1)
    for _ in range(60):
        changed = bytearray(signed)
        changed[int(rng.integers(8, len(signed)))] ^= 1 << int(rng.integers(8))
        report = read_manifest(bytes(changed))
        assert report.state != "valid" or report == before


def test_the_manifest_says_what_made_the_image(signer: Signer) -> None:
    record = record_of()
    signed = signer.sign(encoded(0, "png"), "png", record)
    report = read_manifest(signed)
    assert report.source_type == SOURCE_TYPE
    assert SOURCE_TYPE.endswith("/trainedAlgorithmicMedia")
    assert report.generator == f"bitvar {__version__}"
    assert report.signer == "bitvar test signer"
    assert report.facts == {
        "model": "icons@0123456789ab", "record_sha256": record_digest(record), "watermark": "0123456789abcdef",
    }  # fmt: skip
    asked = read_manifest(signer.sign(encoded(0, "png"), "png", record, include_prompt=True))
    assert asked.facts["prompt"] == "a secret prompt 0"


def test_an_unsigned_file_has_none() -> None:
    for form in FORMATS:
        assert read_manifest(encoded(0, form)).state == "none"
    with pytest.raises(UsageError, match="not a PNG"):
        read_manifest(b"GIF89a")


def test_a_manifest_of_another_image_is_noticed(signer: Signer) -> None:
    """The chunk of one signed PNG, put into another file."""
    signed, other = signer.sign(encoded(0, "png"), "png", record_of(0)), encoded(1, "png")
    start = signed.index(b"caBX") - 4
    chunk = signed[start : start + 12 + int.from_bytes(signed[start : start + 4], "big")]
    assert read_manifest(other[:33] + chunk + other[33:]).state == "tampered"


def test_signing_again_replaces_nothing_in_silence(signer: Signer) -> None:
    once = signer.sign(encoded(0, "png"), "png", record_of(0))
    twice = signer.sign(once, "png", record_of(0))
    assert read_manifest(twice).state == "valid"


def test_the_key_shows_in_no_text(signer: Signer, files: SignerFiles) -> None:
    lines = [line for line in files.key.read_text().splitlines() if "-----" not in line]
    signed = signer.sign(encoded(0, "png"), "png", record_of())
    for text in (repr(signer), str(signer), repr(read_manifest(signed)), signed.decode("latin-1")):
        assert not any(line in text for line in lines)


def test_unusable_signers_are_refused(files: SignerFiles, tmp_path: Path) -> None:
    other, ended = signer_files(tmp_path / "other"), signer_files(tmp_path / "ended", days=-1)
    (tmp_path / "no.pem").write_text("no certificate")
    (tmp_path / "bad.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    pairs = [
        (files.certificate, other.key), ended, (tmp_path / "missing.pem", files.key), (files.certificate, tmp_path),
        (tmp_path / "no.pem", files.key), (files.certificate, tmp_path / "bad.pem"), (files.key, files.key),
    ]  # fmt: skip
    secret = files.key.read_text().splitlines()[1]
    for pair in pairs:
        with pytest.raises(UsageError) as error:
            Signer.from_files(*pair)
        assert "\n  do:  " in str(error.value)
        assert secret not in str(error.value)


def test_images_that_cannot_be_signed_are_refused(signer: Signer) -> None:
    with pytest.raises(UsageError, match="'gif'"):
        signer.sign(b"GIF89a", "gif", record_of())
    with pytest.raises(UsageError, match="can't be signed"):
        signer.sign(b"no image", "png", record_of())
    broken = dataclasses.replace(signer, key=b"no key")
    with pytest.raises(UsageError, match="can't be signed"):
        broken.sign(encoded(0, "png"), "png", record_of())


def test_nothing_is_fetched(signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert read_manifest(signer.sign(encoded(0, "webp"), "webp", record_of())).state == "valid"


def test_signing_needs_no_torch() -> None:
    code = "import sys, bitvar.provenance.manifests; assert not {'torch', 'c2pa'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
