"""Fixtures of the page's tests: one browser, a stand-in server for each test, and one real server for all."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import chromium
from tests.unit.serving.page.stub_server import StubServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One for each file: while Playwright runs, so does its event loop, in which tests of others can't start theirs."""
    with chromium() as started:
        yield started


@pytest.fixture
def stub() -> Iterator[StubServer]:
    server = StubServer()
    yield server
    server.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Open a page in a new profile. The test fails if a script of the page fails, or breaks the page's policy."""
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    contexts = []
    problems: list[str] = []

    def open_one(url: str, *, ready: bool = True, **options: Any) -> "Page":
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if "Policy" in message.text else None)
        page.goto(url)
        if ready:
            expect(page.locator("#model")).to_have_attribute("data-server", "ready")
            expect(page.locator("#model")).to_have_text("icons")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The real server, with the embedded model."""
    command = [sys.executable, "-m", "bitvar", "serve", "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = None
    for line in process.stderr:
        found = re.match(r"(http://\S+) .* is ready", line)
        if found:
            url = found[1]
            break
    try:
        assert url is not None, "the server ended before it was ready"
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=60)
