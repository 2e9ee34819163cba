"""Structure control of a pipeline: loading, calls, records."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bitvar import InfinityPipeline, UsageError, WeightsError
from bitvar.pipeline.control import Control
from bitvar.pipeline.record import ImageRecord
from tests.support.control import decided_pipeline, drawing, write_adapter
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    decided_pipeline(folder).save_pretrained(folder / "model")
    write_adapter(folder / "lines", folder / "model")
    write_adapter(folder / "untrained", folder / "model", trained=False)
    return folder


@pytest.fixture
def pipe(model: Path) -> InfinityPipeline:
    pipeline = InfinityPipeline.from_pretrained(model / "model", device="cpu")
    pipeline.load_control(model / "lines")
    return pipeline


def drawn(pipe: InfinityPipeline, **options: object) -> list[np.ndarray]:
    return list(pipe("a red circle", seed=3, output_type="np", **options).images)  # type: ignore[arg-type]


def test_a_call_follows_its_control_and_the_next_call_does_not(pipe: InfinityPipeline) -> None:
    plain = drawn(pipe)[0]
    controlled = drawn(pipe, control=drawing())[0]
    assert not np.array_equal(controlled, plain)
    assert not np.array_equal(drawn(pipe, control=drawing(inset=24))[0], controlled)
    assert np.array_equal(drawn(pipe, control=drawing())[0], controlled)
    assert np.array_equal(drawn(pipe)[0], plain)
    assert np.array_equal(drawn(pipe, control=Control(drawing(), strength=0))[0], plain)


def test_an_untrained_adapter_changes_no_pixel(model: Path, pipe: InfinityPipeline) -> None:
    plain = drawn(pipe)[0]
    pipe.load_control(model / "untrained")
    assert np.array_equal(drawn(pipe, control=drawing())[0], plain)


def test_strength_by_scale_and_other_sizes(pipe: InfinityPipeline) -> None:
    whole = drawn(pipe, control=Control(drawing(), strength=1))[0]
    assert np.array_equal(drawn(pipe, control=Control(drawing(), strength=(1, 1, 1)))[0], whole)
    assert not np.array_equal(drawn(pipe, control=Control(drawing(), strength=(1, 0, 0)))[0], whole)
    assert drawn(pipe, control=drawing(), height=8, width=16)[0].shape == (8, 16, 3)
    with pytest.raises(UsageError, match="2 strengths"):
        drawn(pipe, control=Control(drawing(), strength=(1, 1)))


def test_all_images_of_a_call_follow_it_whatever_the_batch(pipe: InfinityPipeline) -> None:
    options = {"control": drawing(), "num_images_per_prompt": 3}
    images = drawn(pipe, **options)
    assert np.array_equal(images[0], drawn(pipe, control=drawing())[0])
    together = drawn(pipe, **options, batch_invariant=False)
    assert all(np.array_equal(a, b) for a, b in zip(images, together, strict=True))


def test_the_record_names_adapter_and_map(model: Path, pipe: InfinityPipeline) -> None:
    result = pipe("a red circle", seed=3, control=Control(drawing(), strength=0.5))
    record = ImageRecord.of(result.metadata[0])
    assert record.control is not None
    assert record.control.adapter == pipe.control_sha256
    assert (record.control.strength, record.control.kind) == (0.5, "lines")
    other = pipe("a red circle", seed=3, control=drawing(inset=20)).metadata[0]["control"]
    assert other["map"] != record.control.map and other["adapter"] == record.control.adapter
    larger = pipe("a red circle", seed=3, control=drawing(inset=16, size=128)).metadata[0]["control"]
    assert len(larger["map"]) == 64
    assert "control" not in pipe("a red circle", seed=3).metadata[0]


def test_streams_follow_it_too(pipe: InfinityPipeline) -> None:
    *_, last = pipe.stream("a red circle", seed=3, control=drawing())
    assert np.array_equal(np.asarray(last.preview()[0]), drawn(pipe, control=drawing())[0])


def test_strange_controls_are_refused(pipe: InfinityPipeline) -> None:
    with pytest.raises(UsageError, match="takes a PIL image"):
        drawn(pipe, control="drawing.png")
    for strength in (-1.0, 5.0, float("nan"), (1.0, 5.0)):
        with pytest.raises(UsageError, match="strength"):
            Control(drawing(), strength=strength)
    with pytest.raises(UsageError, match=r"Unknown kind[\s\S]*edges"):
        Control(drawing(), kind="edge")
    with pytest.raises(UsageError, match="no lines"):
        drawn(pipe, control=Image.new("RGB", (32, 32), "white"))


def test_a_control_needs_an_adapter_of_this_model(model: Path, pipe: InfinityPipeline, tmp_path: Path) -> None:
    pipe.unload_control()
    assert pipe.control_sha256 is None
    with pytest.raises(UsageError, match="would do nothing"):
        drawn(pipe, control=drawing())
    tiny_pipeline(tmp_path, num_heads=1).save_pretrained(tmp_path / "other")
    other = InfinityPipeline.from_pretrained(tmp_path / "other", device="cpu")
    with pytest.raises(WeightsError, match="belongs to another model"):
        other.load_control(model / "lines")
    assert other.control_sha256 is None


def test_the_adapter_in_the_package_puts_things_where_they_are_drawn() -> None:
    pipe = InfinityPipeline.from_pretrained(device="cpu")
    pipe.load_control("lines")
    ink = []
    for left in (8, 104):
        sheet = Image.new("RGB", (192, 192), "white")
        ImageDraw.Draw(sheet).ellipse((left, 56, left + 80, 136), outline="black", width=5)
        image = pipe("a tangerine", seed=0, output_type="np", control=sheet).images[0]
        ink.append((255 - image.astype(float).min(-1)).sum(0))
    centres = [float((columns * np.arange(64)).sum() / columns.sum()) for columns in ink]
    assert centres[0] < 28 and centres[1] > 36
