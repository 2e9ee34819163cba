"""What `bitvar doctor` says of torch's build, with environments laid out as pip leaves them."""

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from bitvar.cli import torch_build
from bitvar.cli.main import app
from bitvar.cli.torch_build import explain_build, find_torch_build, how_to_shrink


def lay_out(folder: Path, version: str, cuda: str | None, *, packages: dict[str, int]) -> None:
    """Lay out torch and other distributions as pip installs them, with files of the given sizes."""
    lib = folder / "torch" / "lib"
    lib.mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("raise ImportError('torch must not be imported')")
    text = f"__version__ = '{version}'\ndebug = False\ncuda: str | None = {cuda!r}\nhip: str | None = None\n"
    (folder / "torch" / "version.py").write_text(text)
    (lib / "libtorch_cpu.so").write_bytes(b"x" * 1000)
    if cuda:
        (lib / "libtorch_cuda.so").write_bytes(b"x" * 500)
    for name, size in packages.items():
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{name}/lib.so,sha256=x,{size}\n{info.name}/RECORD,,\n")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    real, everything = importlib.util.find_spec, importlib.metadata.distributions

    def find_spec(name: str, package: str | None = None) -> object:
        origin = tmp_path / "torch" / "__init__.py"
        return SimpleNamespace(origin=str(origin)) if name == "torch" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: everything(path=[str(tmp_path)]))
    monkeypatch.setattr(torch_build, "_DRIVER", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_build_for_gpus_without_a_gpu_is_told(place: Path) -> None:
    packages = {"nvidia-cublas": 3_000_000_000, "triton": 1_000_000_000, "cuda-bindings": 70, "numpy": 5}
    lay_out(place, "2.13.0+cu130", "13.0", packages=packages)
    build = find_torch_build()
    assert (build.name, build.version, build.gpu_bytes) == ("CUDA 13.0", "2.13.0", 4_000_000_570)
    assert explain_build(build) == "CUDA 13.0, 4.0 GB of it for a GPU, and no GPU was found"
    fix = how_to_shrink(build)
    assert fix is not None
    assert "pip uninstall -y torch cuda-bindings nvidia-cublas triton\n" in fix
    assert "uv pip install --torch-backend=cpu torch==2.13.0" in fix
    said = CliRunner().invoke(app, ["doctor"]).stdout
    assert "To free 4.0 GB" in said
    assert json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["to free space"] == fix


def test_a_build_for_gpus_with_a_gpu_is_right(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(place, "2.13.0+cu130", "13.0", packages={"nvidia-cublas": 10})
    (place / "driver").touch()
    monkeypatch.setattr(torch_build, "_DRIVER", (str(place / "driver"),))
    assert explain_build(find_torch_build()) == "CUDA 13.0"
    assert how_to_shrink(find_torch_build()) is None


def test_a_build_for_cpus_is_right(place: Path) -> None:
    lay_out(place, "2.13.0+cpu", None, packages={})
    assert explain_build(find_torch_build()) == "CPU" and how_to_shrink(find_torch_build()) is None


def test_without_torch_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    assert explain_build(find_torch_build()) == "none" and how_to_shrink(find_torch_build()) is None
