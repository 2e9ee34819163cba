"""Measure the watermark on the embedded model: how often it is detected, how often wrongly, and what images lose.

python experiments/watermark.py watermark.json --images 96 --context 2 --delta 2 --delta 3 --delta 4

Draws the first prompts of the scenes benchmark's split "seen" in a fixed shuffled order, with and without watermark. A
group of four images has a key of its own, since all images of one key share its luck. Tests the drawn bits, and the
bits that the tokenizer finds in the image: as it is, as a JPEG of quality 90, and enlarged to twice the size. Counts
with the judge of the benchmark how many images are correct. Tests the images without watermark for many keys, to
measure false positives over keys and for each key. It writes everything as JSON, and prints a table.
"""

import argparse
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from bitvar.bits import to_tokens
from bitvar.errors import UsageError
from bitvar.files import write_text
from bitvar.icons.benchmark.judge import SceneJudge
from bitvar.icons.benchmark.rules import judge_scene
from bitvar.icons.dataset.prompts import ScenePrompt, read_prompts
from bitvar.imaging.convert import from_pil
from bitvar.imaging.sheet import GridStyle, Tile, draw_grid
from bitvar.pipeline import InfinityPipeline
from bitvar.provenance.detection import Detection, GreenCount, WatermarkDetector, count_green, threshold
from bitvar.sampling.watermark import Watermark

GROUP: Final = 4
KEYS: Final = 400
RATES: Final = (0.01, 0.001)
SEED: Final = 1000


def jpeg(image: Image.Image) -> Image.Image:
    """Encode an image as JPEG of quality 90 and decode it."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=90, subsampling=0)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def enlarged(image: Image.Image) -> Image.Image:
    """Enlarge an image to twice its size."""
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS)


COPIES: Final[Mapping[str, Callable[[Image.Image], Image.Image]]] = {
    "png": lambda image: image,
    "jpeg 90": jpeg,
    "enlarged": enlarged,
}


def key_of(number: int, **settings: Any) -> Watermark:
    """Make the key of a group: fixed, so that a run can be repeated."""
    return Watermark(random.Random(number).randbytes(32), **settings)


def chosen_prompts(count: int) -> list[ScenePrompt]:
    """Choose prompts, the same ones for the same count."""
    prompts = [prompt for prompt in read_prompts() if prompt.split == "seen"]
    random.Random(0).shuffle(prompts)
    return [prompts[i % len(prompts)] for i in range(count)]


def rates(values: Sequence[float]) -> dict[str, float]:
    """Compute the mean of z and the share above each threshold."""
    z = np.asarray(values)
    return {"z": float(z.mean())} | {f"at {rate:g}": float((z > threshold(rate)).mean()) for rate in RATES}


def measure(
    pipeline: InfinityPipeline, detector: WatermarkDetector, judge: SceneJudge, prompts: Sequence[ScenePrompt],
    settings: Mapping[str, Any], refine_steps: int,
) -> tuple[dict[str, Any], list[Image.Image]]:  # fmt: skip
    """Draw the marked images of all prompts, and test them."""
    correct, images = 0, []
    found: dict[str, list[float]] = {name: [] for name in ("bits", *COPIES)}
    for start in range(0, len(prompts), GROUP):
        group, key = prompts[start : start + GROUP], key_of(start, **settings)
        drawn = list(pipeline.stream([prompt.prompt for prompt in group], seed=SEED + start, watermark=key))[-1]
        new = drawn.preview()
        for row, image in enumerate(new):
            bits = [scale[row] for scale in drawn.bits]
            found["bits"].append(count_green(bits, key, patch_size=detector.patch_size).z)
            for name, copy in COPIES.items():
                found[name].append(detect(detector, copy(image), key, refine_steps).count.z)
        correct += count_correct(judge, new, group)
        images += new
    results = {name: rates(values) for name, values in found.items()}
    return {"settings": dict(settings), "correct": correct / len(prompts), "detected": results}, images


def detect(detector: WatermarkDetector, image: Image.Image, key: Watermark, refine_steps: int) -> Detection:
    """Test an image at the model's size."""
    return detector.detect(image, key, size=detector.sizes[0], refine_steps=refine_steps)


def count_correct(judge: SceneJudge, images: Sequence[Image.Image], prompts: Sequence[ScenePrompt]) -> int:
    """Count the images that show what their prompts ask for."""
    detections = judge.detect(from_pil(images))
    return sum(
        judge_scene(seen, prompt.spec, prompt.skill).correct for seen, prompt in zip(detections, prompts, strict=True)
    )


