"""Sizes: reading them, and the native size behind each."""

import pytest

from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.sizes import choose_size, parse_size, quality_of
from tests.support.recorded_requests import large_card, small_card

LARGE, SMALL = large_card(), small_card()


def chosen(asked: str, card: object = LARGE) -> tuple[str, str, bool]:
    size = choose_size(parse_size(asked), card)
    return size.text, f"{size.native.width}x{size.native.height}", size.resized


@pytest.mark.parametrize(
    ("asked", "native"),
    [
        ("256x256", "256x256"),
        ("512x512", "512x512"),
        ("768x768", "768x768"),
        ("1024x1024", "1024x1024"),
        ("1536x1024", "1248x832"),
        ("1024x1536", "832x1248"),
        ("1792x1024", "1344x768"),
        ("1024x1792", "768x1344"),
        ("1536x864", "1344x768"),
        ("3840x2160", "1344x768"),
        ("2880x2880", "1024x1024"),
        ("128x128", "256x256"),
        ("384x384", "512x512"),
        ("3072x1024", "1776x592"),
        ("1024x3072", "592x1776"),
        ("16x16", "256x256"),
    ],
)
def test_the_native_size_is_nearest_in_ratio_and_then_in_area(asked: str, native: str) -> None:
    assert chosen(asked) == (asked, native, asked != native)


@pytest.mark.parametrize("asked", ["64x64", "256x256", "512x512", "1024x1024", "1536x1024"])
def test_a_model_of_one_size_answers_every_size(asked: str) -> None:
    assert chosen(asked, SMALL) == (asked, "64x64", asked != "64x64")


def test_every_native_size_is_answered_as_it_is() -> None:
    assert len(LARGE.sizes) == 60
    for size in LARGE.sizes:
        asked = choose_size((size.width, size.height), LARGE)
        assert (asked.native, asked.resized) == (size, False)


def test_what_is_cropped() -> None:
    assert choose_size((1536, 1024), LARGE).cropped == 0
    assert choose_size((1792, 1024), LARGE).cropped == 0
    assert choose_size((1536, 864), LARGE).cropped == pytest.approx(0.0156, abs=1e-3)
    assert choose_size((1536, 1024), SMALL).cropped == pytest.approx(1 / 3)
    assert choose_size((1024, 1536), SMALL).cropped == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("quality", "large"), [(None, "1024x1024"), ("low", "256x256"), ("medium", "512x512"), ("high", "1024x1024")]
)
def test_quality_picks_the_budget_where_the_size_is_open(quality: str | None, large: str) -> None:
    size = choose_size(None, LARGE, quality=quality)
    assert (size.text, size.resized) == (large, False)
    assert choose_size(None, SMALL, quality=quality).text == "64x64"


@pytest.mark.parametrize(
    ("side", "quality"), [(64, "low"), (256, "low"), (512, "medium"), (768, "high"), (1024, "high")]
)
def test_a_native_size_has_a_quality(side: int, quality: str) -> None:
    size = SMALL.sizes[0].model_copy(update={"width": side, "height": side})
    assert quality_of(size) == quality


@pytest.mark.parametrize(
    "text",
    ["", "AUTO", "1024", "1024x", "x1024", "1024X1024", "1024*1024", " 512x512", "512x512 ", "512 x 512", "0x512",
     "-1x5", "01x16", "1e3x1e3", "512x512x3", "\u0661\u0666x16", "9999999x16", "512x512\n", "x" * 10_000],
    ids=lambda text: ascii(text)[:14],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_size(text)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "size", "invalid_value")
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ((1000, 1000), "multiples of 16"),
        ((1024, 1030), "multiples of 16"),
        ((64, 208), "ratio"),
        ((208, 64), "ratio"),
        ((3856, 2160), "3,840"),
        ((3856, 1600), "3,840"),
        ((3840, 2176), "3,840"),
        ((2896, 2896), "3,840"),
    ],
)
def test_sizes_out_of_bounds_are_refused(asked: tuple[int, int], word: str) -> None:
    with pytest.raises(ApiError, match=word) as caught:
        choose_size(asked, LARGE)
    assert (caught.value.status, caught.value.param) == (400, "size")


def test_a_native_size_may_lie_outside_of_the_bounds() -> None:
    odd = SMALL.sizes[0].model_copy(update={"width": 40, "height": 8})
    assert choose_size((40, 8), small_card(sizes=(odd,))).native == odd


def test_an_insisted_native_size_is_answered_or_refused_with_the_nearest() -> None:
    assert not choose_size((1248, 832), LARGE, exact_native=True).resized
    assert not choose_size(None, LARGE, exact_native=True).resized
    with pytest.raises(ApiError, match="1248x832") as caught:
        choose_size((1536, 1024), LARGE, exact_native=True)
    assert caught.value.param == "size"
