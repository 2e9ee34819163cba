"""Training scenes for the judge: more varied than a generator's, with ground truth for every object.

A scene has zero to six objects, placed anywhere without overlap, in any mixture of colours.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, Concept
from bitvar.icons.dataset.render import Box, SpriteAtlas
from bitvar.icons.dataset.scene_spec import ObjectSpec

_NUMBER_SHARES = (0.02, 0.30, 0.24, 0.16, 0.18, 0.06, 0.04)  # shares of scenes with 0, 1, ... 6 objects
_REPEATED_SHARE = 0.4  # share of scenes with several objects in which all are alike
_COLOURED_SHARES = {True: 0.45, False: 0.12}  # share of objects recoloured, by whether the concept is recolourable
_WHITE_SHARE = 0.6
_SPOILT_SHARE = 0.6  # share of scenes that are blurred, noisy or compressed
_SPRITE_TRIES = 6


@dataclass(frozen=True)
class FreeScene:
    """An RGB image and its ground truth: the box and the specification of each object, all by one artist."""

    image: Image.Image
    boxes: tuple[Box, ...]
    objects: tuple[ObjectSpec, ...]
    artist: str
    background: str


def draw_free_scene(
    atlas: SpriteAtlas, drawable: Mapping[str, Sequence[Concept]], *, size: int, rng: np.random.Generator
) -> FreeScene:
    """Draw one scene of `size` x `size` pixels by one of the artists in `drawable`, with concepts listed there."""
    artist = list(drawable)[rng.integers(len(drawable))]
    background = "white" if rng.random() < _WHITE_SHARE else list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    number = int(rng.choice(len(_NUMBER_SHARES), p=_NUMBER_SHARES))
    repeated = rng.random() < _REPEATED_SHARE
    objects: list[ObjectSpec] = []
    while len(objects) < number:
        objects.append(
            objects[0] if objects and repeated else _visible_object(atlas, artist, drawable, background, rng)
        )
    image = Image.new("RGB", (size, size), BACKGROUNDS[background])
    boxes: list[Box] = []
    scale = rng.uniform(0.6, 1.0)
    for item, cell in zip(objects, _cells(number, size, rng), strict=True):
        sprite = atlas.sprite(artist, item)
        scale = scale if repeated else rng.uniform(0.5 if number == 1 else 0.6, 1.0)
        box = _place(sprite, cell, scale, rng)
        scaled = sprite.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS)
        image.paste(scaled, box[:2], scaled)
        boxes.append(box)
    return FreeScene(spoil(image, rng), tuple(boxes), tuple(objects), artist, background)


def _visible_object(
    atlas: SpriteAtlas,
    artist: str,
    drawable: Mapping[str, Sequence[Concept]],
    background: str,
    rng: np.random.Generator,
) -> ObjectSpec:
    """Draw an object that stands out from the background; after a few failed tries, return the last one."""
    item = ObjectSpec("")
    for _ in range(_SPRITE_TRIES):
        concept = drawable[artist][int(rng.integers(len(drawable[artist])))]
        painted = rng.random() < _COLOURED_SHARES[concept.recolourable]
        item = ObjectSpec(concept.name, list(COLOURS)[rng.integers(len(COLOURS))] if painted else None)
        if background in atlas.visible_backgrounds(artist, item):
            break
    return item


def _cells(number: int, size: int, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Cut the image into disjoint rectangles, always halving the largest, and shuffle them."""
    cells = [(1.0, 1.0, size - 1.0, size - 1.0)][:number]
    while len(cells) < number:
        cells.sort(key=lambda cell: (cell[2] - cell[0]) * (cell[3] - cell[1]))
        left, top, right, bottom = cells.pop()
        share = 0.5 if rng.random() < 0.5 else rng.uniform(0.35, 0.65)
        wide = right - left > bottom - top
        across = wide if abs((right - left) - (bottom - top)) > 1 else rng.random() < 0.5
        if across:
            cut = left + share * (right - left)
            cells += [(left, top, cut - 0.5, bottom), (cut + 0.5, top, right, bottom)]
        else:
            cut = top + share * (bottom - top)
            cells += [(left, top, right, cut - 0.5), (left, cut + 0.5, right, bottom)]
    return [cells[index] for index in rng.permutation(number)]


def _place(sprite: Image.Image, cell: tuple[float, float, float, float], scale: float, rng: np.random.Generator) -> Box:
    left, top, right, bottom = cell
    ratio = scale * min((right - left) / sprite.width, (bottom - top) / sprite.height)
    width, height = max(2, int(sprite.width * ratio)), max(2, int(sprite.height * ratio))
    x, y = (int(low + rng.random() * (high - low)) for low, high in ((left, right - width), (top, bottom - height)))
    return x, y, x + width, y + height


def spoil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Degrade most images a little, with blur, noise or compression, to resemble generated and stored images."""
    if rng.random() > _SPOILT_SHARE:
        return image
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1)))
    if rng.random() < 0.5:
        pixels = np.asarray(image, dtype=np.float64)
        noisy = pixels + rng.normal(0.0, rng.uniform(2.0, 12.0), pixels.shape)
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        stored = io.BytesIO()
        kind = "JPEG" if rng.random() < 0.5 else "WEBP"
        image.save(stored, kind, quality=int(rng.integers(40, 91)))
        image = Image.open(stored).convert("RGB")
    return image