def measure_unmarked(
    pipeline: InfinityPipeline, detector: WatermarkDetector, judge: SceneJudge, prompts: Sequence[ScenePrompt],
    settings: Mapping[str, Any], refine_steps: int,
) -> tuple[dict[str, Any], list[Image.Image]]:  # fmt: skip
    """Draw images without watermark, and test each of them for many keys."""
    images, correct = [], 0
    for start in range(0, len(prompts), GROUP):
        group = prompts[start : start + GROUP]
        new = pipeline([prompt.prompt for prompt in group], seed=SEED + start).images
        correct += count_correct(judge, new, group)
        images += new
    tokens = [last_tokens(detector, image, refine_steps) for image in images]
    z = np.array([[_z(key_of(10_000 + number, **settings), one) for one in tokens] for number in range(KEYS)])
    by_key = {f"at {rate:g}": (z > threshold(rate)).mean(axis=1) for rate in RATES}
    spread = {name: [float(np.percentile(shares, p)) for p in (5, 50, 95, 100)] for name, shares in by_key.items()}
    wrong = {name: float(shares.mean()) for name, shares in by_key.items()}
    return {"correct": correct / len(images), "wrongly detected": wrong, "5, 50, 95 and 100 % of keys": spread}, images


def last_tokens(detector: WatermarkDetector, image: Image.Image, refine_steps: int) -> list[np.ndarray]:
    """Encode an image to the tokens of every scale."""
    steps = detector.codec.encode_batch(np.asarray(image)[None], refine_steps=refine_steps).steps
    return [to_tokens(step.bits, detector.patch_size)[0].numpy() for step in steps]


def _z(key: Watermark, scales: Sequence[np.ndarray]) -> float:
    marks = [green for k, tokens in enumerate(scales) if (green := key.green_bits(k, tokens)) is not None]
    return GreenCount(sum(int(green.sum()) for green in marks), sum(green.size for green in marks)).z


def table(results: Mapping[str, Any]) -> str:
    """Format the results as the table of docs/provenance.md."""
    head = ["context", "delta", "correct", "z of bits", *(f"{name}, {rate:g}" for name in COPIES for rate in RATES)]
    rows = [["", "none", f"{100 * results['unmarked']['correct']:.1f} %", *[""] * (1 + len(COPIES) * len(RATES))]]
    for entry in results["marked"]:
        found = entry["detected"]
        shares = [f"{100 * found[name][f'at {rate:g}']:.0f} %" for name in COPIES for rate in RATES]
        facts = [
            str(entry["settings"]["context"]),
            f"{entry['settings']['delta']:g}",
            f"{100 * entry['correct']:.1f} %",
        ]
        rows.append([*facts, f"{found['bits']['z']:.1f}", *shares])
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--images", type=int, default=96, help="number of images, a multiple of 4")
    parser.add_argument("--delta", type=float, action="append", help="strength to measure; repeatable")
    parser.add_argument("--context", type=int, default=Watermark.context, help="bits that a list depends on")
    parser.add_argument("--first-scale", type=int, default=Watermark.first_scale, help="first scale to mark")
    parser.add_argument("--refine-steps", type=int, default=16, help="steps of iterative refinement")
    parser.add_argument("--sheet", type=Path, help="image file: 8 images of each setting, one row a setting")
    arguments = parser.parse_args()
    if arguments.images < 1 or arguments.images % GROUP:
        raise UsageError("The number of images can't be used.", f"each key marks {GROUP}", "give a multiple")
    pipeline, detector = InfinityPipeline.from_pretrained(device="cpu"), WatermarkDetector.from_pretrained(device="cpu")
    judge, prompts = SceneJudge.load(), chosen_prompts(arguments.images)
    fixed = {"context": arguments.context, "first_scale": arguments.first_scale}
    unmarked, images = measure_unmarked(pipeline, detector, judge, prompts, fixed, arguments.refine_steps)
    marked, rows = [], [images[:8]]
    for delta in arguments.delta or [Watermark.delta]:
        entry, images = measure(pipeline, detector, judge, prompts, fixed | {"delta": delta}, arguments.refine_steps)
        marked.append(entry)
        rows.append(images[:8])
        print(entry, flush=True)  # noqa: T201
    results = {"images": len(prompts), "refine_steps": arguments.refine_steps, "unmarked": unmarked, "marked": marked}
    write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    if arguments.sheet is not None:
        tiles = [Tile(image) for row in rows for image in row]
        draw_grid(tiles, columns=8, cell=(64, 64), style=GridStyle(gap=4, margin=4)).save(arguments.sheet)
    print(json.dumps(unmarked), table(results), sep="\n")  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
