"""Files that should hold weights and are something else: each is named, with what to do."""

import gzip
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitvar.errors import WeightsError
from bitvar.file_kinds import recognise, refuse_pointers
from bitvar.weights.official.files import read_official

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"
TENSORS = {"a": torch.arange(4.0)}


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thesis.docx", "words")


def cut(path: Path) -> None:
    torch.save({"a": torch.ones(10_000)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def old(path: Path) -> None:
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)


CASES = {
    "pointer": (lambda path: path.write_bytes(POINTER), "Git LFS pointer", "git lfs pull"),
    "empty": (lambda path: path.write_bytes(b""), "is empty", "download it again"),
    "zeros": (lambda path: path.write_bytes(b"\0" * 4096), "nothing but zeros", "download it again"),
    "page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>log in</html>"), "web page", "log-in"),
    "page without a head": (lambda path: path.write_bytes(b"<HTML>x"), "web page", "log-in"),
    "message": (lambda path: path.write_bytes(b'{"error": "Repository not found"}'), "text, which", "download"),
    "words": (lambda path: path.write_bytes(b"Entry not found"), "text, which begins with 'Entry", "download"),
    "zip": (zipped, "zip archive of something else: thesis", "unpack"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "gzip archive", "unpack"),
    "quantised": (lambda path: path.write_bytes(b"GGUF" + bytes(range(200))), "GGUF", "original weights"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "plain pickle", "torch.save"),
    "cut": (cut, "truncated", "download it again"),
    "old": (old, "before 1.6", "torch.save(torch.load("),
}


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "safetensors"])
@pytest.mark.parametrize("name", list(CASES))
def test_what_a_file_is_gets_named(tmp_path: Path, name: str, suffix: str) -> None:
    make, what, todo = CASES[name]
    make(tmp_path / f"x.{suffix}")
    with pytest.raises(WeightsError) as caught:
        read_official(tmp_path / f"x.{suffix}")
    assert what in str(caught.value)
    assert todo in str(caught.value)
    assert str(caught.value).count("\n") == 2


def test_the_line_given_for_the_old_format_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old(Path("x.pth"))
    file_kind = recognise(Path("x.pth"))
    assert file_kind is not None
    exec(file_kind.fix.partition(": ")[2])
    assert torch.equal(read_official(Path("new.pth"))["a"], TENSORS["a"])


def test_a_wrong_suffix_is_named(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"a safetensors file\n.*name it x\.safetensors"):
        read_official(tmp_path / "x.pth")
    torch.save(TENSORS, tmp_path / "y.safetensors")
    with pytest.raises(WeightsError, match=r"a file of torch\.save.*\n.*name it y\.pth"):
        read_official(tmp_path / "y.safetensors")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_sound_files_pass(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    save_file(TENSORS, path) if suffix == "safetensors" else torch.save(TENSORS, path)
    assert torch.equal(read_official(path)["a"], TENSORS["a"])


def test_pointers_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    save_file(TENSORS, tmp_path / "transformer" / "a.safetensors")
    refuse_pointers(tmp_path)
    (tmp_path / "transformer" / "b.safetensors").write_bytes(POINTER)
    with pytest.raises(WeightsError, match="git lfs pull"):
        refuse_pointers(tmp_path)
