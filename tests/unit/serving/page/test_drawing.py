"""How the page shows drawing as it happens, stops it, and says what goes wrong, with a stand-in for the server."""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.serving.page.stub_server import Answer, StubServer

if TYPE_CHECKING:
    from playwright.sync_api import Page


class Gate:
    """Holds the scales of every image back until the test lets them pass."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._open = 0

    def __call__(self, body: Mapping[str, Any], scale: int) -> None:
        with self._change:
            self._change.wait_for(lambda: self._open > scale, timeout=20)

    def let_pass(self, scales: int = 1) -> None:
        with self._change:
            self._open += scales
            self._change.notify_all()


@pytest.fixture
def gate(stub: StubServer) -> Any:
    gate = Gate()
    stub.gate = gate
    yield gate
    gate.let_pass(4)


def start(page: "Page", prompt: str = "a cat") -> None:
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")


def test_previews_come_in_order(open_page: Callable[..., "Page"], stub: StubServer, gate: Gate) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url, reduced_motion="no-preference")
    stub.queue = [3, 1]
    start(page)
    expect(page.locator(".note")).to_have_text("Waiting behind 1 request.")
    shown: list[str | None] = []
    for scale in range(1, 4):
        gate.let_pass()
        expect(page.locator("#stage-status")).to_have_text(f"Scale {scale} of 4")
        expect(page.locator(".scale-picture img:not([hidden])")).to_have_count(scale)
        expect(page.locator(".single img")).to_have_count(1)
        expect(page.locator(".single progress")).to_have_js_property("value", scale / 4)
        expect(page.locator("#live")).to_have_text("Drawing.")  # screen readers are not told of every scale
        shown.append(page.locator(".single img").get_attribute("src"))
        assert shown[-1] == page.locator(".scale-picture img").nth(scale - 1).get_attribute("src")
    gate.let_pass()
    expect(page.locator(".scale-picture img:not([hidden])")).to_have_count(4)
    expect(page.locator(".single progress")).to_be_hidden()
    assert len({*shown, page.locator(".single img:last-of-type").get_attribute("src")}) == 4
    expect(page.locator("#live")).to_contain_text("Done: a cat, seed")
    assert stub.bodies[0]["partial_images"] == 3
    assert stub.bodies[0]["stream"] is True


def test_stopping_is_immediate(open_page: Callable[..., "Page"], stub: StubServer, gate: Gate) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    page.fill("#images", "5")
    start(page)
    gate.let_pass()
    expect(page.locator(".tile img:not([hidden])")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator("#go-label")).to_have_text("Generate 5 images")  # though the server still holds both
    expect(page.locator(".tile-note").nth(0)).to_have_text("Stopped after scale 1 of 4.")
    expect(page.locator(".tile-note").nth(4)).to_have_text("Stopped before it began.")
    expect(page.locator("#live")).to_have_text("Stopped. 0 of 5 images are done.")
    assert {stub.cancelled.get(timeout=20) for _ in range(2)} == {"request-1", "request-2"}
    assert len(stub.bodies) == 2  # never more than two at once

    gate.let_pass(4)
    page.locator(".tile").nth(4).click()
    page.get_by_role("button", name="Draw it again").click()
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator(".composer.running")).to_have_count(0)


def test_the_button_stops_but_not_on_a_double_click(
    open_page: Callable[..., "Page"], stub: StubServer, gate: Gate
) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    page.fill("#prompt", "a cat")
    page.locator("#go").dblclick()
    expect(page.locator("#go-label")).to_have_text("Stop")
    gate.let_pass()
    expect(page.locator("#stage-status")).to_have_text("Scale 1 of 4")
    page.locator("#go").click()
    expect(page.locator(".note")).to_contain_text("Stopped after scale 1 of 4.")


def test_refusals_are_shown_in_place(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    error = {"message": "seed 7 is unlucky here.", "type": "invalid_request_error", "param": "seed", "code": None}
    stub.answers = [Answer(400, error)]
    start(page)
    expect(page.locator(".note.failed")).to_contain_text("seed 7 is unlucky here.")
    expect(page.locator("#seed-error")).to_have_text("seed 7 is unlucky here.")
    expect(page.locator("#seed")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#live")).to_have_text("Failed: seed 7 is unlucky here.")
    expect(page.locator("#banner")).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".thumb")).to_have_count(1)


def test_wrong_values_never_reach_the_server(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    for field, value, message in [
        ("guidance", "much", "Give a number from 0 to 100"),
        ("seed", "-1", "Give a whole number from 0 to 9223372036854775807"),
        ("images", "1.5", "Give a whole number from 1 to 16"),
        ("prompt", " ", "Write a prompt first"),
        ("prompt", "a {b|c", "has no"),
        ("prompt", "{1|2|3|4|5|6|7|8|9}" * 2, "81 images; at most 64"),
    ]:
        page.fill("#prompt", "a cat")
        before = page.locator(f"#{field}").input_value()
        page.fill(f"#{field}", value)
        page.locator("#go").click()
        expect(page.locator(f"#{field}-error")).to_contain_text(message)
        expect(page.locator(f"#{field}")).to_be_focused()
        page.fill(f"#{field}", before)
        expect(page.locator(f"#{field}-error")).to_have_count(0)
    assert stub.bodies == []


def test_a_busy_server_is_asked_again(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    full = Answer(429, {"message": "The queue is full.", "code": "queue_full"}, {"Retry-After": "1"})
    stub.answers = [full]
    start(page)
    expect(page.locator(".note")).to_contain_text("The server is busy. Trying again in 1 s.")
    expect(page.locator(".thumb img:not([hidden])")).to_have_count(1)
    expect(page.locator(".note")).to_be_hidden()
    assert len(stub.bodies) == 2


def test_a_lost_server_is_said_and_found_again(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    start(page, "a cat")
    expect(page.locator(".composer.running")).to_have_count(0)
    stub.close()
    try:
        start(page, "a dog")
        expect(page.locator("#banner")).to_contain_text("The server does not answer.")
        expect(page.locator(".note.failed")).to_contain_text("The server does not answer.")
        expect(page.locator("#prompt")).to_have_value("a dog")
        expect(page.locator(".thumb")).to_have_count(1)
    finally:
        stub.reopen()
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#banner")).to_be_hidden()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".thumb")).to_have_count(2)


def test_a_connection_that_breaks_off_is_said(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    stub.broken = 2
    start(page)
    expect(page.locator(".note.failed")).to_contain_text("The connection broke off")
    expect(page.locator(".scale-picture img:not([hidden])")).to_have_count(2)
    expect(page.locator("#banner")).to_be_hidden()


def test_a_loading_server_is_waited_for(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    stub.status = "loading"
    page = open_page(stub.url, ready=False)
    expect(page.locator("#banner")).to_contain_text("The model is loading.")
    start(page, "a cat")
    expect(page.locator("#prompt-error")).to_contain_text("has not named its model yet")
    stub.status = "ready"
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#prompt")).to_have_value("a cat")
    page.locator("#go").click()
    expect(page.locator(".thumb img:not([hidden])")).to_have_count(1)


def test_a_key_is_asked_for_and_kept_for_the_tab(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    stub.key = "secret"
    page = open_page(stub.url, ready=False)
    expect(page.locator("#key-input")).to_be_visible()
    expect(page.locator("#key-refused")).to_be_hidden()
    page.fill("#key-input", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-refused")).to_be_visible()
    expect(page.locator("#key-input")).to_have_value("")
    page.fill("#key-input", "secret")
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("icons")
    start(page)
    expect(page.locator(".composer.running")).to_have_count(0)
    expect(page.locator(".thumb")).to_have_count(1)
    assert page.evaluate("() => JSON.stringify(localStorage)").count("secret") == 0
    assert page.evaluate("() => sessionStorage['bitvar.key']") == "secret"
    page.get_by_role("button", name="Code").click()
    expect(page.locator("#code-text")).to_contain_text("$BITVAR_API_KEY")
    expect(page.locator("#code-text")).not_to_contain_text("secret")
