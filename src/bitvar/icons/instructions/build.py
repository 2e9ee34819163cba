"""Construction of a set of instructions: two captioned sets with the same lines, `sources` and `targets`.

A line of `targets` names the edited image, with the instruction in several phrasings as its captions. The line of
`sources` with the same number names the image before it. `targets` is completed last.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitvar.data.writing import finish_folder, image_path, prepare_folder
from bitvar.errors import UsageError
from bitvar.files import write_text
from bitvar.icons.dataset.concepts import CONCEPTS
from bitvar.icons.dataset.held_out import held_out_combinations
from bitvar.icons.dataset.render import SpriteAtlas
from bitvar.icons.dataset.sources import ARTISTS, attribution, fetch_package, read_licence, render_sprites
from bitvar.icons.instructions.draw import LayoutPainter
from bitvar.icons.instructions.sampler import EditSampler
from bitvar.icons.instructions.spec import KINDS, SceneEdit, to_row

SOURCES: Final = "sources"
TARGETS: Final = "targets"
SOURCE_CAPTION: Final = "an image before an edit"
"""Caption of every source, which no one reads."""

HELD_OUT: Final = "held_out"
"""Split of the instructions that training never sees."""

NUM_VALIDATION: Final = 320
NUM_HELD_OUT_EACH: Final = 12
_SPRITE_FACTOR: Final = 4


def build_edit_set(
    destination: Path,
    *,
    size: int = 64,
    seed: int = 0,
    num_edits: int = 16000,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a set of instructions on icon scenes.

    Args:
        destination: Folder to create; packages of drawings are fetched into `.downloads` in it.
        size: Side of the images in pixels.
        seed: Seed of the scenes.
        num_edits: Number of instructions to train on.
        log: Receives a line of text about the progress.

    Returns:
        The destination.

    Raises:
        UsageError: If the folder holds something else.
        RuntimeError: If a package can't be fetched or isn't the pinned one.
    """
    if (destination / TARGETS / "samples.jsonl").is_file():
        raise UsageError(f"{destination} holds a set already.", "nothing is overwritten", "choose a new folder")
    downloads = destination / ".downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    tarballs = {artist.key: fetch_package(artist, downloads, log=log) for artist in ARTISTS}
    log(f"rendering {len(CONCEPTS)} concepts by {len(ARTISTS)} artists")
    atlas = SpriteAtlas(
        {
            artist.key: render_sprites(artist, tarballs[artist.key], CONCEPTS, side=_SPRITE_FACTOR * size)
            for artist in ARTISTS
        }
    )
    edits = list(plan_edits(atlas, seed=seed, num_edits=num_edits))
    licences = {artist.key: read_licence(artist, tarballs[artist.key]) for artist in ARTISTS}
    used = Counter(edit.source.artist for _, edit in edits)
    write_text(destination / "ATTRIBUTION.md", attribution(ARTISTS, licences, used))
    write_edits(destination, edits, LayoutPainter(atlas, size=size), manifest={"size": size, "seed": seed}, log=log)
    return destination


def plan_edits(atlas: SpriteAtlas, *, seed: int, num_edits: int) -> Iterator[tuple[str, SceneEdit]]:
    """Yield every instruction with its split; each split draws from its own generator."""
    keys = [artist.key for artist in ARTISTS]
    unseen = held_out_combinations([concept.name for concept in CONCEPTS], keys)
    drawable = {key: tuple(concept for concept in CONCEPTS if (key, concept.name) not in unseen) for key in keys}
    samplers = [EditSampler(drawable, atlas, np.random.default_rng([seed, stream])) for stream in range(3)]
    for split, sampler, number in (("train", samplers[0], num_edits), ("val", samplers[1], NUM_VALIDATION)):
        yield from ((split, edit) for edit in sampler.draw(number))
    for kind in KINDS:
        yield from ((HELD_OUT, edit) for edit in samplers[2].held_out(kind, NUM_HELD_OUT_EACH))


def write_edits(
    destination: Path,
    edits: list[tuple[str, SceneEdit]],
    painter: LayoutPainter,
    *,
    manifest: dict[str, Any],
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Draw instructions into `destination`.

    Args:
        destination: Folder of the set.
        edits: Instructions with their splits.
        painter: Draws the scenes.
        manifest: What else the manifests say.
        log: Receives a line of text about the progress.
    """
    rows: dict[str, list[dict[str, Any]]] = {SOURCES: [], TARGETS: []}
    for part in rows:
        prepare_folder(destination / part)
    for index, (split, edit) in enumerate(edits):
        path = image_path(index)
        for part, layout in ((SOURCES, edit.source), (TARGETS, edit.target)):
            file = destination / part / path
            file.parent.mkdir(parents=True, exist_ok=True)
            painter.draw(layout).save(file)
            captions = list(edit.instructions) if part == TARGETS else [SOURCE_CAPTION]
            row = {"image_path": path.as_posix(), "h_div_w": 1.0, "split": split, "captions": captions}
            rows[part].append(row | {"edit": to_row(edit)})
        if (index + 1) % 4000 == 0:
            log(f"drew {index + 1} instructions")
    counts = Counter(f"{split} {edit.kind}" for split, edit in edits)
    for part, lines in rows.items():
        finish_folder(destination / part, lines, {**manifest, "counts": dict(counts)})
