r"""Draw the real images of the stickers benchmark's prompts.

python scripts/icons/sticker_references.py data/sticker_references --sprites data/sprites

The sprites are those that `scripts/icons/stickers.py` renders. It writes the same files every time.
"""

import argparse
from pathlib import Path

from bitvar.icons.stickers.benchmark.prompts import read_prompts
from bitvar.icons.stickers.benchmark.references import build_references
from bitvar.icons.stickers.sprites import SpriteStore


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw the real images of the stickers benchmark.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sprites", type=Path, required=True, help="folder of the rendered drawings")
    given = parser.parse_args()
    build_references(given.folder, read_prompts(), SpriteStore(given.sprites))


if __name__ == "__main__":
    main()
