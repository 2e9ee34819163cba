r"""A style that the embedded model never saw, as a folder of captioned pictures: what a LoRA is shown.

python recipes/icons/style.py styles/line
bitvar data import styles/line data/line --size 64
bitvar train recipes/icons/lora.py --data data/line --init icons --out runs/line
bitvar generate "a fox, line icon" --lora runs/line/lora --seed 0

The drawings are Fluent Emoji High Contrast (Microsoft, MIT licence): black lines on white. Every fifth thing is left
out, and named in `HELD_OUT.md`, so that its line icon can be asked for and was never seen. Needs the `data` extra and
npm.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from bitvar.data.icons.concepts import CONCEPTS, Concept, named
from bitvar.data.icons.requests import SceneRequest, Thing, write_captions
from bitvar.data.icons.scenes import SpriteAtlas, draw_scene
from bitvar.data.icons.sources import Artist, fetch_package, read_licence, render_sprites

LINE: Final = Artist(
    "line",
    "line icon",
    "@iconify-json/fluent-emoji-high-contrast",
    "1.2.6",
    "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    vector=True,
)
SIZE: Final = 64
EVERY: Final = 5
SEED: Final = 0
PAIRS_EACH: Final = 2


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw a style for a LoRA.")
    parser.add_argument("destination", type=Path)
    destination: Path = parser.parse_args().destination
    destination.mkdir(parents=True)
    downloads = destination / ".downloads"
    downloads.mkdir()
    tarball = fetch_package(LINE, downloads)
    licence = read_licence(LINE, tarball)
    shown, held_out = split_concepts()
    atlas = SpriteAtlas({LINE.key: render_sprites(LINE, tarball, shown, side=4 * SIZE)})
    concepts = {concept.name: concept for concept in shown}
    rng = np.random.default_rng(SEED)
    for number, request in enumerate(requests(shown, rng)):
        picture, _ = draw_scene(request, atlas, size=SIZE, rng=rng, jitter=False)
        picture.save(destination / f"{number:04d}.png")
        captions = [caption for caption in write_captions(request, concepts, style=LINE.style) if LINE.style in caption]
        (destination / f"{number:04d}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    prompts = [f"{named(concept)}, {LINE.style}" for concept in held_out]
    (destination / "HELD_OUT.md").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    (destination / "ATTRIBUTION.md").write_text(
        f"{licence.set_name} by {licence.authors} ({licence.authors_url}), {licence.title}: {licence.url}\n",
        encoding="utf-8",
    )


def split_concepts() -> tuple[list[Concept], list[Concept]]:
    """Things to show, and things to keep back."""
    held_out = list(CONCEPTS[::EVERY])
    return [concept for concept in CONCEPTS if concept not in held_out], held_out


def requests(concepts: list[Concept], rng: np.random.Generator) -> Iterator[SceneRequest]:
    """Each thing alone, and with others."""
    for concept in concepts:
        yield SceneRequest("single", LINE.key, (Thing(concept.name),))
        for other in rng.choice([c.name for c in concepts if c != concept], PAIRS_EACH, replace=False):
            yield SceneRequest("two", LINE.key, (Thing(concept.name), Thing(str(other))))


if __name__ == "__main__":
    main()
