"""Detection in image files, with the embedded model and its own tokenizer."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvar.errors import UsageError, WeightsError
from bitvar.imaging.alpha import flatten
from bitvar.pipeline import InfinityPipeline
from bitvar.provenance.detection import WatermarkDetector, threshold
from bitvar.sampling.watermark import Watermark
from bitvar.weights.hub import FINE_TOKENIZER
from tests.support.tiny import tiny_pipeline

STRONG = Watermark(bytes(range(32)), delta=8.0)
OTHER = Watermark(bytes(32), delta=8.0)


@pytest.fixture(scope="module")
def detector() -> WatermarkDetector:
    return WatermarkDetector.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def images() -> tuple[Image.Image, Image.Image]:
    """A marked image, and the same prompt and seed unmarked."""
    pipe = InfinityPipeline.from_pretrained(device="cpu")
    marked, plain = (pipe("a pizza on a blue background", seed=2, watermark=mark).images[0] for mark in (STRONG, None))
    return marked, plain


def test_a_strong_watermark_is_found_in_the_pixels(
    detector: WatermarkDetector, images: tuple[Image.Image, Image.Image]
) -> None:
    marked, plain = images
    result = detector.detect(marked, STRONG)
    assert result.is_marked()
    assert (result.size, result.native_size, result.resized) == ((64, 64), (64, 64), False)
    assert not detector.detect(marked, OTHER).is_marked()
    assert not detector.detect(plain, STRONG).is_marked()
    assert result.count.p_value < 1e-3 < detector.detect(plain, STRONG).count.p_value


def test_refinement_brings_the_bits_closer(
    detector: WatermarkDetector, images: tuple[Image.Image, Image.Image]
) -> None:
    plain, refined = (detector.detect(images[0], STRONG, refine_steps=steps).count.z for steps in (0, 8))
    assert refined > plain > 0


def test_the_size_may_be_named_and_other_sizes_are_scaled_back(
    detector: WatermarkDetector, images: tuple[Image.Image, Image.Image]
) -> None:
    large = images[0].resize((256, 256), Image.Resampling.LANCZOS)
    result = detector.detect(large, STRONG, size=(64, 64))
    assert result.resized
    assert result.count.z > 0.5 * detector.detect(images[0], STRONG).count.z
    wide = detector.detect(images[0].crop((0, 8, 64, 56)), STRONG)
    assert (wide.size, wide.native_size) == ((64, 48), (64, 64))
    with pytest.raises(UsageError, match="doesn't generate 65x64"):
        detector.detect(large, STRONG, size=(65, 64))


def test_files_are_read_and_refused(
    detector: WatermarkDetector, images: tuple[Image.Image, Image.Image], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    images[0].save(path)
    assert detector.detect_file(path, STRONG) == detector.detect(images[0], STRONG)
    (tmp_path / "b.png").write_bytes(b"no image")
    for name in ("b.png", "c.png"):
        with pytest.raises(UsageError, match=name):
            detector.detect_file(tmp_path / name, STRONG)


def test_a_key_that_marks_no_scale_is_refused(
    detector: WatermarkDetector, images: tuple[Image.Image, Image.Image]
) -> None:
    with pytest.raises(UsageError, match="marks no scale"):
        detector.detect(images[0], Watermark(bytes(32), first_scale=4))


def test_another_tokenizer_is_refused() -> None:
    with pytest.raises(WeightsError):
        WatermarkDetector.from_pretrained(tokenizer=FINE_TOKENIZER)
    with pytest.raises(UsageError):
        WatermarkDetector.from_pretrained("no-such-model")


def test_thresholds_are_those_of_the_normal_distribution() -> None:
    assert abs(threshold(0.001) - 3.0902) < 1e-4
    assert threshold(0.5) == 0
    for rate in (0.0, 0.6, -1.0, float("nan")):
        with pytest.raises(UsageError, match="false positive rate"):
            threshold(rate)


def test_over_keys_an_unmarked_image_counts_like_a_coin(
    detector: WatermarkDetector, images: tuple[Image.Image, Image.Image]
) -> None:
    """The null distribution is exact over keys, whatever the image: its mean is 0 and its deviation 1."""
    pixels = np.asarray(images[1])[None]
    steps = detector.codec.encode_batch(pixels).steps
    from bitvar.provenance.detection import count_green

    bits = [step.bits[0] for step in steps]
    values = [count_green(bits, Watermark(bytes([i]) * 32), patch_size=2).z for i in range(200)]
    assert abs(float(np.mean(values))) < 0.25
    assert abs(float(np.std(values)) - 1) < 0.2


def encoded(image: Image.Image, form: str, **options: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def test_a_lossless_copy_changes_nothing(detector: WatermarkDetector, images: tuple[Image.Image, Image.Image]) -> None:
    original = detector.detect(images[0], STRONG)
    assert detector.detect(encoded(images[0], "WEBP", lossless=True), STRONG) == original
    assert detector.detect(encoded(images[0], "JPEG", quality=90), STRONG).count.z > 0


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that draws opacity, of random weights."""
    folder = tmp_path_factory.mktemp("clear")
    tiny_pipeline(folder, image_channels=4).save_pretrained(folder / "clear")
    return folder / "clear"


def test_transparent_images_are_tested_with_their_opacity(clear: Path, tmp_path: Path) -> None:
    pipe, detector = InfinityPipeline.from_pretrained(clear, device="cpu"), WatermarkDetector.from_pretrained(clear)
    mark = Watermark(bytes(range(32)), delta=8.0, first_scale=0)
    image = pipe("a red dog", seed=2, watermark=mark).images[0]
    assert image.mode == "RGBA"
    result = detector.detect(image, mark)
    for name in ("a.png", "a.webp"):
        image.save(tmp_path / name, lossless=True, exact=True)
        assert detector.detect_file(tmp_path / name, mark) == result
    small = detector.detect(image.resize((24, 20)), mark)
    assert small.resized and small.count.total == result.count.total
    assert detector.detect(flatten(image), mark).count.total == result.count.total


def test_a_model_without_opacity_sees_transparent_images_on_white(
    detector: WatermarkDetector, images: tuple[Image.Image, Image.Image], tmp_path: Path
) -> None:
    image = images[0].convert("RGBA")
    assert detector.detect(image, STRONG) == detector.detect(images[0], STRONG)
    image.paste((0, 0, 0, 0), (0, 0, 20, 20))
    image.save(tmp_path / "a.png")
    expected = detector.detect(flatten(image), STRONG)
    assert detector.detect(image, STRONG) == detector.detect_file(tmp_path / "a.png", STRONG) == expected
