"""Images decoded tile by tile (`tokenizer/tiling.py`), in a fraction of the memory."""

from typing import Any, ClassVar, Final

from bitvar.runtime.optimization import Optimization
from bitvar.sampling.decoder import ScaleDecoder

TILE: Final = 256
"""Side of a tile in pixels, without margins."""


class TiledDecode(Optimization):
    """Decodes in tiles. Results differ by the rounding of the norms' statistics."""

    name: ClassVar[str] = "tiled-decode"
    exact: ClassVar[bool] = True
    only_by_name: ClassVar[bool] = True
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps")

    @staticmethod
    def available() -> bool:
        return True

    def apply(self) -> None:
        self.tokenizer.tile = TILE

    def refresh(self) -> None:
        self.apply()

    def undo(self) -> None:
        self.tokenizer.tile = None

    def decoder(self, plain: ScaleDecoder[Any]) -> ScaleDecoder[Any]:
        return plain
