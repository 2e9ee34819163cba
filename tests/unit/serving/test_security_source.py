"""What the sources may not contain where neither ruff nor the import contract looks, and that ruff's rules stay."""

import re
import tomllib
from pathlib import Path

import bitvar

ROOT = Path(__file__).parents[3]
SOURCES = sorted(Path(bitvar.__file__).parent.rglob("*.py"))
SERVING = [path for path in SOURCES if "serving" in path.parts]

EXECUTING = {"S102", "S301", "S307", "S602", "S604", "S605"}
"""Ruff's rules against exec, unpickling, eval and shells."""


def test_ruffs_rules_against_running_what_is_read_are_on_for_the_package() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert set(ruff["select"]) >= EXECUTING
    assert not EXECUTING & set(ruff["ignore"])
    for pattern, ignored in ruff["per-file-ignores"].items():
        assert not EXECUTING & set(ignored) or not pattern.startswith("src"), pattern


def test_no_rule_against_running_what_is_read_is_switched_off_in_the_package() -> None:
    for path in SOURCES:
        for line in path.read_text(encoding="utf-8").splitlines():
            switched_off = re.search(r"noqa:?\s*([A-Z0-9, ]*)", line)
            assert switched_off is None or not EXECUTING & set(re.split(r"[, ]+", switched_off[1])), f"{path}: {line}"


def test_the_limit_on_the_pixels_of_an_image_is_never_lifted() -> None:
    for path in SOURCES:
        assert not re.search(r"MAX_IMAGE_PIXELS\s*=\s*None", path.read_text(encoding="utf-8")), path


def test_the_serving_side_has_no_client_that_fetches() -> None:
    """Clusters and hubs are reached by their own libraries, in files outside of `serving/http`."""
    clients = re.compile(
        r"^\s*(?:import|from)\s+(urllib\.request|http\.client|httpx|requests|aiohttp|socket)\b", re.MULTILINE
    )
    found = {path.name for path in SERVING if "http" in path.parts if clients.search(path.read_text(encoding="utf-8"))}
    assert found == {"server.py"}  # the socket that it listens on
