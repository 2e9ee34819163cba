"""Construction of the icon set: fetching, rendering, drawing every split, and writing the folder.

`samples.jsonl` is written last, so that a partial folder can't pass for a complete one. `scene_sampler` decides which
scenes are drawn, and `render` draws them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bitvar.data.writing import finish_folder, image_path, json_lines, prepare_folder
from bitvar.errors import UsageError
from bitvar.files import write_text
from bitvar.icons.dataset.caption_templates import draw_captions
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS, Concept
from bitvar.icons.dataset.held_out import held_out_combinations
from bitvar.icons.dataset.prompts import ScenePrompt, read_prompts
from bitvar.icons.dataset.render import Box, SpriteAtlas, draw_scene
from bitvar.icons.dataset.scene_sampler import (
    SceneSampler,
    held_out_combination_specs,
    held_out_prompt_specs,
    training_specs,
    validation_specs,
)
from bitvar.icons.dataset.scene_spec import SceneSpec
from bitvar.icons.dataset.sources import (
    ARTISTS,
    Artist,
    Licence,
    attribution,
    fetch_package,
    read_licence,
    render_sprites,
)

FORMAT_VERSION = 5
SPLITS = ("train", "val", "held_out_combination", "held_out_prompt", "scenes")

_NUM_VALIDATION_SCENES = 600
_SIZES = (32, 512)
_LARGEST_SPRITE = 1024


@dataclass(frozen=True)
class IconSetSummary:
    """Summary of a built set: its numbers of samples by split and kind, and whether it was complete already."""

    destination: Path
    num_samples: int
    counts: dict[str, dict[str, int]]
    already_complete: bool

    def text(self) -> str:
        """Describe the set in one sentence, for people."""
        splits = ", ".join(f"{split} {sum(kinds.values()):,}" for split, kinds in self.counts.items())
        found = "was complete already and is left as it is" if self.already_complete else "is complete"
        return f"The icon set in {self.destination} {found}: {self.num_samples:,} captioned images ({splits})."

    def as_json(self) -> dict[str, Any]:
        """Describe the set as JSON values, for programs."""
        return asdict(self) | {"destination": str(self.destination)}


def build_icon_set(
    destination: Path,
    *,
    size: int = 64,
    seed: int = 0,
    num_scenes: int = 24000,
    jitter: bool = True,
    log: Callable[[str], None] | None = None,
) -> IconSetSummary:
    """Write a captioned set of emoji scenes, without people and flags, to `destination`.

    The folder gets `images/NNN/NNNNNN.png` (RGB, `size` x `size`, 32 to 512 pixels), `samples.jsonl` (one sample a
    line, written last), `manifest.json` and `ATTRIBUTION.md`; packages stay in `.downloads`. `num_scenes` sets the
    size of the training split, apart from rounding and from the single objects, whose number is fixed. The files depend
    only on the arguments and the installed versions of Pillow and resvg-py. A complete folder with the same arguments
    is left as it is; an interrupted build starts over, without fetching again. Without `jitter` every object has one
    size and sits in the middle of its cell, which a small model learns to draw far sooner.

    Raises:
        UsageError: for arguments out of range, or a folder that holds something else.
        RuntimeError: if a package can't be fetched or isn't the pinned one.
    """
    if not _SIZES[0] <= size <= _SIZES[1]:
        why = f"expected {_SIZES[0]} to {_SIZES[1]} pixels, got {size}"
        raise UsageError("Can't build the icon set.", why, "choose a size in that range")
    if num_scenes < 1 or seed < 0:
        why = f"expected num_scenes of at least 1 and seed of at least 0, got {num_scenes} and {seed}"
        raise UsageError("Can't build the icon set.", why, "choose larger numbers")
    arguments = {
        "format_version": FORMAT_VERSION,
        "size": size,
        "seed": seed,
        "num_scenes": num_scenes,
        "jitter": jitter,
    }
    finished = read_finished(destination, arguments)
    if finished is not None:
        return finished
    prepare_folder(destination)
    say = log if log is not None else lambda _: None
    downloads = destination / ".downloads"
    downloads.mkdir(exist_ok=True)
    tarballs = {artist.key: fetch_package(artist, downloads, log=log) for artist in ARTISTS}
    licences = {artist.key: read_licence(artist, tarballs[artist.key]) for artist in ARTISTS}
    say(f"rendering {len(CONCEPTS)} concepts by {len(ARTISTS)} artists")
    side = min(4 * size, _LARGEST_SPRITE)
    atlas = SpriteAtlas(
        {artist.key: render_sprites(artist, tarballs[artist.key], CONCEPTS, side=side) for artist in ARTISTS}
    )
    samples = []
    images = write_images(
        destination, atlas, CONCEPTS, ARTISTS, size=size, seed=seed, num_scenes=num_scenes, jitter=jitter
    )
    for sample in images:
        samples.append(sample)
        if len(samples) % 4000 == 0:
            say(f"drew {len(samples)} scenes")
    return finish(destination, samples, arguments, licences)


def read_finished(destination: Path, arguments: dict[str, int]) -> IconSetSummary | None:
    """Summarise a complete folder; None if it isn't complete, UsageError if it was built with other arguments."""
    if not (destination / "samples.jsonl").exists():
        return None
    manifest_path = destination / "manifest.json"
    found = json.loads(manifest_path.read_text("utf-8")) if manifest_path.exists() else {}
    if {key: found.get(key) for key in arguments} != arguments:
        known = {key: found.get(key) for key in arguments}
        why = f"{destination} holds a set built with {known}, asked for {arguments}"
        raise UsageError("Can't build the icon set.", why, "choose another folder, or delete this one")
    counts = found["counts"]
    return IconSetSummary(destination, sum(sum(kinds.values()) for kinds in counts.values()), counts, True)


