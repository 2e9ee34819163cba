r"""Publish a run's newest checkpoint as the embedded model: measure it, write its card, save it in fp16.

python scripts/icons/publish.py --run runs/icons --data data/icons64 \
    --tokenizer src/bitvar/pretrained/general --text-encoder MINILM_FOLDER \
    --out src/bitvar/pretrained/icons

Afterwards `python scripts/icons/vocabulary.py --model OUT` adds the model's vocabulary. With `--figures
docs/figures.json` the per-scale results are kept there too, and `python scripts/icons/figures.py` writes the tables of
the card and the docs from them. The card repeats the newest table of scenes in `docs/figures.json`; evaluate the new
model and run that script to replace it.

Everything on the card is measured here or read from the run's own files, except for the machine of an earlier run.
"""

import argparse
import json
from pathlib import Path
from runpy import run_path
from typing import Any, Final

import torch

from bitvar.data.samples import load_images, read_samples
from bitvar.icons.dataset.concepts import CONCEPTS
from bitvar.icons.dataset.held_out import held_out_combinations, held_out_prompts
from bitvar.icons.dataset.sources import ARTISTS
from bitvar.pipeline import InfinityPipeline
from bitvar.sampling.params import SamplingParams
from bitvar.scales import ScaleSchedule
from bitvar.training.config import TransformerTraining
from bitvar.training.engine.checkpoint import counts_of, step_of
from bitvar.training.export import load_components, model_index, pick_checkpoint, read_config
from bitvar.training.tokenizer.data import ImageSet
from bitvar.training.tokenizer.validation import measure_reconstruction
from bitvar.training.transformer.feature_cache import features_key, load_feature_set
from bitvar.training.transformer.task import measure_bits
from bitvar.weights.model_folder import Components

FIGURES: Final = run_path(str(Path(__file__).with_name("figures.py")))


@torch.no_grad()
def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Publish an icons run as the embedded model.")
    parser.add_argument("--run", type=Path, required=True, help="OUT of the transformer run")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="the checkpoint that the run started from (--init), for the card")
    parser.add_argument("--base-machine", default="", help="the machine of that run, such as 'a GPU', for the card")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=0.25)
    parser.add_argument("--figures", type=Path, help="docs/figures.json, to keep the results in")
    options = parser.parse_args()

    pipeline = load_run(options)
    parts = pipeline.components
    measured = {
        split: measure(pipeline, options, split) for split in ("val", "held_out_combination", "held_out_prompt")
    }
    card = write_card(pipeline, measured, options)
    if options.figures is not None:
        FIGURES["keep"](options.figures, scales=FIGURES["keep_scales"](measured))
    for part in (parts.transformer, parts.tokenizer, parts.text_encoder.model if parts.text_encoder else None):
        if part is not None:
            part.half()
    half = Components(parts.transformer, parts.tokenizer, parts.text_encoder, parts.index, card)
    InfinityPipeline(half).save_pretrained(options.out)


def load_run(options: argparse.Namespace) -> InfinityPipeline:
    """Load the averaged weights of the newest checkpoint, with the tokenizer and text encoder of its training."""
    checkpoint = pick_checkpoint(options.run)
    config = read_config(checkpoint)
    assert isinstance(config, TransformerTraining), f"{options.run} is a tokenizer run"
    defaults = SamplingParams(guidance_scale=options.guidance, temperature=options.temperature)
    index = model_index("icons", options.tokenizer, defaults)
    parts = {"tokenizer": options.tokenizer, "text_encoder": options.text_encoder}
    return InfinityPipeline(load_components(checkpoint, config, **parts, index=index, card=""))


def measure(pipeline: InfinityPipeline, options: argparse.Namespace, split: str) -> dict[str, Any]:
    """Measure per-scale loss, bit accuracy and PSNR of the reconstruction from the first k scales, nothing flipped."""
    schedule: ScaleSchedule = pipeline.transformer.config.all_schedules()[0]
    encoder = pipeline.text_encoder
    assert encoder is not None
    samples = load_feature_set(
        options.data,
        split,
        tokenizer=pipeline.tokenizer,
        text_encoder=encoder,
        cache=options.run / f"features-{split}.safetensors",
        key=features_key(pipeline.index.tokenizer.bits_sha256, encoder, options.text_encoder),
        log=lambda line: None,
    )
    bits = measure_bits(pipeline.transformer, samples, [schedule])
    images = load_images(read_samples(options.data, split=split))
    grids = schedule.latent_grids(pipeline.transformer.config.patch_size)
    reconstruction = measure_reconstruction(pipeline.tokenizer, ImageSet(images), [grids])
    return {"samples": len(images), **bits, **reconstruction}


def write_card(pipeline: InfinityPipeline, measured: dict[str, Any], options: argparse.Namespace) -> str:
    """Write the model card."""
    checkpoint = pick_checkpoint(options.run)
    manifest = json.loads((options.data / "manifest.json").read_text())
    schedule = pipeline.transformer.config.all_schedules()[0]
    models = {"transformer": pipeline.transformer, "tokenizer": pipeline.tokenizer}
    combinations = held_out_combinations([concept.name for concept in CONCEPTS], [artist.key for artist in ARTISTS])
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf-8")
    return template.format(
        table=FIGURES["scale_table"](FIGURES["keep_scales"](measured)),
        scenes=FIGURES["scenes_table"](json.loads(FIGURES["FIGURES"].read_text(encoding="utf-8"))["scenes"]),
        transformer=pipeline.transformer.config,
        tokenizer=pipeline.tokenizer.config,
        millions={name: f"{sum(p.numel() for p in m.parameters()) / 1e6:.1f}" for name, m in models.items()},
        tokens=schedule.num_tokens,
        num_scales=len(schedule),
        sides=", ".join(str(grid[0]) for grid in schedule),
        training=TransformerTraining.load(checkpoint / "config.json"),
        steps=step_of(checkpoint),
        earlier=describe_base(options.base, options.base_machine),
        images=sum(manifest["counts"]["train"].values()),
        seed=manifest["seed"],
        held_out={"combinations": len(combinations), "prompts": len(held_out_prompts())},
        accuracy={s: f"{100 * m['accuracy']:.1f} %" for s, m in measured.items()},
        loss={s: f"{m['loss']:.3f}" for s, m in measured.items()},
        counts={s: m["samples"] for s, m in measured.items()},
        concepts=", ".join(concept_names(manifest)),
        attribution=(options.data / "ATTRIBUTION.md").read_text(encoding="utf-8"),
    )


def describe_base(checkpoint: Path | None, machine: str) -> str:
    """Describe the run that this one started from, for the card."""
    if checkpoint is None:
        return ""
    planned = TransformerTraining.load(checkpoint / "config.json").optimization
    done = f"step {step_of(checkpoint):,} of {planned.steps:,} (batches of {planned.batch_size})"
    seen = sum(count for count in counts_of(checkpoint) if isinstance(count, int))
    where = f", on {machine}," if machine else ""
    return f", starting from the averaged weights of an earlier run on {seen:,} such images{where} at {done}"


def concept_names(manifest: dict[str, Any]) -> list[str]:
    """List the names of the set's concepts."""
    return [entry if isinstance(entry, str) else entry["name"] for entry in manifest["concepts"]]


if __name__ == "__main__":
    main()
