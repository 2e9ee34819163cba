"""Options of generating that save memory, as a pipeline takes them: `--offload`, `--sequential-guidance`, `--tile`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bitvar.config import unknown
from bitvar.errors import UsageError

PARTS: Final = ("text", "blocks")


@dataclass(frozen=True)
class MemoryOptions:
    """Options that save memory.

    Attributes:
        offload_text: Whether the text encoder leaves the device after every prompt.
        names: Names of optimizations.
    """

    offload_text: bool
    names: tuple[str, ...]

    @staticmethod
    def read(offload: str | None, *, sequential_guidance: bool, tile: bool) -> "MemoryOptions":
        """Read the options of a command.

        Raises:
            UsageError: for a part that can't be offloaded.
        """
        parts = read_parts(offload)
        chosen = {
            "block-offload": "blocks" in parts,
            "sequential-guidance": sequential_guidance,
            "tiled-decode": tile,
        }
        return MemoryOptions("text" in parts, tuple(name for name, is_chosen in chosen.items() if is_chosen))

    def added_to(self, fast: Sequence[str]) -> list[str]:
        """Add the names to those of --fast; "off" gives way to them."""
        others = [name for name in fast if name != "off"] if self.names else list(fast)
        return [*others, *self.names]


def read_parts(offload: str | None) -> tuple[str, ...]:
    """Read --offload: names of parts with commas between them.

    Raises:
        UsageError: for a part that can't be offloaded.
    """
    parts = tuple(part.strip() for part in offload.split(",")) if offload else ()
    for part in parts:
        if part not in PARTS:
            raise UsageError(unknown(f"part {part!r} of --offload", part, PARTS))
    return parts
