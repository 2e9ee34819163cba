"""Drawing of scenes: the layout of the objects, and the image with their boxes.

Objects sit in disjoint cells, so they never overlap. This module knows nothing about captions or splits.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS
from bitvar.icons.dataset.scene_spec import OPPOSITE, ObjectSpec, SceneSpec
from bitvar.icons.dataset.sprites import camouflaged_share, recolour

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, x to the right and y downwards, x1 and y1 exclusive."""

_CENTRED_SCALE = 0.85
_SINGLE_SCALES = (0.75, 0.95)
_BACKGROUND_SCALES = (0.65, 0.85)
_COMPOSED_SCALES = (0.9, 1.0)
_LONGEST_SIDE_IN_CELL = 0.75  # share of the image: a candle beside an apple must not tower over it
_JITTER_ALONG_CELL = 0.1  # share of the image, each way
_VISIBLE_SHARE = 0.65


class SpriteAtlas:
    """Every artist's cut-outs by artist and concept name, with recoloured copies made on first use."""

    def __init__(self, sprites: Mapping[str, Mapping[str, Image.Image]]) -> None:
        self._sprites: dict[tuple[str, ObjectSpec], Image.Image] = {
            (artist, ObjectSpec(name)): sprite
            for artist, drawings in sprites.items()
            for name, sprite in drawings.items()
        }
        self._backgrounds: dict[tuple[str, ObjectSpec], tuple[str, ...]] = {}

    def sprite(self, artist: str, item: ObjectSpec) -> Image.Image:
        """Return the RGBA cut-out of the object by the artist, in the object's colour."""
        key = (artist, item)
        if key not in self._sprites:
            assert item.colour is not None, f"no sprite of {item.concept} by {artist}"
            self._sprites[key] = recolour(self._sprites[artist, ObjectSpec(item.concept)], COLOURS[item.colour])
        return self._sprites[key]

    def visible_backgrounds(self, artist: str, item: ObjectSpec) -> tuple[str, ...]:
        """List the backgrounds against which enough of the object stands out; never the object's own colour."""
        key = (artist, item)
        if key not in self._backgrounds:
            self._backgrounds[key] = backgrounds_for(self.sprite(artist, item), item.colour)
        return self._backgrounds[key]


def backgrounds_for(sprite: Image.Image, own_colour: str | None) -> tuple[str, ...]:
    """List the backgrounds against which enough of a cut-out stands out; never the colour that it was given."""
    return tuple(
        name
        for name, colour in BACKGROUNDS.items()
        if name != own_colour and camouflaged_share(sprite, colour) <= 1.0 - _VISIBLE_SHARE
    )


def draw_scene(
    spec: SceneSpec, atlas: SpriteAtlas, *, size: int, rng: np.random.Generator, jitter: bool = True
) -> tuple[Image.Image, list[Box]]:
    """Draw a scene as an RGB image of `size` x `size` pixels; return it with the box of each object.

    Boxes come in the order of `spec.objects`, or row by row for a counted object. Without jitter every object has one
    size and sits in the middle of its cell, so that the same drawing falls on the same pixels in every scene.
    """
    image = Image.new("RGB", (size, size), BACKGROUNDS[spec.background])
    objects = spec.objects * spec.count
    sprites = [atlas.sprite(spec.artist, item) for item in objects]
    if len(objects) == 1:
        boxes = [_single_box(sprites[0], spec, size, rng, jitter=jitter)]
    else:
        cells = _cells(spec, size, rng, jitter=jitter)
        boxes = _cell_boxes(sprites, cells, size, rng, same_scale=spec.count > 1, jitter=jitter)
    for sprite, (left, top, right, bottom) in zip(sprites, boxes, strict=True):
        scaled = sprite.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        image.paste(scaled, (left, top), scaled)
    return image, boxes


def _single_box(sprite: Image.Image, spec: SceneSpec, size: int, rng: np.random.Generator, *, jitter: bool) -> Box:
    centred = spec.centred or not jitter
    scales = _SINGLE_SCALES if spec.background == "white" else _BACKGROUND_SCALES
    scale = _CENTRED_SCALE if centred else rng.uniform(*scales)
    width, height = _fit(sprite, size * scale, size * scale)
    spare = (size - width, size - height)
    if centred:
        left, top = spare[0] // 2, spare[1] // 2
    else:
        left, top = (_near_middle(room, size * (1.0 - scale), rng) for room in spare)
    return left, top, left + width, top + height


def _near_middle(room: int, spread: float, rng: np.random.Generator) -> int:
    """Draw an offset in 0..room, within half of `spread` of the middle."""
    return int(np.clip(round(room / 2 + rng.uniform(-0.5, 0.5) * spread), 0, room))


def _cells(spec: SceneSpec, size: int, rng: np.random.Generator, *, jitter: bool) -> list[Box]:
    """Lay out disjoint cells for the objects of a composed scene, in the order of the objects.

    With three objects, one sits above or below the other two, at random; without jitter, always above.
    """
    margin, gap = max(1, size // 64), max(2, size // 32)
    middle_low, middle_high = (size - gap) // 2, (size - gap) // 2 + gap
    low, high = (margin, middle_low), (middle_high, size - margin)
    whole = (margin, size - margin)
    if spec.count == 4:
        return [(x[0], y[0], x[1], y[1]) for y in (low, high) for x in (low, high)]
    if spec.count == 3:
        quarter = (size - (low[1] - low[0])) // 2
        centre = (quarter, quarter + low[1] - low[0])
        lone_row, pair_row = (low, high) if not jitter or rng.random() < 0.5 else (high, low)
        trio = [(centre, lone_row), (low, pair_row), (high, pair_row)]
        return sorted(((x[0], y[0], x[1], y[1]) for x, y in trio), key=lambda cell: (cell[1], cell[0]))
    relation = spec.relation or "left"
    if relation in ("left", "right"):
        pair = [(low[0], whole[0], low[1], whole[1]), (high[0], whole[0], high[1], whole[1])]
    else:
        pair = [(whole[0], low[0], whole[1], low[1]), (whole[0], high[0], whole[1], high[1])]
    return pair if relation < OPPOSITE[relation] else pair[::-1]


def _cell_boxes(
    sprites: Sequence[Image.Image],
    cells: Sequence[Box],
    size: int,
    rng: np.random.Generator,
    *,
    same_scale: bool,
    jitter: bool,
) -> list[Box]:
    scales = rng.uniform(*_COMPOSED_SCALES, size=len(cells)) if jitter else np.ones(len(cells))
    if same_scale:
        scales[:] = scales[0]
    boxes = []
    spread = 2 * _JITTER_ALONG_CELL * size if jitter else 0.0
    for sprite, (left, top, right, bottom), scale in zip(sprites, cells, scales, strict=True):
        longest = size * _LONGEST_SIDE_IN_CELL
        width, height = _fit(sprite, min(right - left, longest) * scale, min(bottom - top, longest) * scale)
        room = (right - left - width, bottom - top - height)
        x, y = (_near_middle(spare, min(spare, spread), rng) for spare in room)
        boxes.append((left + x, top + y, left + x + width, top + y + height))
    return boxes


def _fit(sprite: Image.Image, width: float, height: float) -> tuple[int, int]:
    """Compute the largest size in whole pixels that keeps the sprite's shape within the width and height."""
    scale = min(width / sprite.width, height / sprite.height)
    return max(1, int(sprite.width * scale + 1e-6)), max(1, int(sprite.height * scale + 1e-6))
