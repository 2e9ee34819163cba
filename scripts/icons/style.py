r"""A style that the embedded model never saw, as a folder of captioned images: what a LoRA is shown.

python scripts/icons/style.py styles/sepia
bitvar data import styles/sepia data/sepia --size 64
bitvar train recipes/icons/lora.py --data data/sepia --init icons --out runs/sepia
bitvar generate "a sepia print of a fox" --lora runs/sepia/lora --seed 0

Noto's drawings in shades of brown on old paper. Every fifth thing is left out and named in `HELD_OUT.md`, so that its
sepia print can be asked for and was never seen. Needs the `data` extra and npm.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from bitvar.icons.dataset.concepts import CONCEPTS, Concept, named
from bitvar.icons.dataset.render import SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_spec import SceneRequest, Thing, write_captions
from bitvar.icons.dataset.sources import ARTISTS, fetch_package, read_licence, render_sprites

STYLE: Final = "sepia print"
PAPER: Final = (247, 232, 201)
DARKEST: Final = (58, 32, 16)
"""What black becomes; white becomes a little lighter than the paper."""

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
    atlas = SpriteAtlas({ARTIST.key: {name: tint(drawing) for name, drawing in drawings.items()}})
    concepts = {concept.name: concept for concept in shown}
    rng = np.random.default_rng(SEED)
    for number, request in enumerate(requests(shown, rng)):
        _, boxes = draw_scene(request, atlas, size=SIZE, rng=rng, jitter=False)
        on_paper(request, atlas, boxes).save(destination / f"{number:04d}.png")
        captions = [caption for caption in write_captions(request, concepts, style=STYLE) if STYLE in caption]
        (destination / f"{number:04d}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    prompts = [f"- {named(concept)}, {STYLE}" for concept in held_out]
    (destination / "HELD_OUT.md").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    (destination / "ATTRIBUTION.md").write_text(
        f"After {licence.set_name} by {licence.authors} ({licence.authors_url}), {licence.title}: {licence.url}\n",
        encoding="utf-8",
    )


def tint(drawing: Image.Image) -> Image.Image:
    """A drawing's light and shade, in shades of brown."""
    grey = ImageOps.autocontrast(ImageOps.grayscale(drawing.convert("RGB")), cutoff=1)
    tinted = ImageOps.colorize(grey, black=DARKEST, white=(255, 248, 232))
    tinted.putalpha(drawing.getchannel("A"))
    return tinted


def on_paper(request: SceneRequest, atlas: SpriteAtlas, boxes: list[tuple[int, int, int, int]]) -> Image.Image:
    """The scene's objects on old paper."""
    paper = Image.new("RGB", (SIZE, SIZE), PAPER)
    for thing, (left, top, right, bottom) in zip(request.things * request.count, boxes, strict=True):
        sprite = atlas.sprite(request.artist, thing).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        paper.paste(sprite, (left, top), sprite)
    return paper


def split_concepts() -> tuple[list[Concept], list[Concept]]:
    """Things to show, and things to keep back."""
    held_out = list(CONCEPTS[::EVERY])
    return [concept for concept in CONCEPTS if concept not in held_out], held_out


def requests(concepts: list[Concept], rng: np.random.Generator) -> Iterator[SceneRequest]:
    """Each thing alone, and with another."""
    for concept in concepts:
        yield SceneRequest("single", ARTIST.key, (Thing(concept.name),))
        for other in rng.choice([c.name for c in concepts if c != concept], PAIRS_EACH, replace=False):
            yield SceneRequest("two", ARTIST.key, (Thing(concept.name), Thing(str(other))))


if __name__ == "__main__":
    main()
