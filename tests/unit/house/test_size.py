"""The size budget of the package: a wheel under 100 MB, and no weight file of 48 MB or more."""

from pathlib import Path

import bitvar

ROOT = Path(bitvar.__file__).parent


def test_the_package_fits_its_budget() -> None:
    sizes = {
        path: path.stat().st_size for path in ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert sum(sizes.values()) < 105_000_000  # before compression, which leaves nine tenths of it
    assert [path for path, size in sizes.items() if path.suffix == ".safetensors" and size >= 48_000_000] == []
