"""All kinds of cases, and the sound files that they begin with."""

import os
import time
from pathlib import Path

import torch
from PIL import Image

from bitvar.lora.layers import LoraSettings, add_adapter, save_adapter
from tests.support.careless import codec, drawing, folders, images, options, outputs, sets, training
from tests.support.careless.kind import Kind
from tests.support.careless.stage import Stage
from tests.support.tiny import tiny_pipeline, tiny_transformer, toy_set
from tests.unit.cli.test_train import RECIPE
from tests.unit.weights.test_convert import write_pair

QUIET = RECIPE.replace("cut_caption=0.3", "cut_caption=0").replace("steps: int = 4", "steps: int = 2")


def _control(stage: Stage) -> None:
    """What every case would be found wrong for."""

    def raises() -> None:
        raise ValueError("as if a command did")

    def writes() -> None:
        (stage.folder / "x.png").touch()
        os.write(2, b"No.\n  why: it is so\n  do:  something else\n")
        raise SystemExit(2)

    def mumbles() -> None:
        os.write(2, b"No.\n")
        raise SystemExit(2)

    acts = (raises, writes, mumbles, lambda: time.sleep(5))
    stage.refused(2, "control", act=acts[stage.number], limit=1)


KINDS: dict[str, Kind] = {
    **codec.KINDS,
    **drawing.KINDS,
    **folders.KINDS,
    **images.KINDS,
    **options.KINDS,
    **outputs.KINDS,
    **sets.KINDS,
    **training.KINDS,
}
CONTROL = "control"
CONTROLS: dict[str, Kind] = {CONTROL: Kind(4, _control)}


def make_shared(folder: Path) -> None:
    """A tiny model, an adapter, a set of images of 16 pixels, a recipe, a run of it, an index, an image, bits."""
    folder.mkdir()
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    transformer, settings = tiny_transformer(), LoraSettings(rank=2, targets=("fc1",))
    add_adapter(transformer, settings, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, tensor in transformer.named_parameters():
            if "lora_B" in name:
                tensor.fill_(0.05)
    save_adapter(transformer, folder / "adapter", settings=settings, base=None)
    write_pair(folder / "official")
    toy_set(folder / "set")
    for path in (folder / "set" / "images").glob("*.png"):
        Image.open(path).resize((16, 16)).save(path)
    (folder / "recipe.py").write_text(QUIET)
    stage = Stage(folder, folder, "shared", 0)
    stage.image("image.png", size=(24, 20))
    stage.works("tokenizer", "encode", "image.png", "-o", "image.bits", "--tokenizer", "tiny")
    stage.works("generate", "a red dog", "--seed", "5", "--model", "tiny", "-o", "drawn.png")
    stage.works("data", "index", "set", "index", "--content-hash")
    stage.works("train", *training.words(folder), "--out", "run", limit=60)
