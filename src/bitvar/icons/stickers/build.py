"""Construction of the sticker set: a captioned set of RGBA images, written by several processes.

`samples.jsonl` is written last, so that a partial folder can't pass for a complete one. An image depends on the seed,
its split and its index only.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitvar.data.writing import finish_folder, image_path, json_lines, prepare_folder
from bitvar.errors import UsageError
from bitvar.files import write_text
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS
from bitvar.icons.dataset.sources import Artist, attribution, fetch_package
from bitvar.icons.stickers.artists import ARTISTS
from bitvar.icons.stickers.captions import draw_captions
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.render import draw_scene
from bitvar.icons.stickers.scenes import SPLITS, SceneSampler
from bitvar.icons.stickers.sprites import SpriteStore, build_sprites, read_licences

FORMAT_VERSION: Final = 6
_CHUNK: Final = 500
_STREAMS: Final = {"layout": 8, "captions": 9}
_SIZES: Final = (64, 256)


def build_sticker_set(
    destination: Path,
    *,
    sprites: Path,
    downloads: Path,
    size: int = 256,
    seed: int = 0,
    counts: tuple[int, int] = (60_000, 600),
    processes: int = 1,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """Write a captioned set of stickers. Returns the number of its images.

    Args:
        destination: Folder of the set: new, empty, or left by an interrupted build, which starts over.
        sprites: Folder of the rendered drawings, which is filled as needed and may be shared by several sets.
        downloads: Folder of the packages, which are fetched by name if drawings are missing.
        size: Pixels a side, 64 to 256.
        seed: Seed of the set.
        counts: Number of images of each of `SPLITS`.
        processes: Number of processes; the files are the same for any.
        log: Receives a line of text now and then.

    Raises:
        UsageError: If the size is out of range, or the folder holds something else.
        RuntimeError: If a package can't be fetched, isn't the pinned one, or has a licence that is not permitted.
    """
    if not _SIZES[0] <= size <= _SIZES[1]:
        why = f"expected {_SIZES[0]} to {_SIZES[1]} pixels, got {size}"
        raise UsageError("Can't build the sticker set.", why, "choose a size in that range")
    prepare_folder(destination)
    downloads.mkdir(parents=True, exist_ok=True)

    def fetch(artist: Artist) -> Path:
        return fetch_package(artist, downloads, log=log)

    if rendered := build_sprites(sprites, ARTISTS, read_concepts(), fetch=fetch, processes=processes):
        log(f"rendered {rendered:,} drawings")
    chunks = list(_chunks(counts))
    samples: list[dict[str, Any]] = []
    with ProcessPoolExecutor(processes) as pool:
        for rows in pool.map(_write_chunk, chunks, repeat((destination, sprites, size, seed))):
            samples += rows
            if len(samples) % (10 * _CHUNK) < _CHUNK:
                log(f"drew {len(samples):,} of {sum(counts):,} images")
    licences = read_licences(sprites, ARTISTS)
    used = Counter(sample["artist"] for sample in samples)
    manifest = {
        "format_version": FORMAT_VERSION,
        "size": size,
        "seed": seed,
        "counts": dict(zip(SPLITS, counts, strict=True)),
        "samples_sha256": hashlib.sha256(json_lines(samples).encode()).hexdigest(),
        "packages": [
            {**asdict(artist), **asdict(licences[artist.key]), "num_images": used[artist.key]} for artist in ARTISTS
        ],
        "object_colours": COLOURS,
        "backgrounds": BACKGROUNDS,
    }
    write_text(destination / "ATTRIBUTION.md", attribution(ARTISTS, licences, used))
    finish_folder(destination, samples, manifest)
    return len(samples)


def _chunks(counts: tuple[int, int]) -> Iterator[tuple[str, int, int, int]]:
    """Yield ranges of images: their split, the first and the end in it, and the first in the set."""
    first = 0
    for split, count in zip(SPLITS, counts, strict=True):
        for start in range(0, count, _CHUNK):
            yield split, start, min(start + _CHUNK, count), first + start
        first += count


def _write_chunk(chunk: tuple[str, int, int, int], arguments: tuple[Path, Path, int, int]) -> list[dict[str, Any]]:
    (split, start, end, number), (destination, sprites, size, seed) = chunk, arguments
    store, concepts = SpriteStore(sprites), read_concepts()
    sampler, by_name = SceneSampler(concepts, store, seed=seed), {concept.name: concept for concept in concepts}
    styles = {artist.key: artist.style for artist in ARTISTS}
    rows = []
    for index in range(start, end):
        layout, words = (
            np.random.default_rng([seed, stream, SPLITS.index(split), index]) for stream in _STREAMS.values()
        )
        scene = sampler.scene(split, index)
        image, boxes = draw_scene(scene, store, size=size, rng=layout)
        path = image_path(number + index - start)
        (destination / path.parent).mkdir(parents=True, exist_ok=True)
        image.save(destination / path, compress_level=3)
        style = styles[scene.artist]
        rows.append(
            {
                "image_path": path.as_posix(),
                "h_div_w": 1.0,
                "captions": list(draw_captions(scene, by_name, style=style, rng=words)),
                "split": split,
                "style": style,
                "artist": scene.artist,
                "layout": scene.layout,
                "background": scene.background,
                "objects": [
                    {**asdict(item), "box": list(box)}
                    for item, box in zip(scene.items * scene.count, boxes, strict=True)
                ],
            }
        )
    return rows
