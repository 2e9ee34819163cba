r"""Draw a style that the embedded model never saw, as a folder of captioned images to train a LoRA on.

python scripts/icons/style.py styles/sepia
bitvar data import styles/sepia data/sepia --size 64
bitvar train recipes/icons/lora.py --data data/sepia --init icons --out runs/sepia
bitvar generate "a sepia print of a fox" --lora runs/sepia/lora --seed 0

The style is Noto's drawings in shades of brown on old paper. Every fifth concept is left out and listed in
`HELD_OUT.md`, to test whether the style carries over. Needs the `data` extra and npm.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from bitvar.icons.dataset.concepts import CONCEPTS, Concept, named
from bitvar.icons.dataset.render import SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec, write_captions
from bitvar.icons.dataset.sources import ARTISTS, fetch_package, read_licence, render_sprites

STYLE: Final = "sepia print"
PAPER: Final = (247, 232, 201)
DARKEST: Final = (58, 32, 16)
"""The colour of black; white becomes a little lighter than the paper."""

ARTIST: Final = next(artist for artist in ARTISTS if artist.key == "noto")
SIZE: Final = 64
EVERY: Final = 5
SEED: Final = 0
PAIRS_EACH: Final = 2


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw a style for a LoRA.")
    parser.add_argument("destination", type=Path)
    destination: Path = parser.parse_args().destination
    downloads = destination / ".downloads"
    downloads.mkdir(parents=True)
    tarball = fetch_package(ARTIST, downloads)
    licence = read_licence(ARTIST, tarball)
    shown, held_out = split_concepts()
    drawings = render_sprites(ARTIST, tarball, shown, side=4 * SIZE)
    atlas = SpriteAtlas({ARTIST.key: {name: sepia(drawing) for name, drawing in drawings.items()}})
    concepts = {concept.name: concept for concept in shown}
    rng = np.random.default_rng(SEED)
    for number, spec in enumerate(specs(shown, rng)):
        _, boxes = draw_scene(spec, atlas, size=SIZE, rng=rng, jitter=False)
        on_paper(spec, atlas, boxes).save(destination / f"{number:04d}.png")
        captions = [caption for caption in write_captions(spec, concepts, style=STYLE) if STYLE in caption]
        (destination / f"{number:04d}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    prompts = [f"- {named(concept)}, {STYLE}" for concept in held_out]
    (destination / "HELD_OUT.md").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    (destination / "ATTRIBUTION.md").write_text(
        f"After {licence.set_name} by {licence.authors} ({licence.authors_url}), {licence.title}: {licence.url}\n",
        encoding="utf-8",
    )


def sepia(drawing: Image.Image) -> Image.Image:
    """Repaint a drawing in shades of brown."""
    grey = ImageOps.autocontrast(ImageOps.grayscale(drawing.convert("RGB")), cutoff=1)
    toned = ImageOps.colorize(grey, black=DARKEST, white=(255, 248, 232))
    toned.putalpha(drawing.getchannel("A"))
    return toned


def on_paper(spec: SceneSpec, atlas: SpriteAtlas, boxes: list[tuple[int, int, int, int]]) -> Image.Image:
    """Draw the objects of a scene on old paper."""
    paper = Image.new("RGB", (SIZE, SIZE), PAPER)
    for item, (left, top, right, bottom) in zip(spec.objects * spec.count, boxes, strict=True):
        sprite = atlas.sprite(spec.artist, item).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        paper.paste(sprite, (left, top), sprite)
    return paper


def split_concepts() -> tuple[list[Concept], list[Concept]]:
    """Split the concepts into those to show and those to hold out."""
    held_out = list(CONCEPTS[::EVERY])
    return [concept for concept in CONCEPTS if concept not in held_out], held_out


def specs(concepts: list[Concept], rng: np.random.Generator) -> Iterator[SceneSpec]:
    """Yield each concept alone, and beside others."""
    for concept in concepts:
        yield SceneSpec("single", ARTIST.key, (ObjectSpec(concept.name),))
        for other in rng.choice([c.name for c in concepts if c != concept], PAIRS_EACH, replace=False):
            yield SceneSpec("two", ARTIST.key, (ObjectSpec(concept.name), ObjectSpec(str(other))))


if __name__ == "__main__":
    main()