def write_images(
    destination: Path,
    atlas: SpriteAtlas,
    concepts: tuple[Concept, ...],
    artists: tuple[Artist, ...],
    *,
    size: int,
    seed: int,
    num_scenes: int,
    jitter: bool = True,
) -> Iterator[dict[str, object]]:
    """Draw every split into `destination/images`; yield the record of each sample in the order of the files."""
    by_name = {concept.name: concept for concept in concepts}
    styles = {artist.key: artist.style for artist in artists}
    planned = plan_scenes(atlas, concepts, tuple(styles), seed=seed, num_scenes=num_scenes)
    prompts = _drawable_prompts(concepts, artists)
    scenes = chain(((*plan, None) for plan in planned), (("scenes", prompt.spec, prompt) for prompt in prompts))
    rng, words = (np.random.default_rng([seed, len(SPLITS) + stream]) for stream in range(2))
    for index, (split, spec, prompt) in enumerate(scenes):
        image, boxes = draw_scene(spec, atlas, size=size, rng=rng, jitter=jitter)
        path = image_path(index)
        (destination / path.parent).mkdir(parents=True, exist_ok=True)
        image.save(destination / path)
        style = styles[spec.artist]
        if prompt is None:
            captions = draw_captions(spec, by_name, style=style, rng=words)
            yield _record(path, split, spec, captions, boxes, style)
        else:
            record = _record(path, split, spec, (prompt.prompt,), boxes, style)
            yield record | {"prompt_id": prompt.id}


def _drawable_prompts(concepts: tuple[Concept, ...], artists: tuple[Artist, ...]) -> Iterator[ScenePrompt]:
    """Yield the prompts whose artist and concepts are all available."""
    names, keys = {concept.name for concept in concepts}, {artist.key for artist in artists}
    for prompt in read_prompts():
        if prompt.spec.artist in keys and names.issuperset(item.concept for item in prompt.spec.objects):
            yield prompt


def plan_scenes(
    atlas: SpriteAtlas, concepts: tuple[Concept, ...], artists: tuple[str, ...], *, seed: int, num_scenes: int
) -> Iterator[tuple[str, SceneSpec]]:
    """Yield every scene of the set with its split, except for the split "scenes", which `prompts` fixes.

    Each split draws from its own generator, so that no split affects another.
    """
    held_out = held_out_combinations([concept.name for concept in concepts], artists)
    drawable = {
        artist: tuple(concept for concept in concepts if (artist, concept.name) not in held_out) for artist in artists
    }
    shown = [(artist, concept.name) for artist in artists for concept in drawable[artist]]
    train, val = (SceneSampler(drawable, atlas, np.random.default_rng([seed, stream])) for stream in range(2))
    plan: dict[str, Iterable[SceneSpec]] = {
        "train": training_specs(train, shown, num_scenes=num_scenes),
        "val": validation_specs(val, num_scenes=_NUM_VALIDATION_SCENES),
        "held_out_combination": held_out_combination_specs(sorted(held_out)),
        "held_out_prompt": held_out_prompt_specs(drawable),
    }
    assert (*plan, "scenes") == SPLITS
    for split, specs in plan.items():
        for spec in specs:
            yield split, spec


def _record(
    path: Path, split: str, spec: SceneSpec, captions: tuple[str, ...], boxes: list[Box], style: str
) -> dict[str, object]:
    objects = [
        {"concept": item.concept, "artist": spec.artist, "colour": item.colour, "box": list(box)}
        for item, box in zip(spec.objects * spec.count, boxes, strict=True)
    ]
    return {
        "image_path": path.as_posix(),
        "h_div_w": 1.0,
        "captions": list(captions),
        "kind": spec.kind,
        "split": split,
        "style": style,
        "artist": spec.artist,
        "background": spec.background,
        "relation": spec.relation,
        "objects": objects,
    }


def finish(
    destination: Path, samples: list[dict], arguments: dict[str, int], licences: dict[str, Licence]
) -> IconSetSummary:
    """Write the attribution and the manifest, then, last, `samples.jsonl`."""
    counts: dict[str, dict[str, int]] = {}
    for (split, kind), number in Counter((sample["split"], sample["kind"]) for sample in samples).items():
        counts.setdefault(split, {})[kind] = number
    used = Counter(sample["artist"] for sample in samples)
    manifest = {
        **arguments,
        "counts": counts,
        "samples_sha256": hashlib.sha256(json_lines(samples).encode()).hexdigest(),
        "packages": [
            {**asdict(artist), **asdict(licences[artist.key]), "num_images": used[artist.key]} for artist in ARTISTS
        ],
        "object_colours": COLOURS,
        "backgrounds": BACKGROUNDS,
        "concepts": [asdict(concept) for concept in CONCEPTS],
    }
    write_text(destination / "ATTRIBUTION.md", attribution(ARTISTS, licences, used))
    finish_folder(destination, samples, manifest)
    return IconSetSummary(destination, len(samples), counts, False)
