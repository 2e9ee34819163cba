"""The nodes of ComfyUI against its contract, with stand-ins for the modules of ComfyUI that they ask."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from bitvar.errors import UsageError
from bitvar.integrations import comfyui
from bitvar.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from bitvar.integrations.comfyui.nodes import Edit, Generate, LoadModel
from bitvar.pipeline import InfinityPipeline
from tests.support.tiny import rough_pipeline

PROMPT = "a red circle"
NODES = sorted(NODE_CLASS_MAPPINGS)


class Interrupted(Exception):  # noqa: N818  (as ComfyUI names it)
    """What ComfyUI raises when the user interrupts."""


class Host:
    """Stands in for ComfyUI: records progress, and interrupts after a number of scales."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, int, tuple[int, int]]] = []
        self.interrupt_after: int | None = None

    def stop(self) -> None:
        if self.interrupt_after is not None and len(self.progress) >= self.interrupt_after:
            raise Interrupted


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()

    class ProgressBar:
        def __init__(self, total: int) -> None:
            assert total > 0

        def update_absolute(self, value: int, total: int, preview: Any) -> None:
            form, image, longest = preview
            assert form == "JPEG" and image.mode == "RGB" and longest > 0
            made.progress.append((value, total, image.size))

    comfy, management, tools = (ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils"))
    management.throw_exception_if_processing_interrupted = made.stop
    tools.ProgressBar = ProgressBar
    for module in (comfy, management, tools):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("rough"))


def generate(pipeline: InfinityPipeline, **changes: Any) -> Any:
    values: dict[str, Any] = {"prompt": PROMPT, "width": 0, "height": 0, "seed": 5, "batch_size": 1}
    return Generate().generate(pipeline, **{**values, **changes})


@pytest.mark.parametrize("name", NODES)
def test_the_contract(name: str) -> None:
    node = NODE_CLASS_MAPPINGS[name]
    inputs = node.INPUT_TYPES()
    assert set(inputs) <= {"required", "optional", "hidden"}
    for kind, *options in [value for group in inputs.values() for value in group.values()]:
        assert isinstance(kind, str) or (isinstance(kind, list) and kind)
        json.dumps(options)  # the page of ComfyUI gets it
    assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
    assert callable(getattr(node(), node.FUNCTION)) and node.CATEGORY == "bitvar"
    assert name in NODE_DISPLAY_NAME_MAPPINGS


@pytest.mark.parametrize("name", ["model", "path"])
def test_a_model_is_loaded(name: str, tiny_model: Path) -> None:
    assert "icons" in LoadModel.INPUT_TYPES()["required"]["model"][0]
    options = {"model": str(tiny_model)} if name == "model" else {"model": "icons", "path": f" {tiny_model} "}
    (loaded,) = LoadModel().load(precision="fp32", device="cpu", **options)
    assert loaded.index.name == "tiny"


def test_images_masks_and_settings(host: Host, pipeline: InfinityPipeline) -> None:
    options = {"seed": 5, "guidance_scale": 2.0, "negative_prompt": "a dog"}
    images, transparent, settings = generate(pipeline, batch_size=2, **options)
    same = pipeline(PROMPT, num_images_per_prompt=2, **options).images
    assert images.shape == (2, 16, 16, 3) and images.dtype == torch.float32
    assert torch.equal(
        (images * 255).round().to(torch.uint8), torch.from_numpy(np.stack([np.asarray(i) for i in same]))
    )
    assert transparent.shape == (2, 16, 16) and transparent.abs().sum() == 0
    assert [record["seed"] for record in json.loads(settings)] == [5, 6]
    assert [(value, total) for value, total, _ in host.progress] == [(1, 21), (5, 21), (21, 21)]


def test_sizes(host: Host, pipeline: InfinityPipeline) -> None:
    assert generate(pipeline, width=16, height=8)[0].shape == (1, 8, 16, 3)
    with pytest.raises(UsageError, match="Only one of height and width"):
        generate(pipeline, width=16)


def test_transparency_becomes_a_mask(host: Host, tmp_path: Path) -> None:
    images, transparent, _ = generate(rough_pipeline(tmp_path, image_channels=4))
    assert images.shape == (1, 16, 16, 3) and 0 <= transparent.min() < transparent.max() <= 1


def test_an_interrupt_ends_the_drawing(host: Host, pipeline: InfinityPipeline) -> None:
    host.interrupt_after = 1
    with pytest.raises(Interrupted):
        generate(pipeline)
    assert len(host.progress) == 1
    host.interrupt_after = None
    pipeline.to(dtype=torch.float32)  # refused while a call runs


def test_a_mask_keeps_the_rest(host: Host, pipeline: InfinityPipeline) -> None:
    source = torch.rand(2, 20, 24, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 20, 24)
    mask[:, :, 12:] = 1
    options: dict[str, Any] = {"prompt": "a blue dog", "seed": 1, "strength": 1.0, "mask": mask, "exact": True}
    edited, _, settings = Edit().edit(pipeline, source, **options)
    assert edited.shape == source.shape
    kept = (source * 255).round() / 255
    assert torch.allclose(edited[:, :, :10], kept[:, :, :10], atol=1e-6)
    assert not torch.allclose(edited[:, :, 14:], kept[:, :, 14:], atol=0.05)
    assert [record["seed"] for record in json.loads(settings)] == [1, 2]
    assert host.progress[-1][0] == host.progress[-1][1] == 42


def test_two_prompts_change_what_they_disagree_on(host: Host, pipeline: InfinityPipeline) -> None:
    source, _, _ = generate(pipeline)
    _, _, settings = Edit().edit(pipeline, source, "a blue circle", 1, -1.0, source_prompt=PROMPT)
    assert json.loads(settings)[0]["edit"]["method"] == "localized"
    _, _, settings = Edit().edit(pipeline, source, "a blue circle", 1, 0.5)
    assert json.loads(settings)[0]["edit"]["method"] == "redraw"
    with pytest.raises(UsageError, match="IMAGE has the shape"):
        Edit().edit(pipeline, source[0], "a blue circle", 1, 0.5)


def test_the_folder_works_as_a_custom_node(tmp_path: Path) -> None:
    (tmp_path / "any name").symlink_to(Path(comfyui.__file__).parent)
    spec = importlib.util.spec_from_file_location("any_name", tmp_path / "any name" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sorted(module.NODE_CLASS_MAPPINGS) == NODES
