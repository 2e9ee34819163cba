"""Cut-out drawings on disk: rendered once by `build_sprites`, read by `SpriteStore`.

A store is a folder with files `ARTIST/CONCEPT.webp`, without loss: RGBA with straight alpha, trimmed to what is opaque,
at most `SIDE` pixels a side. `ARTIST/licence.json` has the licence that the artist's package names.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Final

from PIL import Image

from bitvar.files import write_text
from bitvar.icons.dataset.concepts import COLOURS
from bitvar.icons.dataset.render import backgrounds_for
from bitvar.icons.dataset.sources import Artist, Licence, read_icon_set, read_licence, read_member, render_icon
from bitvar.icons.dataset.sprites import recolour, trim_to_alpha
from bitvar.icons.stickers.artists import ONE_COLOUR, PERMITTED
from bitvar.icons.stickers.concepts import StickerConcept

SIDE: Final = 256
"""Pixels a side at which drawings are rendered before they are trimmed."""

_THUMBNAIL: Final = 48
_LICENCE: Final = "licence.json"
_KEPT: Final = 3000
_PARTS: Final = 8


def file_name(concept: str) -> str:
    """Name of a concept's file: its name, with what file systems don't like replaced."""
    return "".join(char if char.isalnum() or char in "-' " else "_" for char in concept) + ".webp"


def missing_sprites(folder: Path, artist: Artist, concepts: Sequence[StickerConcept]) -> list[tuple[str, str]]:
    """List the concepts of an artist that the folder lacks, with the names of their drawings."""
    drawn = [(concept.name, concept.drawings[artist.key]) for concept in concepts if artist.key in concept.drawings]
    return [pair for pair in drawn if not (folder / artist.key / file_name(pair[0])).exists()]


def build_sprites(
    folder: Path,
    artists: Sequence[Artist],
    concepts: Sequence[StickerConcept],
    *,
    fetch: Callable[[Artist], Path],
    processes: int = 1,
) -> int:
    """Render every drawing that the folder lacks. Returns their number.

    Args:
        folder: Folder of the store.
        artists: Artists to render.
        concepts: Concepts to render.
        fetch: Gives the package of an artist; asked only if a drawing or the licence is missing.
        processes: Number of processes.

    Raises:
        RuntimeError: If the metadata of a package name a licence that is not permitted.
    """
    tasks = []
    for artist in artists:
        missing = missing_sprites(folder, artist, concepts)
        licence = folder / artist.key / _LICENCE
        if missing or not licence.exists():
            tarball = fetch(artist)
            licence.parent.mkdir(parents=True, exist_ok=True)
            write_text(licence, json.dumps(asdict(read_licence(artist, tarball, permitted=PERMITTED))) + "\n")
            tasks += [(artist, tarball, folder, missing[part::_PARTS]) for part in range(_PARTS)]
    if tasks:
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(_render_some, *zip(*tasks, strict=True)))
    return sum(len(task[3]) for task in tasks)


def read_licences(folder: Path, artists: Sequence[Artist]) -> dict[str, Licence]:
    """Read the licences of artists in a complete store, by key."""
    texts = {artist.key: (folder / artist.key / _LICENCE).read_text(encoding="utf-8") for artist in artists}
    return {key: Licence(**json.loads(text)) for key, text in texts.items()}


def _render_some(artist: Artist, tarball: Path, folder: Path, drawings: list[tuple[str, str]]) -> None:
    target = folder / artist.key
    with tarfile.open(tarball) as archive:
        icons = read_icon_set(archive) if artist.vector else {}
        for name, drawing in drawings:
            if artist.vector:
                image = render_icon(icons, drawing, side=SIDE)
            else:
                data = read_member(archive, f"package/assets/{drawing}.webp")
                image = Image.open(io.BytesIO(data)).convert("RGBA")
            partial = target / f".{os.getpid()}.webp"
            trim_to_alpha(image).save(partial, lossless=True, method=4)
            partial.replace(target / file_name(name))


class SpriteStore:
    """Reads cut-outs, and makes recoloured copies.

    Args:
        folder: Folder that `build_sprites` filled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sprite = lru_cache(_KEPT)(self._sprite)
        self.visible_backgrounds = lru_cache(None)(self._visible_backgrounds)

    def _sprite(self, artist: str, concept: str, colour: str | None = None) -> Image.Image:
        """Return the RGBA cut-out of a concept by an artist, in a colour of `COLOURS` or the artist's own."""
        image = Image.open(self.folder / artist / file_name(concept)).convert("RGBA")
        if colour is None:
            return image
        if artist in ONE_COLOUR:
            filled = Image.new("RGBA", image.size, COLOURS[colour])
            filled.putalpha(image.getchannel("A"))
            return filled
        return recolour(image, COLOURS[colour])

    def _visible_backgrounds(self, artist: str, concept: str, colour: str | None) -> tuple[str, ...]:
        """List the backgrounds against which enough of the object stands out; never the object's own colour."""
        thumbnail = self.sprite(artist, concept, colour).copy()
        thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
        return backgrounds_for(thumbnail, colour)
