"""Drawing of layouts: like the scenes of the icon set without jitter, so that kept objects stay on the same pixels."""

import numpy as np
from PIL import Image

from bitvar.icons.dataset.concepts import BACKGROUNDS
from bitvar.icons.dataset.render import Box, SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_spec import SceneSpec
from bitvar.icons.instructions.spec import Layout, Placed


class LayoutPainter:
    """Draws layouts at one size.

    Args:
        atlas: Drawings of the artists.
        size: Side of the images in pixels.
    """

    def __init__(self, atlas: SpriteAtlas, *, size: int) -> None:
        self.atlas, self.size = atlas, size
        self._boxes: dict[tuple[str, Placed], Box] = {}

    def draw(self, layout: Layout) -> Image.Image:
        """Draw a layout as an RGB image."""
        image = Image.new("RGB", (self.size, self.size), BACKGROUNDS[layout.background])
        for placed in layout.objects:
            left, top, right, bottom = self.box(layout.artist, placed)
            sprite = self.atlas.sprite(layout.artist, placed.item)
            scaled = sprite.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
            image.paste(scaled, (left, top), scaled)
        return image

    def box(self, artist: str, placed: Placed) -> Box:
        """Return the box of an object: where the icon set, without jitter, draws it in that cell."""
        key = (artist, placed)
        if key not in self._boxes:
            alone = placed.cell == "whole"
            items = (placed.item,) if alone else (placed.item, placed.item)
            spec = SceneSpec("single" if alone else "position", artist, items, relation=None if alone else placed.cell)
            _, boxes = draw_scene(spec, self.atlas, size=self.size, rng=np.random.default_rng(0), jitter=False)
            self._boxes[key] = boxes[0]
        return self._boxes[key]
