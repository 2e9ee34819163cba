"""Drawings of the right names for tests of the sticker set."""

import hashlib
import json
from dataclasses import asdict

import pytest
from PIL import Image, ImageDraw

from bitvar.icons.dataset.sources import Licence
from bitvar.icons.stickers.artists import ARTISTS
from bitvar.icons.stickers.concepts import read_concepts
from bitvar.icons.stickers.sprites import SpriteStore, file_name


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> SpriteStore:
    """Drawings of the right names: ellipses, each of its own colour and shape."""
    folder = tmp_path_factory.mktemp("sprites")
    for concept in read_concepts():
        for artist in concept.drawings:
            number = hashlib.sha256(f"{artist} {concept.name}".encode()).digest()
            image = Image.new("RGBA", (20 + number[0] % 30, 20 + number[1] % 30))
            ImageDraw.Draw(image).ellipse((0, 0, *image.size), (number[2], number[3], number[4], 255))
            (folder / artist).mkdir(exist_ok=True)
            image.save(folder / artist / file_name(concept.name), lossless=True, method=0)
    for artist in ARTISTS:
        licence = Licence(artist.key, f"those of {artist.key}", "https://authors", "a licence", "https://licence")
        (folder / artist.key / "licence.json").write_text(json.dumps(asdict(licence)), encoding="utf-8")
    return SpriteStore(folder)
