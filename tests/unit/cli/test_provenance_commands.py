"""`bitvar watermark`, `bitvar provenance` and `bitvar generate --watermark`."""

import json
from pathlib import Path
from typing import Any

import pytest

from bitvar.pipeline.record import read_record
from bitvar.provenance import manifests
from bitvar.provenance.key_files import read_key
from bitvar.provenance.manifests import Signer
from tests.support.certificates import signer_files
from tests.support.command import Result, run_command
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """`bitvar` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> Result:
        return run_command(monkeypatch, capsys, *arguments)

    return call


def test_an_image_is_marked_detected_and_made_again(run: Any, tmp_path: Path, model: Path) -> None:
    made = run("watermark", "new-key", "a.key", "--delta", 20, "--first-scale", 1, "--json")
    key = read_key(Path("a.key"))
    assert json.loads(made.out) == {"file": "a.key", "key": key.key_id}
    assert (key.delta, key.first_scale) == (20.0, 1)
    draw = ("generate", "a red dog", "--seed", 3, "--model", model)
    marked = run(*draw, "--watermark", "a.key", "-o", "a.png")
    assert marked.code == 0
    assert read_record(Path("a.png")).watermark == key.key_id
    again = ("generate", "--from", "a.png", "--model", model, "-o", "b.png")
    assert run(*again, "--watermark", "a.key").code == 0
    assert Path("b.png").read_bytes() == Path("a.png").read_bytes()
    assert run(*draw, "-o", "c.png").code == 0
    assert Path("c.png").read_bytes() != Path("a.png").read_bytes()
    secret = key.secret.hex()
    for result in (made, marked):
        assert secret not in result.out + result.err
    assert secret.encode() not in Path("a.png").read_bytes()


def test_a_marked_image_is_not_made_again_without_its_key(run: Any, model: Path) -> None:
    for name in ("a.key", "b.key"):
        assert run("watermark", "new-key", name, "--first-scale", 1).code == 0
    key, other = read_key(Path("a.key")).key_id, read_key(Path("b.key")).key_id
    assert run("generate", "a dog", "--model", model, "--watermark", "a.key", "-o", "a.png").code == 0
    again = ("generate", "--from", "a.png", "--model", model, "-o", "b.png")
    for options, words in (((), "no key was given"), (("--watermark", "b.key"), f"b.key is key {other}")):
        refused = run(*again, *options)
        assert refused.code == 2
        assert key in refused.err and words in refused.err
        assert len(refused.err.strip().splitlines()) <= 3
    assert not Path("b.png").exists()


def test_adding_a_watermark_to_a_recorded_image_is_said(run: Any, model: Path) -> None:
    assert run("watermark", "new-key", "a.key", "--first-scale", 1).code == 0
    assert run("generate", "a dog", "--model", model, "-o", "a.png").code == 0
    result = run("generate", "--from", "a.png", "--model", model, "-o", "b.png", "--watermark", "a.key")
    assert result.code == 0
    assert f"watermark: none -> {read_key(Path('a.key')).key_id}" in result.err


def test_a_key_file_is_refused_in_three_lines(run: Any) -> None:
    for arguments in (
        ("generate", "a dog", "--watermark", "none.key"),
        ("watermark", "detect", "a.png", "--key", "none.key"),
    ):
        result = run(*arguments)
        assert result.code == 2
        assert "There is no key file none.key." in result.err
        assert "new-key" in result.err
    assert run("watermark", "new-key", "a.key").code == 0
    again = run("watermark", "new-key", "a.key")
    assert again.code == 2
    assert "never overwritten" in again.err
    assert run("watermark", "new-key", "no-folder/a.key").code == 1


def test_detect_prints_its_evidence(run: Any) -> None:
    assert run("watermark", "new-key", "a.key", "--delta", 12).code == 0
    assert run("watermark", "new-key", "b.key").code == 0
    assert run("generate", "a pizza on a blue background", "--seed", 2, "--watermark", "a.key", "-o", "a.png").code == 0
    Path("b.png").write_bytes(b"no image")
    result = run("watermark", "detect", "a.png", "--key", "a.key", "--json")
    assert result.code == 0
    values = json.loads(result.out)
    assert values["key"] == read_key(Path("a.key")).key_id
    assert values["threshold"] == 3.0902
    image = values["images"][0]
    assert (image["watermark"], image["size"], image["native_size"], image["resized"]) == (
        True,
        [64, 64],
        [64, 64],
        False,
    )
    assert image["z"] > 3.0902 and image["p_value"] < 0.001
    several = run("watermark", "detect", "b.png", "a.png", "--key", "b.key", "--false-positive-rate", 0.0001)
    assert several.code == 1
    assert "no watermark detected" in several.out
    assert "b.png" in several.err
    assert run("watermark", "detect", "a.png", "--key", "a.key", "--size", "63x64").code == 2
    assert run("watermark", "detect", "a.png", "--key", "a.key", "--false-positive-rate", 0).code == 2


def test_show_prints_record_and_manifest(
    run: Any, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("generate", "a red dog", "--seed", 3, "--model", model, "-o", "a.png").code == 0
    plain = json.loads(run("provenance", "show", "a.png", "--json").out)
    assert plain["record"]["prompt"] == "a red dog"
    assert plain["c2pa"] == {"state": "none"}
    signer = Signer.from_files(*signer_files(tmp_path / "signer"))
    signed = signer.sign(Path("a.png").read_bytes(), "png", read_record(Path("a.png")))
    Path("b.png").write_bytes(signed)
    values = json.loads(run("provenance", "show", "b.png", "--json").out)
    assert values["record"] == plain["record"]
    assert values["c2pa"]["state"] == "valid"
    assert values["c2pa"]["record_matches"] is True
    assert values["c2pa"]["trusted"] is False
    text = run("provenance", "show", "b.png")
    assert "a red dog" in text.out and "c2pa state" in text.out
    assert "nothing vouches for the signer" in text.err
    where = signed.index(b"IDAT") + 9
    Path("c.png").write_bytes(signed[:where] + bytes([signed[where] ^ 1]) + signed[where + 1 :])
    values = json.loads(run("provenance", "show", "c.png", "--json").out)
    assert values["c2pa"]["state"] == "tampered"
    assert values["c2pa"]["problems"]
    Path("d.png").write_bytes(b"no image")
    assert run("provenance", "show", "d.png").code == 2
    assert run("provenance", "show", "none.png").code == 2
    monkeypatch.setattr(manifests, "is_installed", lambda: False)
    unchecked = run("provenance", "show", "b.png", "--json")
    assert json.loads(unchecked.out)["c2pa"] == {"state": "unchecked"}
    assert "[provenance]" in unchecked.err
