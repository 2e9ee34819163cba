"""The recipe of the control adapter in the package, and the script that measures it, at toy size."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bitvar
from bitvar.control.adapter import ControlAdapter
from bitvar.control.config import ControlConfig
from bitvar.control.file import WEIGHTS
from bitvar.icons.dataset.prompts import read_prompts
from bitvar.pipeline import InfinityPipeline
from bitvar.training.recipes import read_recipe
from bitvar.transformer import TransformerConfig
from bitvar.weights.hub import EMBEDDED_MODEL
from tests.support.tiny import toy_set

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "icons" / "control.py"


def test_the_recipe_fits_the_embedded_model_in_two_megabytes() -> None:
    config = read_recipe(RECIPE, [])
    assert config.kind == "transformer" and config.control is not None
    embedded = TransformerConfig.load(EMBEDDED_MODEL / "transformer" / "config.json")
    assert (config.model.width, config.model.depth) == (embedded.width, embedded.depth)
    adapter = ControlAdapter(ControlConfig.of(config.control, embedded, stride=4))
    assert 2 * sum(parameter.numel() for parameter in adapter.parameters()) < 2_000_000


@pytest.mark.slow
def test_the_recipe_and_its_measurement_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_set(tmp_path / "set")
    prompts = read_prompts()[:3]
    with (data / "samples.jsonl").open("a", encoding="utf-8") as file:
        for prompt in prompts:
            row = {"image_path": "images/train-0.png", "captions": [prompt.prompt], "split": "scenes"}
            noise = np.random.default_rng(len(prompt.id)).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(noise).save(data / "images" / f"{prompt.id}.png")
            file.write(json.dumps(row | {"image_path": f"images/{prompt.id}.png", "prompt_id": prompt.id}) + "\n")
    toy = {"optimization.steps": 2, "optimization.batch_size": 4, "optimization.warmup_steps": 1}
    made = bitvar.train(RECIPE, data=data, out=tmp_path / "run", init="icons", device="cpu", workers=0, settings=toy)
    assert (made / WEIGHTS).stat().st_size < 2_000_000
    script = ROOT / "scripts" / "icons" / "control.py"
    monkeypatch.setattr(sys, "argv", [script.name, *map(str, (data, made, tmp_path / "measured")), "--count", "3"])
    runpy.run_path(str(script), run_name="__main__")
    figures = json.loads((tmp_path / "measured" / "figures.json").read_text())
    assert figures["original"]["f1 of own"] == 1 and 0 <= figures["mirrored"]["f1 of mirrored"] <= 1
    assert (tmp_path / "measured" / "sheet.png").is_file()
    pipe = InfinityPipeline.from_pretrained(device="cpu")
    pipe.load_control(made)
    image = Image.open(data / "images" / "val-0.png")
    assert pipe("a red circle", seed=0, control=image).images[0].size == (64, 64)
