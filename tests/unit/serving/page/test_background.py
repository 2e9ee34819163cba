"""The choice of a background on the page, for a model that draws opacity, and what becomes of transparent images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from bitvar.pipeline.record import read_record
from tests.unit.serving.page.stub_server import CARD, StubServer, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = (".single img", ".scale-picture img", ".thumb img")


@pytest.fixture
def clear_stub(stub: StubServer) -> StubServer:
    """A server whose model draws opacity."""
    stub.card = {**CARD, "alpha": True}
    stub.draw = partial(drawn, alpha=True)
    return stub


def draw(page: "Page", prompt: str, **fields: str) -> None:
    from playwright.sync_api import expect

    before = page.locator(".thumb").count()
    page.fill("#prompt", prompt)
    for name, value in fields.items():
        page.select_option(f"#{name}", value)
    page.keyboard.press("Control+Enter")
    expect(page.locator(".thumb")).to_have_count(before + 1)
    expect(page.locator(".composer.running")).to_have_count(0)
    expect(page.locator(".single img")).to_have_count(1)  # the preview before fades out


def on_checkerboard(page: "Page", selector: str) -> set[bool]:
    """Whether the images of a selector lie on a checkerboard."""
    backgrounds = page.eval_on_selector_all(
        selector, "(all) => all.map((one) => getComputedStyle(one).backgroundImage)"
    )
    return {"conic-gradient" in background for background in backgrounds}


def download(page: "Page", folder: Path) -> Path:
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    file = folder / started.value.suggested_filename
    started.value.save_as(file)
    return file


def test_the_choice_is_shown_if_the_model_draws_opacity(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    expect(page.locator("#background-field")).to_be_hidden()
    draw(page, "a cat")
    assert "background" not in stub.bodies[0] and "output_format" not in stub.bodies[0]
    assert [on_checkerboard(page, selector) for selector in IMAGES] == [{False}] * 3
    stub.card = {**CARD, "alpha": True}
    expect(open_page(stub.url).locator("#background-field")).to_be_visible()


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparent_images_stay_so(
    open_page: Callable[..., "Page"], clear_stub: StubServer, tmp_path: Path, kind: str
) -> None:
    from playwright.sync_api import expect

    page = open_page(clear_stub.url)
    draw(page, "a cat", background="transparent", format=kind)
    assert clear_stub.bodies[0]["background"] == "transparent"
    assert clear_stub.bodies[0].get("output_format", "png") == kind
    assert [on_checkerboard(page, selector) for selector in IMAGES] == [{True}] * 3
    expect(page.locator(".facts-list")).to_contain_text("Backgroundtransparent")
    file = download(page, tmp_path)
    assert file.suffix == f".{kind}" and read_record(file).background == "transparent"
    with Image.open(file) as image:
        assert image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 255)

    page.reload()
    expect(page.locator(".thumb")).to_have_count(1)
    assert on_checkerboard(page, ".single img") == {True}
    page.select_option("#background", "auto")
    page.select_option("#format", "png")
    page.get_by_role("button", name="Use all").click()
    assert [page.input_value(f"#{field}") for field in ("background", "format")] == ["transparent", kind]

    other = open_page(clear_stub.url)  # another browser has the file alone
    other.set_input_files("#file", file)
    expect(other.locator(".facts-list")).to_contain_text("Backgroundtransparent")
    assert on_checkerboard(other, ".single img") == {True}
    other.get_by_role("button", name="Use all").click()
    assert [other.input_value(f"#{field}") for field in ("background", "format")] == ["transparent", kind]


def test_opaque_images_and_comparisons(open_page: Callable[..., "Page"], clear_stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(clear_stub.url)
    draw(page, "a cat")
    assert "background" not in clear_stub.bodies[0]
    assert on_checkerboard(page, ".single img") == {True}
    draw(page, "a dog", background="opaque")
    assert on_checkerboard(page, ".single img") == {False}
    page.get_by_role("button", name="Code").click()
    expect(page.locator("#code-text")).to_contain_text('"background":"opaque"')
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".compare img")).to_have_count(2)
    assert on_checkerboard(page, ".compare img:nth-of-type(1)") == {False}
    assert on_checkerboard(page, ".compare img:nth-of-type(2)") == {True}
    page.keyboard.press("Escape")
    page.locator("#reset").click()
    expect(page.locator("#background")).to_have_value("auto")


def test_a_model_without_opacity_says_so(
    open_page: Callable[..., "Page"], clear_stub: StubServer, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = open_page(clear_stub.url)
    draw(page, "a cat", background="transparent")
    file = download(page, tmp_path)
    clear_stub.card = CARD
    plain = open_page(clear_stub.url)
    plain.set_input_files("#file", file)
    plain.get_by_role("button", name="Use all").click()
    expect(plain.locator("#toast")).to_contain_text("This model draws no transparent images.")
    draw(plain, "a cat")
    assert "background" not in clear_stub.bodies[-1]
