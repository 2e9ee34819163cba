"""Images brought to a size: nothing is cut without a word, and what was made can be seen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bitvar.data.importing import import_set
from bitvar.data.records import ReadOptions
from bitvar.errors import UsageError
from bitvar.imaging.fitting import Fit, lost_area
from bitvar.imaging.sheet import CONTACT_SHEET_IMAGES, contact_sheet
from tests.support.captioned import encoded, make_image


def striped(width: int, height: int, where: tuple[int, int, int, int]) -> Image.Image:
    """Plain white, but for stripes in a box."""
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for x in range(where[0], where[2], 4):
        draw.rectangle((x, where[1], x + 1, where[3] - 1), fill="red")
    return image


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (16, 32)])
@pytest.mark.parametrize("original", [(90, 30), (30, 90), (40, 40), (17, 16)])
@pytest.mark.parametrize("kind", ["cover", "smart", "pad"])
def test_every_fit_gives_the_size(kind: str, original: tuple[int, int], size: tuple[int, int]) -> None:
    made = Fit(kind).apply(make_image(*original), size)
    assert (made.size, made.mode) == (size, "RGB")


def test_padding_keeps_all_and_fills_with_the_colour() -> None:
    image = Image.new("RGB", (90, 30), "blue")
    made = Fit("pad", "#00ff00").apply(image, (30, 30))
    assert made.getpixel((15, 15)) == (0, 0, 255)
    assert made.getpixel((15, 2)) == made.getpixel((15, 27)) == (0, 255, 0)
    assert Fit("pad").apply(image, (30, 30)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("where", [(0, 10, 30, 20), (140, 10, 170, 20), (70, 10, 100, 20)])
def test_a_smart_cut_keeps_what_there_is_to_see(where: tuple[int, int, int, int]) -> None:
    image = striped(170, 40, where)
    whole = (np.asarray(image)[..., 1] < 128).mean() * 170 * 40
    seen = np.asarray(Fit("smart").apply(image, (40, 40)))
    assert (seen[..., 1] < 128).sum() > 0.8 * whole
    turned = np.asarray(Fit("smart").apply(image.transpose(Image.Transpose.ROTATE_90), (40, 40)))
    assert (turned[..., 1] < 128).sum() > 0.8 * whole


def test_a_smart_cut_of_a_plain_image_is_the_middle() -> None:
    image = Image.linear_gradient("L").resize((256, 64)).convert("RGB").rotate(0)
    plain = Image.new("RGB", (256, 64), "white")
    assert np.array_equal(np.asarray(Fit("smart").apply(plain, (32, 32))), np.full((32, 32, 3), 255))
    assert (
        np.abs(
            np.asarray(Fit("smart").apply(image, (32, 32)), int) - np.asarray(Fit("cover").apply(image, (32, 32)), int)
        ).max()
        <= 3
    )


@pytest.mark.parametrize(
    ("original", "size", "lost"),
    [((40, 40), (16, 16), 0), ((80, 40), (16, 16), 0.5), ((40, 80), (16, 16), 0.5), ((50, 40), (16, 16), 0.2)],
)
def test_lost_area(original: tuple[int, int], size: tuple[int, int], lost: float) -> None:
    assert lost_area(original, size) == pytest.approx(lost)


def test_other_fits_and_colours_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'smart'"):
        Fit("smrt")
    with pytest.raises(UsageError, match="Unknown colour"):
        Fit("pad", "whitish")


def source(folder: Path, count: int, size: tuple[int, int] = (60, 30)) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:02d}.png").write_bytes(encoded(make_image(*(size if i % 2 else (30, 30)), seed=i)))
    return folder


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        (Fit(), "around the middle; 2 of 4 lost more than a fifth of their area; --fit pad"),
        (Fit("smart"), "to their strongest edges; 2 of 4 lost more than a fifth"),
        (Fit("pad"), "padded to the size; nothing is cropped"),
    ],
    ids=["cover", "smart", "pad"],
)
def test_importing_says_what_was_cut_and_shows_what_was_made(tmp_path: Path, fit: Fit, words: str) -> None:
    said: list[str] = []
    folder = source(tmp_path / "in", 4)
    import_set(
        folder, tmp_path / "set", size=(16, 16), fit=fit, options=ReadOptions(caption="a noise"), log=said.append
    )
    assert any(words in line for line in said)
    with Image.open(tmp_path / "set" / "contact_sheet.png") as sheet:
        assert sheet.width > 4 * 128


def test_a_contact_sheet_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    paths = sorted(source(tmp_path / "in", 90).iterdir())
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        contact_sheet(paths, tmp_path / f"{name}.png", seed=seed)
    one, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other
    with Image.open(tmp_path / "one.png") as sheet:
        assert sheet.height < (CONTACT_SHEET_IMAGES // 8 + 1) * 140
