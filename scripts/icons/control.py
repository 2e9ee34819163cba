r"""Measure a control adapter of the embedded model on held-out scenes of the icon set.

bitvar data icons data/icons64 --still
python scripts/icons/control.py data/icons64 runs/lines/control runs/lines-measured --count 240

Each scene of the split "scenes" is drawn from its prompt without control, under the edges of its own image, and under
those edges mirrored, which no image of the set has. Reports how well the edges of what is drawn agree with the map, as
F1 within a pixel, beside two references: the edges of the original after the tokenizer, which no adapter can beat by
much, and another scene's map, which shows what chance gives. The judge of `bitvar evaluate scenes` says how many show
their scene; mirrored scenes with a position are left out. Writes figures.json and sheet.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from bitvar.control.agreement import edge_agreement
from bitvar.control.maps import edge_maps
from bitvar.data.samples import Sample, load_images, read_samples
from bitvar.icons.benchmark.pretrained_judge import load_judge
from bitvar.icons.dataset.prompts import ScenePrompt, read_prompts
from bitvar.imaging.batches import in_batches
from bitvar.imaging.convert import channels_last, to_numpy
from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.control import Control

SHOWN: Final = 16
Pixels = UInt8[np.ndarray, "b H W 3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--strength", type=float, default=1.0)
    arguments = parser.parse_args()
    pipeline = InfinityPipeline.from_pretrained()
    pipeline.load_control(arguments.adapter)
    pairs = choose_scenes(arguments.data, arguments.count)
    prompts = [prompt for prompt, _ in pairs]
    originals = channels_last(load_images([sample for _, sample in pairs])).copy()
    drawn = {
        "reconstruction": reconstruct(pipeline, originals),
        "plain": draw(pipeline, prompts, None),
        "controlled": draw(pipeline, prompts, originals, strength=arguments.strength),
        "mirrored": draw(pipeline, prompts, mirror(originals), strength=arguments.strength),
    }
    figures = measure(prompts, originals, drawn) | {"count": len(pairs), "strength": arguments.strength}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sheet(prompts, originals, drawn).save(arguments.out / "sheet.png")
    print(json.dumps(figures, indent=1))  # noqa: T201


def choose_scenes(data: Path, count: int) -> list[tuple[ScenePrompt, Sample]]:
    """Choose evenly spaced prompts of the benchmark, each with the set's image of it."""
    samples = {sample.labels["prompt_id"]: sample for sample in read_samples(data, split="scenes")}
    prompts = [prompt for prompt in read_prompts() if prompt.id in samples]
    chosen = np.linspace(0, len(prompts) - 1, min(count, len(prompts))).round().astype(int)
    return [(prompts[i], samples[prompts[i].id]) for i in chosen]


def draw(
    pipeline: InfinityPipeline, prompts: Sequence[ScenePrompt], originals: Pixels | None, *, strength: float = 1.0
) -> Pixels:
    """Draw each prompt at a seed of its own, under the edges of its original if there are any."""
    images = []
    for seed, prompt in enumerate(prompts):
        control = None
        if originals is not None:
            control = Control(Image.fromarray(originals[seed]), strength=strength, kind="edges")
        images.append(pipeline(prompt.prompt, seed=seed, output_type="np", control=control).images[0])
    return np.stack(images)


def mirror(images: Pixels) -> Pixels:
    """Flip images horizontally."""
    return np.ascontiguousarray(images[:, :, ::-1])


def reconstruct(pipeline: InfinityPipeline, originals: Pixels) -> Pixels:
    """Encode the originals to bits and decode them: what the tokenizer leaves of their edges."""
    tokenizer, grids = pipeline.tokenizer, pipeline.schedule_for(None, None)
    cells = grids.latent_grids(pipeline.transformer.config.patch_size)
    parts = []
    for batch in in_batches(list(originals), 64):
        with torch.inference_mode():
            latent = list(tokenizer.encode_scales(tokenizer.features(batch), cells))[-1].latent
            parts.append(to_numpy(tokenizer.decode(latent)))
    return np.concatenate(parts)


def measure(prompts: Sequence[ScenePrompt], originals: Pixels, drawn: dict[str, Pixels]) -> dict[str, object]:
    """Compute the agreement with the own, the mirrored and another scene's map, and the judge's share of correct."""
    maps, judge = edge_maps(originals), load_judge("cpu")
    targets = {
        "own": maps,
        "mirrored": np.ascontiguousarray(maps[..., ::-1]),
        "another": np.roll(maps, len(maps) // 2, 0),
    }
    figures: dict[str, object] = {}
    for name, images in {"original": originals, **drawn}.items():
        edges = edge_maps(images)
        detections = [found for batch in in_batches(list(images), 32) for found in judge.detect(batch)]
        correct = [
            judge.decide(found, prompt.spec, prompt.skill).correct
            for found, prompt in zip(detections, prompts, strict=True)
            if name != "mirrored" or prompt.spec.relation is None
        ]
        own = edge_agreement(edges, targets["mirrored" if name == "mirrored" else "own"])
        figures[name] = {
            **{f"f1 of {target}": _mean(edge_agreement(edges, found).f1) for target, found in targets.items()},
            "precision": _mean(own.precision),
            "recall": _mean(own.recall),
            "correct": _mean(np.array(correct)),
            "judged": len(correct),
        }
    return figures


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean()), 4)


def sheet(prompts: Sequence[ScenePrompt], originals: Pixels, drawn: dict[str, Pixels]) -> Image.Image:
    """Show for each of some scenes: map, drawn under it, drawn under it mirrored, drawn without."""
    chosen = np.linspace(0, len(prompts) - 1, min(SHOWN, len(prompts))).round().astype(int)
    tiles = []
    for i in chosen:
        lines = Image.fromarray((255 - 255 * edge_maps(originals[i : i + 1])[0]).astype(np.uint8)).convert("RGB")
        row = [lines, *(Image.fromarray(drawn[name][i]) for name in ("controlled", "mirrored", "plain"))]
        texts = [prompts[i].prompt, "with control", "mirrored", "without"]
        tiles += [Tile(image, [Caption(text, max_lines=2)]) for image, text in zip(row, texts, strict=True)]
    style = GridStyle(caption_height=30, line_height=13)
    return draw_grid(tiles, columns=8, cell=(128, 128), style=style)


if __name__ == "__main__":
    main()
