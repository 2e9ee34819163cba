"""Chromium and Node for tests of the page. Where they are missing, tests are skipped; in CI, that is a failure."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def missing(what: str) -> None:
    """Skip the test for lack of a program, or fail if this is CI.

    Args:
        what: The program, with how to get it.
    """
    if os.environ.get("CI"):
        pytest.fail(f"CI needs {what}")
    pytest.skip(f"needs {what}")


def require_node() -> str:
    """Return the path of Node."""
    node = shutil.which("node")
    if node is None:
        missing("node 20 or newer")
    assert node is not None
    return node


def chromium_path() -> str:
    """Return the path of Chromium."""
    path = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if path is None:
        missing("Chromium, such as Debian's package chromium")
    assert path is not None
    return path


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start a headless Chromium: the system's own, since Playwright's can't be fetched everywhere."""
    path = chromium_path()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing('playwright: pip install -e ".[test]"')
        raise
    with sync_playwright() as playwright:
        # Containers have no user namespaces for Chromium's sandbox; the tests open pages of this repository alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
