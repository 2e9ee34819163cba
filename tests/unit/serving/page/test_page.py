"""The page in Chromium, against the real server and the embedded model."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from bitvar.pipeline.record import read_record

if TYPE_CHECKING:
    from playwright.sync_api import Page


def draw(page: "Page", prompt: str, *, seed: int, images: int = 1) -> None:
    """Draw a prompt, and wait until all its images are in the gallery."""
    from playwright.sync_api import expect

    before = page.locator(".thumb").count()
    page.fill("#prompt", prompt)
    page.fill("#seed", str(seed))
    page.keyboard.press("Control+Enter")
    expect(page.locator(".thumb")).to_have_count(before + images)
    expect(page.locator(".composer.running")).to_have_count(0)


def pixels(page: "Page", selector: str) -> list[str]:
    """What images show, as text that differs if they do."""
    script = """(images) => images.map((image) => {
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext('2d').drawImage(image, 0, 0);
        return canvas.toDataURL();
    })"""
    return page.eval_on_selector_all(selector, script)


def test_drawing_keeping_and_reusing(open_page: Callable[..., "Page"], server_url: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    draw(page, "a red apple, 3D emoji", seed=9223372036854775807)
    expect(page.locator(".scale-size")).to_have_text(["1 \u00d7 1", "2 \u00d7 2", "4 \u00d7 4", "8 \u00d7 8"])
    expect(page.locator(".scale-share")).to_have_text(["1 %", "5 %", "19 %", "75 %"])
    expect(page.locator(".scale-picture img:not([hidden])")).to_have_count(4)
    scales = pixels(page, ".scale-picture img")
    assert len(set(scales)) == 4
    assert pixels(page, ".single img:last-of-type") == scales[-1:]
    page.locator(".scale").nth(1).focus()
    expect(page.locator("#stage-status")).to_have_text("Scale 2 of 4")
    expect(page.locator(".single img")).to_have_count(1)
    assert pixels(page, ".single img") == scales[1:2]

    # The file is as the server wrote it: its settings are inside, and the command line can read them.
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "a-red-apple-3d-emoji-9223372036854775807.png"
    file = tmp_path / "apple.png"
    download.value.save_as(file)
    record = read_record(file)
    assert (record.prompt, record.seed) == ("a red apple, 3D emoji", 2**63 - 1)

    # The gallery outlives a reload, with the scales and the file.
    page.reload()
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator(".scale-picture img:not([hidden])")).to_have_count(4)
    assert pixels(page, ".scale-picture img") == scales

    # Another browser reads the settings from the file, and draws the same image.
    other = open_page(server_url)
    other.set_input_files("#file", file)
    expect(other.locator(".facts-prompt")).to_have_text("a red apple, 3D emoji")
    other.get_by_role("button", name="Use all").click()
    expect(other.locator("#seed")).to_have_value("9223372036854775807")
    other.locator("#go").click()
    expect(other.locator(".thumb")).to_have_count(2)
    expect(other.locator(".composer.running")).to_have_count(0)
    expect(other.locator(".facts-list")).to_contain_text("Time")
    assert pixels(other, ".single img:last-of-type") == scales[-1:]


def test_patterns_tables_and_export(open_page: Callable[..., "Page"], server_url: str) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    page.fill("#prompt", "a {red|green} {car|bus}")
    expect(page.locator("#prompt-hint")).to_have_text("4 prompts, 4 images.")
    expect(page.locator("#go-label")).to_have_text("Generate 4 images")
    draw(page, "a {red|green} {car|bus}", seed=1, images=4)
    expect(page.locator(".tile-item figcaption")).to_have_text(["a red car", "a red bus", "a green car", "a green bus"])
    assert len(set(pixels(page, ".tile img"))) == 4

    page.locator("#more > summary").click()
    page.fill("#guidances", "1, 3")
    page.fill("#images", "2")
    draw(page, "a cat", seed=5, images=4)
    expect(page.locator(".sheet-table thead th")).to_have_text(["guidance 1", "guidance 3"])
    expect(page.locator(".sheet-table tbody th")).to_have_text(["seed 5", "seed 6"])
    page.locator(".tile").nth(3).click()
    expect(page.locator(".facts-list")).to_contain_text("Seed6")
    expect(page.locator(".facts-list")).to_contain_text("Guidance3")

    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    archive = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
    settings = json.loads(archive.read("settings.json"))
    assert len(settings) == 8
    assert {entry["prompt"] for entry in settings} == {"a cat", "a red car", "a red bus", "a green car", "a green bus"}
    for entry in settings:
        with Image.open(io.BytesIO(archive.read(entry["file"]))) as image:
            assert json.loads(image.text["bitvar"])["seed"] == int(entry["seed"])


def test_larger_files_and_warnings(open_page: Callable[..., "Page"], server_url: str) -> None:
    from playwright.sync_api import expect

    page = open_page(server_url)
    expect(page.locator("#shape-field")).to_be_hidden()
    page.select_option("#size", "256x256")
    draw(page, "a zeppelin", seed=1)
    expect(page.locator(".facts-list")).to_contain_text("256 \u00d7 256, drawn at 64 \u00d7 64")
    expect(page.locator(".warning")).to_contain_text("zeppelin")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    with Image.open(download.value.path()) as image:
        assert image.size == (256, 256)
