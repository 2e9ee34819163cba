"""What people do with images on the page: reuse, compare, delete, drop, search; by mouse, keyboard and phone."""

import base64
import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.unit.serving.page.stub_server import CARD, GRIDS, StubServer, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Page


def draw(page: "Page", prompt: str, seed: int | None = None) -> None:
    from playwright.sync_api import expect

    before = page.locator(".thumb").count()
    page.fill("#prompt", prompt)
    if seed is not None:
        page.fill("#seed", str(seed))
    page.keyboard.press("Control+Enter")
    expect(page.locator(".thumb")).to_have_count(before + 1)
    expect(page.locator(".composer.running")).to_have_count(0)


def drop(page: "Page", name: str, data: bytes) -> None:
    """Drop a file on the page."""
    script = """([name, data]) => {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name));
        for (const type of ['dragover', 'drop']) {
            document.body.dispatchEvent(new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }
    }"""
    page.evaluate(script, [name, base64.b64encode(data).decode("ascii")])


def test_settings_are_used_again(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    page.fill("#guidance", "2.5")
    page.fill("#temperature", "0.6")
    page.fill("#negative", "dogs")
    draw(page, "a cat", seed=11)
    assert (stub.bodies[0]["guidance_scale"], stub.bodies[0]["negative_prompt"]) == (2.5, "dogs")

    def change_everything() -> None:
        others = {"prompt": "a bus", "guidance": "1", "temperature": "1", "negative": "", "seed": "5"}
        for field, value in others.items():
            page.fill(f"#{field}", value)

    def values() -> list[str]:
        return [page.input_value(f"#{field}") for field in ("prompt", "guidance", "temperature", "negative", "seed")]

    change_everything()
    page.get_by_role("button", name="Only the prompt").click()
    assert values() == ["a cat", "1", "1", "", "5"]
    change_everything()
    page.get_by_role("button", name="All but the seed").click()
    assert values()[:4] == ["a cat", "2.5", "0.6", "dogs"]
    expect(page.locator("#lock")).to_have_attribute("aria-pressed", "false")
    change_everything()
    page.get_by_role("button", name="Use all").click()
    assert values() == ["a cat", "2.5", "0.6", "dogs", "11"]
    used = "Used: the prompt, the negative prompt, seed 11, guidance 2.5, temperature 0.6, size 64 \u00d7 64."
    expect(page.locator("#toast-text")).to_have_text(used)
    expect(page.locator("#lock")).to_have_attribute("aria-pressed", "true")


def test_the_seed_is_new_unless_locked(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    page = open_page(stub.url)
    draw(page, "a cat")
    draw(page, "a cat")
    page.locator("#dice").click()
    draw(page, "a cat")
    draw(page, "a cat")
    page.locator("#lock").click()
    draw(page, "a cat")
    seeds = [body["seed"] for body in stub.bodies]
    assert len(set(seeds)) == 4
    assert seeds[2] == seeds[3]


def test_dropped_files_show_their_settings(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    body = {"prompt": "a dropped cat", "seed": 77, "guidance_scale": 2.0, "temperature": 0.5}
    drop(page, "cat.png", drawn(body)[-1])
    expect(page.locator(".facts-prompt")).to_have_text("a dropped cat")
    expect(page.locator(".facts-list")).to_contain_text("Seed77")
    page.get_by_role("button", name="All but the seed").click()
    expect(page.locator("#prompt")).to_have_value("a dropped cat")
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="PNG")
    drop(page, "holiday.png", file.getvalue())
    expect(page.locator("#toast")).to_contain_text("holiday.png holds no settings, so it is opened to be edited.")
    expect(page.locator("#edit-name")).to_have_text("holiday.png")
    drop(page, "letter.txt", b"hello")
    expect(page.locator("#toast")).to_contain_text("not a PNG, WebP or JPEG")
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator("#drop")).to_be_hidden()


def test_two_images_are_compared(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    draw(page, "a cat", seed=1)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#toast")).to_contain_text("needs a second image")
    draw(page, "a cat", seed=2)
    draw(page, "a dog", seed=2)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".compare figcaption")).to_have_text(["a dog", "a cat"])
    page.locator(".thumb").nth(2).click()
    expect(page.locator(".compare figcaption")).to_have_text(["a dog, seed 2", "a cat, seed 1"])
    slider = page.get_by_role("slider", name="Boundary between the two images")
    slider.fill("20")
    assert page.locator(".compare").evaluate("(element) => element.style.getPropertyValue('--boundary')") == "20%"
    page.get_by_role("button", name="Swap").click()
    expect(page.locator(".compare figcaption")).to_have_text(["a cat, seed 1", "a dog, seed 2"])
    page.keyboard.press("Escape")
    expect(page.locator(".single")).to_be_visible()


def test_deleting_can_be_undone_and_outlives_a_reload(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    for seed in range(3):
        draw(page, "a cat", seed=seed)
    page.locator(".tools").get_by_role("button", name="Delete").click()
    expect(page.locator(".thumb")).to_have_count(2)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".thumb")).to_have_count(3)
    page.locator(".tools").get_by_role("button", name="Delete").click()
    page.reload()
    expect(page.locator(".thumb")).to_have_count(2)
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("button", name="Keep them").click()
    expect(page.locator(".thumb")).to_have_count(2)
    page.get_by_role("button", name="Delete all").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(".thumb")).to_have_count(0)
    page.reload()
    expect(page.locator("#gallery-empty")).to_be_visible()


def test_prompts_are_remembered_and_found(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    for prompt in ("a red car", "a blue car", "a red bus", "a red car"):
        draw(page, prompt)
    page.fill("#prompt", "a draft")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("a draft")
    page.locator("#history-button").click()
    expect(page.locator(".history-prompt")).to_have_text(["a red car", "a red bus", "a blue car"])
    page.keyboard.type("car RED")
    expect(page.locator(".history-prompt")).to_have_text(["a red car"])
    page.locator(".history-prompt").click()
    expect(page.locator("#prompt")).to_have_value("a red car")
    page.locator("#history-button").click()
    page.get_by_role("button", name="Forget a blue car").click()
    expect(page.locator(".history-prompt")).to_have_text(["a red car", "a red bus"])


def test_everything_works_by_keyboard(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url)
    expect(page.locator("#prompt")).to_be_focused()
    for prompt in ("one", "two", "three"):
        page.keyboard.press("Control+A")
        page.keyboard.type(prompt)
        page.keyboard.press("Control+Enter")
        expect(page.locator(".facts-prompt")).to_have_text(prompt)
        expect(page.locator(".composer.running")).to_have_count(0)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("() => document.activeElement.id || document.activeElement.textContent")
        reached.append(name)
        if page.evaluate("() => document.activeElement.classList.contains('thumb')"):
            break
        outlined = page.evaluate(
            "() => { const e = document.activeElement; const s = (e.closest('.compare, label') ?? e);"
            " return getComputedStyle(e).outlineStyle !== 'none' || getComputedStyle(s).outlineStyle !== 'none'; }"
        )
        assert outlined, f"{name} shows no focus"
    fields = {"go", "size", "images", "seed", "lock", "dice", "guidance-range", "guidance", "temperature", "negative"}
    buttons = {"reset", "pixels", "export", "delete-all", "Use all settings", "Only the prompt", "Download"}
    assert fields | buttons <= set(reached)
    page.keyboard.press("ArrowRight")
    expect(page.locator(".facts-prompt")).to_have_text("two")
    page.keyboard.press("End")
    expect(page.locator(".facts-prompt")).to_have_text("one")
    page.keyboard.press("Delete")
    expect(page.locator(".thumb")).to_have_count(2)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.locator("#prompt")).to_be_focused()


@pytest.mark.parametrize(("width", "height"), [(360, 740), (320, 256)], ids=["phone", "zoom of 400 %"])
def test_narrow_screens_scroll_one_way(
    open_page: Callable[..., "Page"], stub: StubServer, width: int, height: int
) -> None:
    from playwright.sync_api import expect

    page = open_page(stub.url, viewport={"width": width, "height": height}, has_touch=True)
    page.fill("#prompt", "a cat with a very long name: " + "Donaudampfschifffahrtsgesellschaftskapit\u00e4n" * 3)
    page.locator("#go").tap()
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator(".facts-list")).to_contain_text("Time")
    page.locator("#settings > summary").tap()
    page.locator("#more > summary").tap()
    expect(page.locator("#guidances")).to_be_visible()
    wide = """() => [...document.body.querySelectorAll('*')].filter((element) => {
        if (element.closest('.scales, .symbols, .visually-hidden, dialog, .skip')) return false;
        const {left, right, width} = element.getBoundingClientRect();
        return width && (right > innerWidth + 0.5 || left < -0.5);
    }).map((element) => element.outerHTML.slice(0, 80))"""
    assert page.evaluate(wide) == []
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    box, settings = (page.locator(selector).bounding_box() for selector in (".single", "#settings"))
    assert box is not None and settings is not None
    assert box["width"] > 0.6 * width
    assert box["y"] + box["height"] <= settings["y"]  # the image comes before its many settings
    page.locator("#help-button").tap()
    dialog = page.locator("#help").bounding_box()
    assert dialog is not None
    assert dialog["x"] >= 0
    assert dialog["x"] + dialog["width"] <= width


