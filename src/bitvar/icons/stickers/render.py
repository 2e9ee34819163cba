"""Drawing of scenes: the layout of the objects, and the RGBA image with their boxes. Objects never overlap."""

from typing import Final

import numpy as np
from PIL import Image

from bitvar.icons.dataset.concepts import BACKGROUNDS
from bitvar.icons.dataset.render import Box
from bitvar.icons.stickers.spec import Item, Scene
from bitvar.icons.stickers.sprites import SpriteStore

Cell = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the side."""

_SINGLE_SCALES: Final = (0.74, 0.94)
_COLOURED_SCALES: Final = (0.62, 0.84)
_CELL_SCALES: Final = (0.86, 0.98)
_SIZE_SCALES: Final = {"small": 0.5, "big": 1.0}
_LONGEST: Final = 0.75
_MARGIN, _GAP = 0.016, 0.024


def draw_scene(
    scene: Scene, store: SpriteStore, *, size: int, rng: np.random.Generator
) -> tuple[Image.Image, list[Box]]:
    """Draw a scene as an RGBA image of `size` x `size` pixels; return it with the box of each object, in order."""
    canvas = Image.new(
        "RGBA", (size, size), (255, 255, 255, 0) if scene.background is None else BACKGROUNDS[scene.background]
    )
    items = scene.items * scene.count
    cells = _cells(scene, len(items), rng)
    lowest, highest = _CELL_SCALES
    if len(items) == 1:
        lowest, highest = _SINGLE_SCALES if scene.background is None else _COLOURED_SCALES
    scales = rng.uniform(lowest, highest, size=len(items))
    if scene.count > 1:
        scales[:] = scales[0]
    boxes = []
    for item, cell, scale in zip(items, cells, scales, strict=True):
        sprite = store.sprite(scene.artist, item.concept, item.colour)
        box = _place(sprite, item, cell, scale, size, rng, alone=len(items) == 1)
        canvas.alpha_composite(sprite.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), box[:2])
        boxes.append(box)
    return canvas, boxes


def _place(
    sprite: Image.Image, item: Item, cell: Cell, scale: float, size: int, rng: np.random.Generator, *, alone: bool
) -> Box:
    left, top, right, bottom = (side * size for side in cell)
    scale *= 1.0 if item.size is None else _SIZE_SCALES[item.size]
    longest = (1.0 if alone else _LONGEST) * size
    wide, high = (min(extent, longest) * scale for extent in (right - left, bottom - top))
    factor = min(wide / sprite.width, high / sprite.height)
    width, height = (max(1, int(side * factor + 1e-6)) for side in sprite.size)
    x, y = (
        (start + end - extent) / 2 + rng.uniform(-0.5, 0.5) * min(end - start - extent, 0.1 * size)
        for start, end, extent in ((left, right, width), (top, bottom, height))
    )
    x, y = (int(np.clip(round(at), 0, size - extent)) for at, extent in ((x, width), (y, height)))
    return x, y, x + width, y + height


def _cells(scene: Scene, number: int, rng: np.random.Generator) -> list[Cell]:
    """Lay out a cell for each object."""
    if number == 1:
        return [(0.0, 0.0, 1.0, 1.0)]
    layout = scene.layout
    if layout == "beside":
        layout = "left" if rng.random() < 0.5 else "above"
    if layout in ("left", "row"):
        return _grid([number])
    if layout in ("above", "column"):
        return _grid([1] * number)
    rows = {2: [[2], [1, 1]], 3: [[3], [1, 2], [2, 1]], 4: [[2, 2]], 5: [[2, 3], [3, 2]], 6: [[3, 3], [2, 2, 2]]}[
        number
    ]
    return _grid(rows[int(rng.integers(len(rows)))])


def _grid(rows: list[int]) -> list[Cell]:
    """Cells row by row: `rows` has the number of cells of each row. All cells are equally wide."""
    height = (1 - 2 * _MARGIN - (len(rows) - 1) * _GAP) / len(rows)
    most = max(rows)
    width = (1 - 2 * _MARGIN - (most - 1) * _GAP) / most
    cells = []
    for r, number in enumerate(rows):
        top = _MARGIN + r * (height + _GAP)
        start = (1 - number * width - (number - 1) * _GAP) / 2
        cells += [
            (start + c * (width + _GAP), top, start + c * (width + _GAP) + width, top + height) for c in range(number)
        ]
    return cells
