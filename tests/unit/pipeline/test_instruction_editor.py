"""The editor: images in, edited images out, and what it refuses."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitvar.errors import UsageError, WeightsError
from bitvar.icons.benchmark.judge import SceneJudge
from bitvar.imaging.convert import from_pil
from bitvar.lora.layers import LoraSettings, adapter_tensors, add_adapter, save_adapter
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.instruction_editor import Frame, InstructionEditor
from bitvar.weights.instruction import INSTRUCTION, InstructionSettings
from tests.support.tiny import tiny_components, tiny_pipeline

SETTINGS = InstructionSettings()


def painted(colour: str, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    components = tiny_components(folder / "work")
    generator = torch.Generator().manual_seed(2)
    for parameter in components.transformer.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    InfinityPipeline(components).save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def editor(model: Path) -> InstructionEditor:
    return InstructionEditor(InfinityPipeline.from_pretrained(model, dtype="fp32", device="cpu"), SETTINGS)


def test_the_same_seed_gives_the_same_image_and_other_sources_another_one(editor: InstructionEditor) -> None:
    def edited(colour: str, **options: object) -> list[bytes]:
        return [image.tobytes() for image in editor("a red dog", painted(colour), **options).images]

    first = edited("red", seed=3, num_images_per_prompt=16)
    assert first == edited("red", seed=3, num_images_per_prompt=16)
    assert first != edited("blue", seed=3, num_images_per_prompt=16)
    several = editor(["a cat", "a red dog"], painted("red"), seed=[7, 3])
    assert several.seeds == [7, 3]
    assert several.images[1].tobytes() == first[0]  # whatever its neighbours


def test_files_and_ratios(editor: InstructionEditor, tmp_path: Path) -> None:
    painted("red", (64, 32)).save(tmp_path / "wide.png")
    assert editor("a red dog", tmp_path / "wide.png", seed=0).images[0].size == (16, 8)
    assert editor("a red dog", painted("red", (30, 31)), seed=0).images[0].size == (16, 16)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    white = editor("a red dog", painted("white"), seed=0).images[0]
    assert editor("a red dog", clear, seed=0).images[0].tobytes() == white.tobytes()


def test_an_editor_of_squares_lays_others_on_white(editor: InstructionEditor) -> None:
    frame = Frame.of(painted("red", (40, 20)), square=True)
    assert frame.image.size == (40, 40)
    assert frame.image.getpixel((39, 19)) == (255, 0, 0) and frame.image.getpixel((0, 20)) == (255, 255, 255)
    assert frame.cut_out(painted("red")).size == (16, 8)
    square = Frame.of(painted("red"), square=True)
    assert square.cut_out(square.image) is square.image
    only = InstructionEditor(editor.pipeline, InstructionSettings(square=True))
    assert only("a red dog", painted("red", (64, 32)), seed=0).images[0].size == (16, 8)


def test_an_adapter_comes_back_with_its_settings(model: Path, tmp_path: Path) -> None:
    pipeline = InfinityPipeline.from_pretrained(model, dtype="fp32", device="cpu")
    lora = LoraSettings(rank=2, alpha=2.0)
    add_adapter(pipeline.transformer, lora, generator=torch.Generator().manual_seed(0))
    for tensor in adapter_tensors(pipeline.transformer).values():
        tensor.data = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)) * 0.3
    settings = InstructionSettings(positions="official")
    texts = {INSTRUCTION: settings.dump()}
    save_adapter(pipeline.transformer, tmp_path / "mine", settings=lora, base=None, texts=texts)
    loaded = InstructionEditor.from_pretrained(tmp_path / "mine", model=model, dtype="fp32", device="cpu")
    assert loaded.settings == settings
    here = InstructionEditor(pipeline, settings)("a red dog", painted("red"), seed=1).images[0]
    assert loaded("a red dog", painted("red"), seed=1).images[0].tobytes() == here.tobytes()

    shutil.copytree(tmp_path / "mine", tmp_path / "altered")
    (tmp_path / "altered" / INSTRUCTION).write_text(InstructionSettings().dump())
    with pytest.raises(WeightsError, match=r"instruction\.json"):
        InstructionEditor.from_pretrained(tmp_path / "altered", model=model)


def test_a_whole_model_may_be_an_editor(tmp_path: Path) -> None:
    components = tiny_components(tmp_path)
    components.instruction = InstructionSettings(positions="official")
    InfinityPipeline(components).save_pretrained(tmp_path / "editor")
    loaded = InstructionEditor.from_pretrained(model=tmp_path / "editor")
    assert loaded.settings.positions == "official"


def test_what_is_refused(editor: InstructionEditor, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no instruction editor"):
        InstructionEditor(tiny_pipeline(tmp_path))
    with pytest.raises(UsageError, match=r"has no instruction\.json"):
        InstructionEditor.from_pretrained(model, model=model)
    with pytest.raises(UsageError, match="Unknown option 'strength'"):
        editor("a red dog", painted("red"), strength=1)
    with pytest.raises(UsageError, match="The instruction is empty"):
        editor(" ", painted("red"))
    with pytest.raises(UsageError, match="check the path"):
        editor("a red dog", tmp_path / "missing.png")


def test_the_editor_in_the_package() -> None:
    """It changes the background and keeps the fox, by the judge."""
    source = Image.open(Path(__file__).parents[1] / "icons" / "scenes" / "single-noto-fox.png")
    editor = InstructionEditor.from_pretrained(dtype="fp32", device="cpu")
    edited = editor("make the background blue", source, seed=0).images[0]
    shown = SceneJudge.load().detect(from_pil([edited]))[0]
    assert shown.background["blue"] > 0.5
    assert shown.objects[0].concepts["fox"] > shown.thresholds.concept
