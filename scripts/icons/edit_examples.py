"""Draw the examples of docs/editing.md: python scripts/icons/edit_examples.py docs/images."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from PIL import Image

from bitvar.editing.masks import box_mask, extend
from bitvar.files import atomic_path
from bitvar.imaging.sheet import Caption, GridStyle, Tile, draw_grid
from bitvar.pipeline import InfinityPipeline

Strip = Iterator[tuple[str, Image.Image]]
STYLE: Final = GridStyle(gap=10, margin=10, outline="#cccccc", caption_height=34)
CAR: Final = "a red car, 3D emoji"


def marked(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Show a box on an image."""
    shown = image.convert("RGB")
    veil = Image.new("RGB", shown.size, "#ff00aa")
    mask = box_mask(shown.size, box).point([value // 3 for value in range(256)])
    return Image.composite(veil, shown, mask)


def strength(pipe: InfinityPipeline) -> Strip:
    source = pipe("a red car on a blue background, 3D emoji", seed=3).images[0]
    yield "the image", source
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield f"strength {share:g}", pipe.edit("a bus, 3D emoji", image=source, strength=share, seed=1).images[0]


def inpainting(pipe: InfinityPipeline) -> Strip:
    source = pipe("a lion to the left of a tree, Noto emoji", seed=1).images[0]
    box = (0, 12, 31, 38)
    mask = box_mask(source.size, box)
    yield "the image", source
    yield "the mask", marked(source, box)
    for name in ("dog", "robot", "rabbit"):
        prompt = f"a {name} to the left of a tree, Noto emoji"
        yield f"a {name}", pipe.edit(prompt, image=source, mask=mask, exact=True, seed=1).images[0]
    options = {"mask": mask, "strength": 0.25, "fill": "surroundings", "exact": True}
    yield "--remove", pipe.edit("", image=source, seed=1, **options).images[0]


def methods(pipe: InfinityPipeline) -> Strip:
    before = "a red car and a yellow fish, flat emoji"
    source = pipe(before, seed=1).images[0]
    yield "the image", source
    for method in ("localized", "inversion", "bit-test", "difference"):
        edited = pipe.edit(
            "a green car and a yellow fish, flat emoji", image=source, source_prompt=before, method=method, seed=1
        )
        yield method, edited.images[0]
    swapped = pipe.edit("a red car and a cat, flat emoji", image=source, source_prompt=before, exact=True, seed=1)
    yield "a cat, localized", swapped.images[0]


def outpainting(pipe: InfinityPipeline) -> Strip:
    source = pipe("a cake, 3D emoji", seed=1).images[0]
    larger, mask = extend(source, (0, 0, 64, 0))
    yield "the image", source
    yield "--extend 0,0,64,0", marked(larger.convert("RGB"), (64, 0, 64, 64))
    for name in ("cat", "robot"):
        prompt = f"a cake to the left of a {name}, 3D emoji"
        edited = pipe.edit(prompt, image=larger, mask=mask, exact=True, fit="pad", seed=1)
        yield f"and a {name}", edited.images[0]


def variations(pipe: InfinityPipeline) -> Strip:
    prompt = "a bird on a blue background"
    source = pipe(prompt, seed=2).images[0]
    yield "the image", source
    for seed in (1, 2):
        yield "--vary details", pipe.edit(prompt, image=source, strength=0.5, seed=seed).images[0]
    for seed in (1, 2, 3):
        yield "--vary layout", pipe.edit(prompt, image=source, keep_scales=1, seed=seed).images[0]


def style(pipe: InfinityPipeline) -> Strip:
    source = pipe("a red apple on a green background, Noto emoji", seed=1).images[0]
    yield "the reference", source
    for name in ("fish", "house", "balloon"):
        yield f"a {name}, 2 scales kept", pipe.edit(f"a {name}", image=source, keep_scales=2, seed=1).images[0]
        yield f"a {name}, plain", pipe(f"a {name}", seed=1).images[0]


def towards(pipe: InfinityPipeline) -> Strip:
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        mix = [{"prompt": "a tomato, 3D emoji", "weight": weight}]
        yield f"weight {weight:g}", pipe("a lemon, 3D emoji", mix=mix, seed=1).images[0]
    switched = [{"prompt": "a tomato, 3D emoji", "first_scale": 2}]
    yield "--switch 3", pipe("a lemon, 3D emoji", mix=switched, seed=1).images[0]


def between_seeds(pipe: InfinityPipeline) -> Strip:
    for weight in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        yield f"weight {weight:g}", pipe("a bird", mixed_seed={"seed": 5, "weight": weight}, seed=2).images[0]


def regions(pipe: InfinityPipeline) -> Strip:
    first, second = "a lion to the left of a snowman, 3D emoji", "a snowman to the left of a house, 3D emoji"
    yield "the first alone", pipe(first, seed=1).images[0]
    yield "the second alone", pipe(second, seed=1).images[0]
    right = [{"prompt": second, "box": (0.5, 0.0, 0.5, 1.0)}]
    yield "the second on the right", pipe(first, mix=right, seed=1).images[0]
    apple, fish = "a red apple, 3D emoji", "a blue fish, 3D emoji"
    yield "apple, fish on the right", pipe(apple, mix=[{"prompt": fish, "box": (0.5, 0, 0.5, 1)}], seed=1).images[0]
    yield "apple, fish on the left", pipe(apple, mix=[{"prompt": fish, "box": (0, 0, 0.5, 1)}], seed=1).images[0]


EXAMPLES: Final[dict[str, Callable[[InfinityPipeline], Strip]]] = {
    "strength": strength,
    "inpainting": inpainting,
    "methods": methods,
    "outpainting": outpainting,
    "variations": variations,
    "style": style,
    "towards": towards,
    "seeds": between_seeds,
    "regions": regions,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=EXAMPLES, help="draw this example alone")
    arguments = parser.parse_args()
    pipe = InfinityPipeline.from_pretrained(device="cpu")
    for name, example in EXAMPLES.items():
        if arguments.only in (None, name):
            tiles = [Tile(image, [Caption(text, max_lines=2)]) for text, image in example(pipe)]
            sheet = draw_grid(tiles, columns=len(tiles), cell=(128, 128), style=STYLE)
            with atomic_path(arguments.folder / f"editing-{name}.png") as path:
                sheet.quantize(192).save(path, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
