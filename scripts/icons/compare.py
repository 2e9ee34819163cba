r"""Compare images with and without an adapter for prompts of objects that it never saw: the sheet of docs/lora.md.

python scripts/icons/compare.py --lora runs/sepia/lora --held-out styles/sepia/HELD_OUT.md --data data/sepia \
    --out docs/images/lora.png

It takes every fourth object of the list, at most eight, with one seed and no selection. With `--data`, it also prints
how well the frozen tokenizer reconstructs the validation images of the style, which bounds what an adapter can do.
"""

import argparse
from pathlib import Path

from bitvar.data.samples import load_images, read_samples
from bitvar.pipeline import InfinityPipeline
from bitvar.training.monitor.sample_sheets import contact_sheet
from bitvar.training.tokenizer.data import ImageSet
from bitvar.training.tokenizer.validation import measure_reconstruction

EVERY, MAX_PROMPTS = 4, 8
WEIGHTS = (0.5, 1.0)
SEED = 0


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw with and without an adapter.")
    parser.add_argument("--lora", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True, help="prompts, each after '- '")
    parser.add_argument("--data", type=Path, help="the captioned set of the style")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    pipe = InfinityPipeline.from_pretrained()
    if options.data is not None:
        images = load_images(read_samples(options.data, split="val"))
        config = pipe.transformer.config
        grids = config.all_schedules()[0].latent_grids(config.patch_size)
        psnr = measure_reconstruction(pipe.tokenizer, ImageSet(images), [grids])["psnr"]
        print(f"the tokenizer reconstructs {len(images)} validation images at {psnr:.1f} dB")  # noqa: T201
    prompts = [line.removeprefix("- ") for line in options.held_out.read_text(encoding="utf-8").splitlines()]
    picked = prompts[1::EVERY][:MAX_PROMPTS]
    objects = [prompt.rpartition(", ")[0] for prompt in picked]
    images = [pipe(prompt, seed=SEED).images[0] for prompt in picked]
    captions = [f"{item}: without" for item in objects]
    pipe.load_lora_weights(options.lora, adapter_name="style")
    for weight in WEIGHTS:
        pipe.set_adapters(["style"], [weight])
        images += [pipe(prompt, seed=SEED).images[0] for prompt in picked]
        captions += [f"{item}: weight {weight:g}" for item in objects]
    contact_sheet(images, captions, columns=len(picked), cell=128).save(options.out)


if __name__ == "__main__":
    main()
