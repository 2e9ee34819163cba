"""The images of an evaluation: made by a model, found in a folder, or the icon set's own. Knows no judge."""

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8

from bitvar.errors import UsageError
from bitvar.files import atomic_path
from bitvar.icons.dataset.prompts import ScenePrompt
from bitvar.imaging.open import ImageLimits, Location, RefusedError, decode_image
from bitvar.pipeline import InfinityPipeline

BATCHES: Final = "batches.jsonl"
BLANK: Final = "blank"
NUM_BLANK: Final = 64
"""Images of the model without a prompt: they go round the prompts."""

_NAMED: Final = 3  # missing images that an error names


@dataclass(frozen=True)
class Shown:
    """An image and the prompt that it is judged by.

    Attributes:
        prompt: what it should show.
        seed: number of the image among those of its prompt, from 0.
        path: a PNG file.
    """

    prompt: ScenePrompt
    seed: int
    path: Path

    def open(self) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels, 0..255.

        Raises:
            UsageError: for a file that can't be used, or is not square.
        """
        try:
            limits = ImageLimits(min_side=8)
            image = decode_image(Location(self.path).read(max_bytes=limits.max_bytes), limits)
        except RefusedError as error:
            raise UsageError(f"Can't read {self.path}.", str(error), "make that image again") from None
        if image.width != image.height:
            why = f"it has {image.width} x {image.height} pixels; scenes are square"
            raise UsageError(f"Can't judge {self.path}.", why, "give square images")
        return np.asarray(image)


@dataclass(frozen=True)
class Making:
    """How a model makes images.

    Attributes:
        batch_size: images at once.
        guidance, temperature: None is the model's own.
    """

    batch_size: int
    guidance: float | None = None
    temperature: float | None = None

    def options(self) -> dict[str, Any]:
        """Those of a pipeline's call."""
        chosen = {"guidance_scale": self.guidance, "temperature": self.temperature}
        return {name: value for name, value in chosen.items() if value is not None}


def make_images(
    pipeline: InfinityPipeline,
    prompts: Sequence[ScenePrompt],
    folder: Path,
    *,
    num_seeds: int,
    making: Making,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Shown]:
    """The model's images of the prompts, `id-seed.png`; batches that are there whole are not made again.

    An image depends on its prompt's id and its seed's number, not on which other prompts there are.
    """
    shown = [Shown(prompt, seed, folder / f"{prompt.id}-{seed}.png") for prompt in prompts for seed in range(num_seeds)]
    jobs = [(each.prompt.prompt, _seed(each.prompt.id, each.seed), each.path) for each in shown]
    _make(pipeline, jobs, folder, making, tell)
    return shown


def make_blank_images(
    pipeline: InfinityPipeline,
    prompts: Sequence[ScenePrompt],
    folder: Path,
    *,
    making: Making,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Shown]:
    """What the model draws without a prompt, for each prompt one image: no more than `NUM_BLANK`, in turn."""
    count = min(NUM_BLANK, len(prompts))
    paths = [folder / f"{BLANK}-{number}.png" for number in range(count)]
    jobs = [(BLANK, _seed(BLANK, number), path) for number, path in enumerate(paths)]
    # guidance 0 is the prediction without a prompt alone, whatever the words
    without = Making(making.batch_size, 0.0, making.temperature)
    _make(pipeline, jobs, folder, without, tell)
    return [Shown(prompt, 0, paths[i % count]) for i, prompt in enumerate(prompts)]


def _seed(name: str, number: int) -> int:
    return zlib.crc32(name.encode()) + number


def _make(
    pipeline: InfinityPipeline,
    jobs: Sequence[tuple[str, int, Path]],
    folder: Path,
    making: Making,
    tell: Callable[[str], None],
) -> None:
    """Batch by batch, always the same batches: so the images of a run that was stopped are those of one in one go."""
    folder.mkdir(parents=True, exist_ok=True)
    rest, done = iter(jobs), 0
    while batch := list(islice(rest, making.batch_size)):
        done += len(batch)
        if all(path.is_file() for _, _, path in batch):
            continue
        start = time.perf_counter()
        texts, seeds, paths = zip(*batch, strict=True)
        output = pipeline(texts, seed=seeds, **making.options())
        seconds = time.perf_counter() - start
        with (folder / BATCHES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"images": len(batch), "seconds": round(seconds, 4)}) + "\n")
        for image, path in zip(output.images, paths, strict=True):
            with atomic_path(path) as temporary:
                image.save(temporary, format="PNG")
        tell(f"{folder.name}: {done} of {len(jobs)} images")


def seconds_per_image(folder: Path) -> dict[str, Any]:
    """The median over the batches that a model made in this folder."""
    lines = [json.loads(line) for line in (folder / BATCHES).read_text(encoding="utf-8").splitlines()]
    median = float(np.median([line["seconds"] / line["images"] for line in lines]))
    return {"seconds_per_image": float(f"{median:.4g}"), "batches": len(lines)}


def find_images(folder: Path, prompts: Sequence[ScenePrompt]) -> list[Shown]:
    """The images of a folder for the prompts: `id.png`, or `id-0.png`, `id-1.png` and so on.

    Raises:
        UsageError: if a prompt has none.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no {folder}.", "no such folder", "check the path")
    found = {prompt.id: _images_of(folder, prompt) for prompt in prompts}
    _require([name for name, shown in found.items() if not shown], len(prompts), f"{folder} has no image")
    return [shown for each in found.values() for shown in each]


def _images_of(folder: Path, prompt: ScenePrompt) -> list[Shown]:
    if (only := folder / f"{prompt.id}.png").is_file():
        return [Shown(prompt, 0, only)]

    def numbered() -> Iterator[Shown]:
        seed = 0
        while (path := folder / f"{prompt.id}-{seed}.png").is_file():
            yield Shown(prompt, seed, path)
            seed += 1

    return list(numbered())


def real_images(data: Path, prompts: Sequence[ScenePrompt]) -> list[Shown]:
    """The icon set's own image of each prompt, from its split "scenes".

    Raises:
        UsageError: for a folder that is no icon set, or one built before the set had these prompts.
    """
    paths = _scene_paths(data)
    _require([p.id for p in prompts if p.id not in paths], len(prompts), f"{data} has no image in its split scenes")
    return [Shown(prompt, 0, data / paths[prompt.id]) for prompt in prompts]


def _scene_paths(data: Path) -> Mapping[str, str]:
    samples = data / "samples.jsonl"
    if not samples.is_file():
        why = "there is no samples.jsonl in it"
        raise UsageError(f"{data} is no icon set.", why, f"run: bitvar data icons {data} --still")
    with samples.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if '"prompt_id"' in line]
    if not rows:
        why, todo = "it was built by an earlier version", "build it anew in another folder: bitvar data icons"
        raise UsageError(f"{data} has no split scenes.", why, todo)
    return {row["prompt_id"]: row["image_path"] for row in rows}


def _require(missing: Sequence[str], count: int, what: str) -> None:
    if missing:
        why = f"{len(missing)} of {count} are missing: {', '.join(missing[:_NAMED])}{' ...' * (len(missing) > _NAMED)}"
        todo = "make them, or measure fewer with --split or --limit"
        raise UsageError(f"{what} for some prompts.", why, todo)


def images_digest(shown: Sequence[Shown]) -> str:
    """A SHA-256 over names and bytes: which images were judged."""
    digest = hashlib.sha256()
    for each in shown:
        digest.update(f"{each.path.name} {hashlib.sha256(each.path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
