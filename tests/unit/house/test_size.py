"""The size budget of the package: a wheel under 100 MB, and no weight file of 48 MB or more."""

import zlib
from pathlib import Path

import bitvar

ROOT = Path(bitvar.__file__).parent


def test_the_package_fits_its_budget() -> None:
    files = [path for path in ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    packed = sum(len(zlib.compress(path.read_bytes())) for path in files)  # as a wheel is
    assert packed < 95_000_000
    assert [path for path in files if path.suffix == ".safetensors" and path.stat().st_size >= 48_000_000] == []
