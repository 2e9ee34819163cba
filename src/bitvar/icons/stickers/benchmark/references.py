"""The real images of the prompts: their scenes, drawn from the sprites as the sticker set draws them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from bitvar.data.writing import finish_folder, image_path, prepare_folder
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalPrompt, GeneratedImage
from bitvar.evaluation.generation.images import require_all
from bitvar.icons.stickers.benchmark.prompts import StickerPrompt
from bitvar.icons.stickers.render import draw_scene
from bitvar.icons.stickers.spec import Scene
from bitvar.icons.stickers.sprites import SpriteStore

SIDE: Final = 256
"""Side, in pixels, of the images."""
_SEED: Final = 20261201
_FIX: Final = "build them: python scripts/icons/sticker_references.py FOLDER --sprites data/sprites"


def build_references(folder: Path, prompts: Sequence[StickerPrompt], store: SpriteStore) -> None:
    """Write the real image of every prompt as a captioned set of one split, "val".

    Args:
        folder: Folder of the set: new, empty, or left by an interrupted build.
        prompts: Prompts.
        store: Drawings.
    """
    prepare_folder(folder)
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts):
        path = image_path(number)
        (folder / path.parent).mkdir(parents=True, exist_ok=True)
        draw_reference(prompt.scene, store, number).save(folder / path, compress_level=3)
        row = {"image_path": path.as_posix(), "h_div_w": 1.0, "captions": [prompt.prompt], "split": "val"}
        rows.append({**row, "prompt_id": prompt.id, "artist": prompt.artist})
    finish_folder(folder, rows, {"size": SIDE, "seed": _SEED})


def draw_reference(scene: Scene, store: SpriteStore, *number: int) -> Image.Image:
    """Draw a scene as an RGBA image; numbers choose among its layouts."""
    image, _ = draw_scene(scene, store, size=SIDE, rng=np.random.default_rng([_SEED, *number]))
    return image


def reference_images(folder: Path, prompts: Sequence[EvalPrompt]) -> list[GeneratedImage]:
    """Find the real image of each prompt.

    Raises:
        UsageError: for a folder without them, or with those of other prompts.
    """
    paths = _paths(folder)
    missing = [prompt.id for prompt in prompts if prompt.id not in paths]
    require_all(missing, len(prompts), f"{folder} has no image")
    return [GeneratedImage(prompt, 0, folder / paths[prompt.id]) for prompt in prompts]


def require_references(folder: Path) -> None:
    """Refuse a folder without real images.

    Raises:
        UsageError: if it has none.
    """
    if not (folder / "samples.jsonl").is_file():
        why = "it has no samples.jsonl" if folder.is_dir() else "there is no such folder"
        raise UsageError(f"{folder} has no real images of the prompts.", why, _FIX)


def _paths(folder: Path) -> Mapping[str, str]:
    require_references(folder)
    with (folder / "samples.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if '"prompt_id"' in line]
    if not rows:
        raise UsageError(f"{folder} has no real images of the prompts.", "it is another set", _FIX)
    return {row["prompt_id"]: row["image_path"] for row in rows}
