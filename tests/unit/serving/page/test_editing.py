"""Editing on the page, in Chromium, against the real server and the embedded model."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from bitvar.pipeline.record import read_record
from tests.support.image_files import encoded, smooth_image

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDE = (96, 64)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of somebody else."""
    file = tmp_path / "holiday.png"
    smooth_image(WIDE).save(file)
    return file


def open_photo(page: "Page", photo: Path) -> None:
    from playwright.sync_api import expect

    page.set_input_files("#file", photo)
    expect(page.locator(".editing canvas")).to_be_visible()
    expect(page.locator("#edit-name")).to_have_text("holiday.png")


def paint(page: "Page", *points: tuple[float, float]) -> None:
    """Draw a stroke through points, as shares of the image."""
    box = page.locator(".editing canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def run(page: "Page", prompt: str | None = None, images: int = 1) -> None:
    from playwright.sync_api import expect

    before = page.locator(".thumb").count()
    if prompt is not None:
        page.fill("#prompt", prompt)
    page.locator("#go").click()
    expect(page.locator(".thumb img:not([hidden])")).to_have_count(before + images)
    expect(page.locator(".composer.running")).to_have_count(0)


def downloaded(page: "Page", folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(folder / "made.png")
    return folder / "made.png"


def marked(page: "Page") -> Any:
    """Where the painted mask is, as rows of booleans."""
    script = """(canvas) => [canvas.width, canvas.height, ...canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data.filter((_, index) => index % 4 === 3)]"""
    width, height, *alpha = page.locator(".editing canvas").evaluate(script)
    return np.array(alpha).reshape(height, width) > 127


def sent(page: "Page", act: Callable[[], object]) -> dict[str, Any]:
    """The form that an action sends, by field. (Playwright doesn't see the files of a form.)"""
    page.evaluate(
        """() => {
            const [original, forms] = [window.fetch, []];
            window.forms = forms;
            window.fetch = (path, options) => {
                if (options?.body instanceof FormData) forms.push(options.body);
                return original(path, options);
            };
        }"""
    )
    act()
    page.wait_for_function("() => window.forms.length")
    fields = page.evaluate(
        """async () => Object.fromEntries(await Promise.all([...window.forms[0]].map(async ([name, value]) =>
            [name, typeof value === 'string' ? value : [...new Uint8Array(await value.arrayBuffer())]])))"""
    )
    return {name: bytes(value) if isinstance(value, list) else value for name, value in fields.items()}


def test_a_painted_part_changes_and_the_rest_stays(
    open_page: Callable[..., "Page"], server_url: str, photo: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    open_photo(page, photo)
    expect(page.locator("#exact")).to_be_disabled()
    expect(page.locator("#strength-value")).to_have_text("50 %")
    paint(page, (0.6, 0.3), (0.8, 0.7))
    expect(page.locator("#mask-state")).to_contain_text("% of the image may change")
    expect(page.locator("#strength-value")).to_have_text("100 %")
    expect(page.locator("#exact")).to_be_enabled()
    expect(page.locator("#size-field")).to_be_hidden()
    expect(page.locator("#go-label")).to_have_text("Edit the image")
    run(page, "a red apple, 3D emoji")
    expect(page.locator(".facts-list")).to_contain_text("100 % drawn anew, the rest exactly as it was")

    file = downloaded(page, tmp_path)
    record = read_record(file)
    assert record.edit is not None and (record.edit.exact, record.edit.kept_scales) == (True, 0)
    assert (record.prompt, record.image_size) == ("a red apple, 3D emoji", WIDE)
    made, before = np.asarray(Image.open(file)), np.asarray(Image.open(photo))
    assert np.array_equal(made[:, :48], before[:, :48])  # left of the stroke
    assert not np.array_equal(made[20:44, 60:76], before[20:44, 60:76])

    page.locator(".made-from").click()
    expect(page.locator(".compare figcaption")).to_have_text(["Before", "After"])
    expect(page.locator("#swap")).to_be_hidden()
    page.locator("#close-compare").click()

    # Gallery and source outlive a reload; the edit that was prepared doesn't.
    page.reload()
    page.locator(".made-from").click()
    expect(page.locator(".compare img").first).to_have_js_property("naturalWidth", WIDE[0])
    expect(page.locator("#editing")).to_be_hidden()


def test_steps_are_undone_inverted_and_cleared(open_page: Callable[..., "Page"], server_url: str, photo: Path) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    open_photo(page, photo)
    states = [marked(page)]
    assert not states[0].any()
    paint(page, (0.2, 0.5), (0.4, 0.5))
    states.append(marked(page))
    page.get_by_text("Erase", exact=True).click()
    paint(page, (0.4, 0.5))
    states.append(marked(page))
    page.locator("#mask-invert").click()
    states.append(marked(page))
    page.locator("#mask-clear").click()
    states.append(marked(page))
    assert states[1].any() and states[2].sum() < states[1].sum() and not states[4].any()
    assert (states[3] == ~states[2]).mean() > 0.999  # but for half-painted pixels of the edge
    for state in reversed(states[:-1]):
        page.locator("#mask-undo").click()
        assert np.array_equal(marked(page), state)
    expect(page.locator("#mask-undo")).to_be_disabled()
    expect(page.locator("#mask-state")).to_contain_text("Paint over what should change")


def test_what_is_painted_is_what_is_sent(open_page: Callable[..., "Page"], server_url: str, photo: Path) -> None:
    page = open_page(server_url)
    open_photo(page, photo)
    page.locator("#brush-size").fill("30")
    paint(page, (0.75, 0.5))
    page.locator("#strength").fill("60")
    page.locator("#exact").uncheck()
    page.fill("#seed", "9223372036854775807")
    fields = sent(page, lambda: run(page, "a cat"))
    mask = np.asarray(Image.open(io.BytesIO(fields["mask"])))
    assert mask.shape == (64, 96, 4) and fields["image"] == photo.read_bytes()
    rows, columns = np.nonzero(mask[..., 3] < 128)
    assert abs(rows.mean() - 31.5) < 1.5 and abs(columns.mean() - 71.5) < 1.5
    assert abs(np.ptp(rows) + 1 - 0.3 * 96) <= 2  # a circle of the brush's size
    assert {name: fields[name] for name in ("prompt", "strength", "seed", "size", "stream")} == {
        "prompt": "a cat",
        "strength": "0.6",
        "seed": "9223372036854775807",
        "size": "64x64",
        "stream": "true",
    }
    assert "exact" not in fields


def test_the_keyboard_paints(open_page: Callable[..., "Page"], server_url: str, photo: Path) -> None:
    page = open_page(server_url)
    open_photo(page, photo)
    page.locator(".editing canvas").focus()
    before = page.locator("#brush-size").input_value()
    page.keyboard.press("]")
    assert int(page.locator("#brush-size").input_value()) > int(before)
    page.keyboard.down("Space")
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.keyboard.up("Space")
    columns = np.nonzero(marked(page).any(axis=0))[0] / marked(page).shape[1]
    assert columns.min() < 0.45 and columns.max() > 0.6
    page.keyboard.press("ArrowDown")  # moves without painting
    state = marked(page)
    page.keyboard.press("Control+z")
    assert state.any() and not marked(page).any()


def test_images_of_the_gallery_are_edited_and_varied(open_page: Callable[..., "Page"], server_url: str) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    page.select_option("#size", "256x256")
    run(page, "a {b|c\\} \\| red apple".replace("{b|c\\}", "big"))
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.locator("#edit-name")).to_contain_text("red apple")
    expect(page.locator("#strength")).to_be_disabled()
    fields = sent(page, lambda: run(page, "a big green apple"))
    assert (fields["method"], fields["source_prompt"], fields["exact"]) == ("localized", "a big | red apple", "true")
    assert not {"strength", "mask", "size"} & fields.keys()
    expect(page.locator(".facts-list")).to_contain_text("what differs between the prompts")
    page.locator("#edit-back").click()
    page.locator("#localized").uncheck()
    assert sent(page, lambda: run(page, "a green apple"))["strength"] == "0.5"
    page.locator("#edit-back").click()
    paint(page, (0.5, 0.5))
    expect(page.locator("#localized-field")).to_be_hidden()
    page.locator("#mask-undo").click()
    page.locator("#localized").check()
    own = sent(page, lambda: run(page, "a big \\| red apple"))  # the same prompt asks for nothing, so all is redrawn
    assert own["strength"] == "0.5" and "method" not in own
    page.locator("#edit-back").click()
    page.fill("#images", "2")
    expect(page.locator("#go-label")).to_have_text("Edit into 2 images")
    fields = sent(page, lambda: page.locator("#vary-layout").click())
    assert (fields["prompt"], fields["keep_scales"], fields["temperature"]) == ("a big | red apple", "2", "1")
    assert fields["size"] == "256x256" and "mask" not in fields
    expect(page.locator(".thumb img:not([hidden])")).to_have_count(6)
    expect(page.locator(".composer.running")).to_have_count(0)
    page.locator("#edit-back").click()
    assert sent(page, lambda: page.locator("#vary-colours").click())["keep_scales"] == "1"
    expect(page.locator(".composer.running")).to_have_count(0)
    page.locator("#edit-close").click()
    expect(page.locator("#editing")).to_be_hidden()
    expect(page.locator("#go-label")).to_have_text("Generate 2 images")
    expect(page.locator("#size-field")).to_be_visible()


def test_edits_need_no_prompt(open_page: Callable[..., "Page"], server_url: str, photo: Path) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    open_photo(page, photo)
    assert "prompt" not in sent(page, lambda: run(page, ""))
    expect(page.locator(".warning").first).to_contain_text("another ratio")
    expect(page.locator(".thumb")).to_have_attribute("aria-label", "An edited image, seed " + page.input_value("#seed"))
    page.get_by_role("button", name="Code").click()
    expect(page.locator("#code-text")).to_contain_text("image=@source.png")
    with page.expect_download() as download:
        page.locator("#code-source").click()
    assert Path(download.value.path()).read_bytes() == photo.read_bytes()
    expect(page.locator("#code-mask")).to_be_hidden()
    expect(page.locator("#code-tabs label:not([hidden])")).to_have_text(["curl", "Python"])


def test_refusals_are_shown(open_page: Callable[..., "Page"], server_url: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    file = tmp_path / "holiday.png"
    file.write_bytes(encoded(smooth_image((2, 200))))
    open_photo(page, file)
    page.locator("#go").click()
    expect(page.locator(".note.failed")).to_contain_text("more elongated than 64 to 1")
    broken = tmp_path / "broken.png"
    broken.write_bytes(file.read_bytes()[:60])
    page.set_input_files("#file", broken)
    expect(page.locator("#toast")).to_contain_text("broken.png can't be read as an image.")


def test_on_a_phone_the_image_comes_into_view(open_page: Callable[..., "Page"], server_url: str) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url, viewport={"width": 390, "height": 844})
    run(page, "a red apple")
    page.get_by_role("button", name="Edit", exact=True).click()
    expect(page.locator(".editing canvas")).to_be_in_viewport(ratio=0.95)
    paint(page, (0.5, 0.5))
    assert marked(page).any()
    page.locator("#edit-go").click()
    expect(page.locator(".thumb img:not([hidden])")).to_have_count(2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_editor_has_no_known_fault(
    open_page: Callable[..., "Page"], server_url: str, photo: Path, scheme: Any
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(server_url, color_scheme=scheme, viewport={"width": 390, "height": 844})
    open_photo(page, photo)
    paint(page, (0.5, 0.5))
    found: Sequence[Any] = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
