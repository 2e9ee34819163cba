r"""Measure the score and the seed diversity of ways to draw: temperature, guidance and the options of quality.

python experiments/sampling_quality.py rows.jsonl --half report --seeds 3 \
    --draw plain={} --draw hot='{"temperature": 0.5}' --draw varied='{"quality": "varied"}'

Draws the prompts of one half of the scenes benchmark, `tune` or `report`, with the embedded model, the same prompts and
seeds for each way; `{"best_of": {"n": 8, "keep": [[2, 4, "score"]]}}` draws the best of several, `{"fast": ["int8"]}`
applies optimizations, and `{"model": "runs/distilled/model"}` is another model. Writes a line for each: the share of
correct images by the judge, its difference from the first way with the standard error over prompts, the mean
MobileNetV2 distance between images of a prompt, absolute and relative to the first way's, the high-frequency energy
relative to the first way's, and the mean PSNR to the first way's images. A way whose line is there is not drawn again.
`--time N` times N single images of each way instead, in turn, and prints the median and its ratio to the first way's.
"""

import argparse
import json
import statistics
import time
import zlib
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bitvar.evaluation.benchmarks.base import EvalPrompt
from bitvar.icons.benchmark.alignment import AlignmentScorer
from bitvar.icons.benchmark.best_of import ImageFeatures, PromptScorer
from bitvar.icons.benchmark.pretrained_judge import Judge, load_judge
from bitvar.icons.benchmark.scenes import eval_prompts
from bitvar.imaging.convert import from_pil
from bitvar.metrics.distances import Distance, perceptual_distance, psnr
from bitvar.metrics.sharpness import high_frequency_energy
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.best_of import Keep, best_of

BATCH: Final = 32
HALVES: Final = {"report": 0, "tune": 1}
Ways = Mapping[str, Mapping[str, Any]]


class Pipelines:
    """The pipelines of all ways, each loaded once."""

    def __init__(self) -> None:
        self._loaded: dict[str | None, InfinityPipeline] = {}

    def of(self, way: Mapping[str, Any]) -> tuple[InfinityPipeline, dict[str, Any]]:
        """Return a way's pipeline with its optimizations applied, and the options of its call."""
        way = dict(way)
        model, fast = way.pop("model", None), way.pop("fast", ["auto"])
        if model not in self._loaded:
            self._loaded[model] = InfinityPipeline.from_pretrained(model)
        pipe = self._loaded[model]
        pipe.optimize(*fast)
        return pipe, way