def test_other_shapes_and_adapters_are_offered(open_page: Callable[..., "Page"], stub: StubServer) -> None:
    from playwright.sync_api import expect

    sides = [(512, 512), (1024, 1024), (624, 416), (1248, 832), (416, 624)]
    sizes = [{"width": width, "height": height, "grids": GRIDS, "image_bytes": 0} for width, height in sides]
    stub.card = {**CARD, "sizes": sizes, "adapters": ["ink", "clay"]}
    page = open_page(stub.url)
    expect(page.locator(".shape")).to_have_text(["3:2", "1:1", "2:3"])
    expect(page.locator("#size option")).to_have_text(["512 \u00d7 512", "1024 \u00d7 1024"])
    page.select_option("#size", "1024x1024")
    page.get_by_role("radio", name="3:2").check(force=True)
    expect(page.locator("#size")).to_have_value("1248x832")
    page.locator("#more > summary").click()
    page.select_option("#adapter", "clay")
    page.fill("#adapter-scale", "0.5")
    draw(page, "a cat", seed=1)
    body: dict[str, Any] = stub.bodies[0]
    assert (body["size"], body["lora"]) == ("1248x832", {"name": "clay", "scale": 0.5})
    page.select_option("#adapter-2", "ink")
    expect(page.locator("#adapter-3")).to_have_count(0)  # there are no more
    expect(page.locator("#adapter-2 option:disabled")).to_have_text(["clay"])
    page.fill("#adapter-scale-2", "much")
    page.locator("#go").click()
    expect(page.locator("#adapter-scale-2-error")).to_have_text("Give a number from -100 to 100.")
    page.fill("#adapter-scale-2", "-1")
    page.fill("#top-k", "1")
    draw(page, "a dog", seed=1)
    both = [{"name": "clay", "scale": 0.5}, {"name": "ink", "scale": -1}]
    assert (stub.bodies[1]["lora"], stub.bodies[1]["top_k"]) == (both, 1)
    expect(page.locator(".facts-list")).to_contain_text("Adapterink, -1")
    page.select_option("#adapter", "")
    page.get_by_role("button", name="Use all").click()
    expect(page.locator("#adapter")).to_have_value("clay")
    expect(page.locator("#toast-text")).to_contain_text("top-k 1")
    page.reload()
    expect(page.locator("#size")).to_have_value("1248x832")
    expect(page.locator("#adapter-2")).to_have_value("ink")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Callable[..., "Page"], stub: StubServer, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect

    stub.card, stub.draw = {**CARD, "alpha": True}, partial(drawn, alpha=True)
    page = open_page(stub.url, color_scheme=scheme, bypass_csp=True)
    options = {} if scheme == "light" else {"runOnly": ["color-contrast"]}  # all else is the same in the dark

    def check(state: str) -> None:
        result = Axe().run(page, options=options)
        rules = result.response["violations"]
        found = {rule["id"]: [node["target"] for node in rule["nodes"]] for rule in rules}
        assert found == {}, state

    check("empty")
    draw(page, "a zeppelin", seed=1)
    page.fill("#negative", "x")
    page.locator("#more > summary").click()
    check("one image")
    page.fill("#guidances", "1, 2")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".thumb")).to_have_count(3)
    expect(page.locator(".composer.running")).to_have_count(0)
    check("table")
    page.fill("#seed", "-1")
    page.locator("#go").click()
    check("wrong seed")
    page.locator(".thumb").first.click()
    page.get_by_role("button", name="Compare").click()
    check("comparison")
    page.keyboard.press("Escape")
    page.locator(".tools").get_by_role("button", name="Delete").click()
    check("message")
    for opener in ("#history-button", "#help-button", ".tools button:has-text('Code')", "#delete-all"):
        page.locator(opener).click()
        check(opener)
        page.keyboard.press("Escape")
