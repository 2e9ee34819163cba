"""Images made again from their records in Python, without the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.image_files import encode_image, resize_as_recorded
from bitvar.pipeline.record import ImageRecord, read_record
from bitvar.pipeline.reproduce import check_same_model, recorded_dtype, recorded_model
from bitvar.pipeline.sizes import nearest_size, parse_aspect_ratio, parse_size
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    return folder / "tiny"


def test_a_server_makes_a_recorded_image_again(model: Path, tmp_path: Path) -> None:
    pipe = InfinityPipeline.from_pretrained(model, device="cpu")
    width, height = nearest_size(pipe, parse_size("20x16").in_pixels(pipe.sizes[0]), any_distance=True)
    output = pipe("a red dog", seed=3, width=width, height=height)
    exact = {"requested_width": 20, "requested_height": 16, "exact_size": True, "enlarge": 2}
    record = ImageRecord.of(output.metadata[0], **exact)
    image = resize_as_recorded(output.images[0], record)
    assert image.size == record.file_size == (40, 32)
    path = tmp_path / "a.png"
    path.write_bytes(encode_image(image, record))

    kept = read_record(path)
    assert recorded_model(kept, path) is None
    again = InfinityPipeline.from_pretrained(model, dtype=recorded_dtype(kept), device="cpu")
    assert check_same_model(kept, again) == []
    drawn = again(kept.prompt, seed=kept.seed, width=kept.width, height=kept.height, top_p=kept.top_p).images[0]
    assert encode_image(resize_as_recorded(drawn, kept), kept) == path.read_bytes()


def test_differences_are_listed_and_another_model_is_refused(model: Path) -> None:
    pipe = InfinityPipeline.from_pretrained(model, device="cpu")
    values = json.loads(ImageRecord.of(pipe("a dog", seed=1).metadata[0]).json_text())
    other = ImageRecord.parse(
        values | {"dtype": "bfloat16", "version": "0.0.1", "batch_invariant": False}, source="the test"
    )
    batch, version, precision = check_same_model(other, pipe)
    assert batch.startswith("made in one batch")
    assert version.startswith("made with bitvar '0.0.1'")
    assert precision == "made with precision 'bfloat16', and this is 'float32'; details may differ"
    with pytest.raises(UsageError, match=r"is not the model that made the image[\s\S]*another@0"):
        check_same_model(ImageRecord.parse(values | {"model": "another@0"}, source="the test"), pipe)


def test_ratios_take_the_area_of_the_default_size() -> None:
    ratio = parse_aspect_ratio("4:1")
    assert ratio.in_pixels((16, 16)) == (32, 8)
    assert ratio.is_matched_by((64, 16), (16, 16))
    assert not ratio.is_matched_by((16, 16), (16, 16))
    assert not parse_size("20x16").is_matched_by((16, 16), (16, 16))


def test_records_need_no_command_line() -> None:
    modules = ("image_files", "record", "reproduce", "sizes", "unknown_words")
    code = f"import sys, {', '.join(f'bitvar.pipeline.{name}' for name in modules)}\n"
    code += "print([name for name in sys.modules if name.startswith('bitvar.cli')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
