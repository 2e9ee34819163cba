r"""Train the two towers that score the alignment of images with prompts, for `bitvar evaluate scenes`.

bitvar data icons data/icons64 --still
python scripts/icons/alignment.py data/icons64 runs/alignment

The loss is contrastive, in batches of 256, on frozen features of every second image of the training split and its
captions. Prints how often the own caption is the nearest, of validation and of held-out images. The same results are
in metrics.json beside the weights.
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
    image_features,
    score_alignment,
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
    features = extract_features(network, samples)
    torch.manual_seed(SEED)
    model = AlignmentModel(AlignmentConfig())
    train(model, features, samples, encoder, arguments.steps)
    scorer = AlignmentScorer(model, network, encoder)
    metrics = {"images": len(samples), "steps": arguments.steps}
    for split in ("val", "held_out_prompt", "held_out_combination"):
        metrics[split] = measure(scorer, read_samples(arguments.data, split=split))
    with atomic_folder(arguments.out) as folder:
        (folder / "config.json").write_text(model.config.dump(), encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    print(json.dumps(metrics, indent=1))  # noqa: T201


def extract_features(network: EfficientNet, samples: Sequence[Sample]) -> Float[Tensor, "n f"]:
    """Compute the image tower's features of every image, in half precision."""
    batches = [samples[start : start + _AT_ONCE] for start in range(0, len(samples), _AT_ONCE)]
    return torch.cat([image_features(network, to_signed(load_images(batch))).half() for batch in batches])


def train(
    model: AlignmentModel, features: Float[Tensor, "n f"], samples: Sequence[Sample], encoder: TextEncoder, steps: int
) -> None:
    """Train with AdamW, warm-up and a cosine decay to 0, on every image with one of its captions at random."""
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
        loss = model.loss(model.embed_images(features[rows]), model.embed_prompts(condition))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}/{steps}  loss {loss.item():.3f}", flush=True)  # noqa: T201


def measure(scorer: AlignmentScorer, samples: Sequence[Sample]) -> dict[str, float]:
    """Score each image against the second captions of all images, which name no style."""
    texts = [sample.captions[1] for sample in samples]
    batches = (to_signed(load_images(samples[start : start + 8])) for start in range(0, len(samples), 8))
    with torch.inference_mode():
        found = score_alignment(scorer.embed_images(batches), scorer.embed_prompts(texts), texts)
    return {"images": found.num_images, "captions": found.num_prompts, "cosine": found.cosine, "found": found.found}


if __name__ == "__main__":
    main()
