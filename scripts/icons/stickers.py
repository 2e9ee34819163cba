r"""Build the sticker set: a captioned set of RGBA images.

python scripts/icons/stickers.py data/stickers --sprites data/sprites --downloads data/packages --processes 2
"""

import argparse
from pathlib import Path

from bitvar.cli.echo import say
from bitvar.icons.stickers.build import build_sticker_set


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Build the sticker set.")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--sprites", type=Path, required=True, help="folder of the rendered drawings; filled as needed")
    parser.add_argument("--downloads", type=Path, required=True, help="folder of the packages; fetched as needed")
    parser.add_argument("--size", type=int, default=256, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=60_000, help="images to train on")
    parser.add_argument("--validation", type=int, default=600, help="images held out")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    number = build_sticker_set(
        given.destination,
        sprites=given.sprites,
        downloads=given.downloads,
        size=given.size,
        seed=given.seed,
        counts=(given.images, given.validation),
        processes=given.processes,
        log=say,
    )
    say(f"The set in {given.destination} has {number:,} images.")


if __name__ == "__main__":
    main()
