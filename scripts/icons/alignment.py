r"""The two towers that score how well an image goes with a prompt, for `bitvar evaluate scenes`.

bitvar data icons data/icons64 --still
python scripts/icons/alignment.py data/icons64 runs/alignment

Trained on every second image of the training split with its captions, on frozen features: contrastive, in batches of
256. Prints how often a validation image's own caption is the nearest, and a held-out one's. The same figures are in
figures.json beside the weights.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from bitvar.data.samples import Sample, load_images, read_samples
from bitvar.icons.benchmark.alignment import (
    AlignmentConfig,
    AlignmentModel,
    AlignmentScorer,
    score_alignment,
    see,
)
from bitvar.imaging.pixels import to_signed
from bitvar.metrics.efficientnet import EfficientNet
from bitvar.text import TextEncoder, load_text_encoder
from bitvar.weights.digests import atomic_folder
from bitvar.weights.hub import EMBEDDED_MODEL

BATCH: Final = 256
RATE: Final = 1e-3
WARMUP: Final = 50
SEED: Final = 0
_AT_ONCE: Final = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    arguments = parser.parse_args()
    network, encoder = EfficientNet(), load_text_encoder(EMBEDDED_MODEL / "text_encoder")
    samples = read_samples(arguments.data, split="train")[::2]
    seen = look(network, samples)
    torch.manual_seed(SEED)
    model = AlignmentModel(AlignmentConfig())
    train(model, seen, samples, encoder, arguments.steps)
    scorer = AlignmentScorer(model, network, encoder)
    figures = {"images": len(samples), "steps": arguments.steps}
    for split in ("val", "held_out_prompt", "held_out_combination"):
        figures[split] = measure(scorer, read_samples(arguments.data, split=split))
    with atomic_folder(arguments.out) as folder:
        (folder / "config.json").write_text(model.config.dump(), encoding="utf-8")
        (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    print(json.dumps(figures, indent=1))  # noqa: T201


def look(network: EfficientNet, samples: Sequence[Sample]) -> Float[Tensor, "n f"]:
    """What the image tower takes of every image, in half precision."""
    parts = [samples[start : start + _AT_ONCE] for start in range(0, len(samples), _AT_ONCE)]
    return torch.cat([see(network, to_signed(load_images(part))).half() for part in parts])


def train(
    model: AlignmentModel, seen: Float[Tensor, "n f"], samples: Sequence[Sample], encoder: TextEncoder, steps: int
) -> None:
    """Adam with warm-up and a cosine to 0; every image with one of its captions, drawn anew each time."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
    )
    for step in range(steps):
        rows = torch.randint(len(samples), (BATCH,), generator=generator).tolist()
        draws = torch.rand(BATCH, generator=generator).tolist()
        captions = [
            samples[i].captions[int(draw * len(samples[i].captions))] for i, draw in zip(rows, draws, strict=True)
        ]
        condition = encoder.encode(captions).clone()
        loss = model.loss(model.of_images(seen[rows]), model.of_prompts(condition))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)  # noqa: T201


def measure(scorer: AlignmentScorer, samples: Sequence[Sample]) -> dict[str, float]:
    """Each image against the second captions of all, which name no style."""
    texts = [sample.captions[1] for sample in samples]
    batches = (to_signed(load_images(samples[start : start + 8])) for start in range(0, len(samples), 8))
    with torch.inference_mode():
        found = score_alignment(scorer.of_images(batches), scorer.of_prompts(texts), texts)
    return {"images": found.num_images, "captions": found.num_prompts, "cosine": found.cosine, "found": found.found}


if __name__ == "__main__":
    main()
