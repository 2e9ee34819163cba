"""Pictures with their settings inside, and what to call them."""

import json
import re
from pathlib import Path
from typing import Any, Final

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from bitvar.errors import UsageError, explain
from bitvar.files import atomic_path

KEY: Final = "bitvar"
"""The PNG text chunk that holds the settings, as JSON."""


def save_png(image: Image.Image, path: Path, metadata: dict[str, Any]) -> None:
    """Write a PNG with its settings, whole or not at all. Same picture and settings, same bytes."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, json.dumps(metadata, sort_keys=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `save_png` wrote.

    Raises:
        UsageError: if the file is no PNG, or holds no settings.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            text = getattr(image, "text", {}).get(KEY)
        settings = json.loads(text) if text else None
    except FileNotFoundError:
        raise UsageError(explain(f"There is no {path}.", "the file is missing", "check the path")) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UsageError(explain(f"Can't read {path}.", str(error), "give a PNG that bitvar wrote")) from None
    if not isinstance(settings, dict) or "prompt" not in settings:
        raise UsageError(
            explain(
                f"{path} holds no settings.", "it was not written by bitvar, or was edited since", "give the original"
            )
        )
    return settings


def default_name(prompt: str, seed: int) -> Path:
    """A file name of the prompt's first words and the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].strip("-")
    return Path(f"{words or 'picture'}-{seed}.png")


def numbered(path: Path, index: int, count: int) -> Path:
    """`out.png` for one picture; `out-1.png`, `out-2.png`, ... for several."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")


def montage(images: list[Image.Image], gap: int = 4) -> Image.Image:
    """Pictures in a near-square grid on white."""
    columns = max(1, round(len(images) ** 0.5 + 0.499))
    rows = -(-len(images) // columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet
