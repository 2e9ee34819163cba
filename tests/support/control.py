"""Control adapters for the tiny models of tests, and drawings to follow."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from bitvar.control.adapter import ControlAdapter
from bitvar.control.config import ControlConfig, ControlSettings
from bitvar.control.file import save_control
from bitvar.lora.file import LoraBase
from bitvar.pipeline import InfinityPipeline
from tests.support.tiny import tiny_pipeline, tiny_transformer


def decided_pipeline(tmp_path: Path) -> InfinityPipeline:
    """A tiny pipeline with a hundred times the logits: otherwise the noise of the draw decides every bit."""
    pipeline = tiny_pipeline(tmp_path)
    pipeline.transformer.head.weight.mul_(100)
    return pipeline


def write_adapter(folder: Path, model: Path, *, trained: bool = True) -> Path:
    """Write an adapter of random weights for the model in a folder; an untrained one has projections of zero."""
    settings = ControlSettings(channels=(8, 8), depth=0, hidden=8)
    adapter = ControlAdapter(ControlConfig.of(settings, tiny_transformer().config, stride=4))
    adapter.init_weights(torch.Generator().manual_seed(0))
    if trained:
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if name.startswith("projections"):
                    parameter.normal_(0, 2, generator=torch.Generator().manual_seed(1))
    save_control(adapter, folder, base=LoraBase.of_folder(model))
    return folder


def drawing(*, inset: int = 8, size: int = 64) -> Image.Image:
    """A black rectangle on white, `inset` pixels from the border."""
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).rectangle((inset, inset, size - inset, size - inset), outline="black", width=3)
    return image