def draw(pipe: InfinityPipeline, prompts: Sequence[EvalPrompt], seed: int, way: Mapping[str, Any]) -> torch.Tensor:
    """Draw one image of each prompt, in [-1, 1], with the seeds of `bitvar evaluate scenes`."""
    way = dict(way)
    if (choices := way.pop("best_of", None)) is not None:
        return draw_best(pipe, prompts, seed, way, choices)
    rows = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        seeds = [zlib.crc32(prompt.id.encode()) + seed for prompt in batch]
        output = pipe([prompt.text for prompt in batch], seed=seeds, output_type="np", batch_invariant=False, **way)
        rows.append(torch.from_numpy(output.images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return torch.cat(rows)


def draw_best(
    pipe: InfinityPipeline, prompts: Sequence[EvalPrompt], seed: int, way: Mapping[str, Any], choices: Mapping[str, Any]
) -> torch.Tensor:
    """Draw the best of several images of each prompt, whose seeds lie far from those of other images."""
    assert pipe.text_encoder is not None
    towers = AlignmentScorer.load(pipe.text_encoder)
    keep = [Keep(*choice) for choice in choices["keep"]]
    images = []
    for prompt in prompts:
        first = (zlib.crc32(prompt.id.encode()) + seed) << 10
        found = best_of(
            pipe, prompt.text, scorer=PromptScorer(towers), features=ImageFeatures(towers), n=choices["n"], keep=keep,
            seed=first, batch_invariant=False, **way,
        )  # fmt: skip
        images.append(found.output.images[0])
    return from_pil(images)


@torch.inference_mode()
def scores(judge: Judge, images: torch.Tensor, prompts: Sequence[EvalPrompt]) -> np.ndarray:
    """Decide for each image whether it is correct."""
    detections = [one for batch in images.split(BATCH) for one in judge.detect(batch)]
    decisions = [judge.decide(found, p.payload, p.skill) for found, p in zip(detections, prompts, strict=True)]
    return np.array([float(decision.correct) for decision in decisions])


@torch.inference_mode()
def diversity(images: Sequence[torch.Tensor], distance: Distance) -> float:
    """Compute the mean distance between images of a prompt; `images` holds one seed of all prompts each."""
    values = [
        distance(a, b).mean().item() * len(a)
        for one, other in combinations(images, 2)
        for a, b in zip(one.split(BATCH), other.split(BATCH), strict=True)
    ]
    return sum(values) / (len(images[0]) * len(images) * (len(images) - 1) / 2)


def measure(options: argparse.Namespace, ways: Ways) -> None:
    """Append the line of each way that has none."""
    prompts = eval_prompts()[HALVES[options.half] :: 2][:: options.every]
    first_seed = 0 if options.half == "report" else 1000
    pipes, judge, distance = Pipelines(), load_judge("cpu"), perceptual_distance("mobilenet")
    path: Path = options.out
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def draw_way(way: Mapping[str, Any], seed: int) -> torch.Tensor:
        pipe, call = pipes.of(way)
        return draw(pipe, prompts, seed, call)

    first: torch.Tensor | None = None
    for name, way in ways.items():
        if any(line["name"] == name for line in lines):
            continue
        images = [draw_way(way, seed) for seed in range(first_seed, first_seed + options.seeds)]
        if first is None:
            first = draw_way(next(iter(ways.values())), first_seed) if lines else images[0]
        correct = np.mean([scores(judge, one, prompts) for one in images], axis=0)
        spread = diversity(images, distance)
        energy = float(torch.cat([high_frequency_energy(one) for one in images]).sum())
        plain = lines[0] if lines else {"correct": correct.tolist(), "diversity": spread, "energy": energy}
        difference = correct - np.array(plain["correct"])
        line = {
            "name": name,
            "way": way,
            "score": 100 * correct.mean(),
            "gain": 100 * difference.mean(),
            "error": 100 * difference.std() / len(prompts) ** 0.5,
            "diversity": spread,
            "relative": spread / plain["diversity"],
            "energy": energy,
            "sharpness": energy / plain["energy"],
            "psnr": psnr(images[0], first).mean().item(),
            "images": len(prompts) * options.seeds,
            "correct": correct.tolist(),
        }
        lines.append(line)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def measure_time(ways: Ways, rounds: int) -> None:
    """Time single images of each way in turn, and print the medians."""
    pipes, prompts = Pipelines(), eval_prompts()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(-2, rounds):
        for name, way in ways.items():
            pipe, call = pipes.of(way)
            pipe("a cat", seed=0, **call)  # what an optimization prepares on first use
            start = time.perf_counter()
            pipe(prompts[i % len(prompts)].text, seed=i % rounds, **call)
            if i >= 0:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    plain = next(iter(medians.values()))
    print(json.dumps({name: [round(m, 4), round(m / plain, 3)] for name, m in medians.items()}))  # noqa: T201


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Measure the score and the seed diversity of ways to draw.")
    parser.add_argument("out", type=Path, help="the lines, a .jsonl")
    parser.add_argument("--half", choices=list(HALVES), default="tune")
    parser.add_argument("--every", type=int, default=1, help="take each N-th prompt of the half")
    parser.add_argument("--seeds", type=int, default=2, help="images of a prompt")
    parser.add_argument("--draw", action="append", required=True, help="NAME={options as JSON}; the first is plain")
    parser.add_argument("--time", type=int, default=0, help="time this number of images of each way instead")
    options = parser.parse_args()
    ways = {text.partition("=")[0]: json.loads(text.partition("=")[2]) for text in options.draw}
    if options.time:
        measure_time(ways, options.time)
    else:
        measure(options, ways)


if __name__ == "__main__":
    main()
