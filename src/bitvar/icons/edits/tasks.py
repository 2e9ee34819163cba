"""The edits to try: an image of the icon set, what to change in it, and what must stay.

Every scene has two objects. One is edited, and the other, with the background, must stay as it is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from bitvar.errors import UsageError
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS
from bitvar.icons.dataset.scene_spec import ObjectSpec, SceneSpec, write_captions

KINDS: Final = ("remove", "insert", "colour", "object")
"""Take an object out, put one in, change an object's colour, and replace an object by another."""

_SOURCES: Final[Mapping[str, tuple[str, ...]]] = {
    "remove": ("two", "position"),
    "insert": ("two", "position"),
    "colour": ("colour_pair",),
    "object": ("two", "position"),
}
_CONCEPTS: Final = {concept.name: concept for concept in CONCEPTS}

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class EditTask:
    """One edit.

    Attributes:
        id: Name of the task.
        kind: One of `KINDS`.
        image: Image to edit.
        source_prompt: Caption of the image as it is.
        prompt: Caption of what it should become.
        box: Box of the object that is edited, in pixels.
        wanted: Object that must be seen there afterwards; None where none must.
        other: The object that must stay.
        other_box: Its box, in pixels.
    """

    id: str
    kind: str
    image: Image.Image
    source_prompt: str
    prompt: str
    box: Box
    wanted: ObjectSpec | None
    other: ObjectSpec
    other_box: Box


def read_tasks(data: Path, *, per_kind: int = 50, seed: int = 0) -> list[EditTask]:
    """Make tasks of scenes that training never showed.

    Args:
        data: Icon set, built by `bitvar data icons SET --still`.
        per_kind: Number of tasks of each kind.
        seed: Seed of the choice of scenes and of what they should become.

    Raises:
        UsageError: for a folder that is no icon set, or one with too few scenes.
    """
    rows = list(_held_out_rows(data))
    tasks = []
    for kind in KINDS:
        fitting = [row for row in rows if row["kind"] in _SOURCES[kind]]
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        if len(fitting) < per_kind:
            why = f"{per_kind} are asked for, and it has {len(fitting)}"
            raise UsageError(f"The set has too few scenes to {kind}.", why, "ask for fewer tasks of each kind")
        for index in rng.permutation(len(fitting))[:per_kind]:
            tasks.append(_task(kind, fitting[index], data, rng))
    return tasks


def _held_out_rows(data: Path) -> Iterator[dict[str, Any]]:
    samples = data / "samples.jsonl"
    if not samples.is_file():
        raise UsageError(f"{data} is no icon set.", "it has no samples.jsonl", f"run: bitvar data icons {data} --still")
    with samples.open(encoding="utf-8") as file:
        for line in file:
            if '"split": "held_out_prompt"' in line:
                yield json.loads(line)


def _task(kind: str, row: Mapping[str, Any], data: Path, rng: np.random.Generator) -> EditTask:
    objects = tuple(ObjectSpec(item["concept"], item["colour"]) for item in row["objects"])
    boxes: list[Box] = [tuple(item["box"]) for item in row["objects"]]
    source = SceneSpec(row["kind"], row["artist"], objects, relation=row["relation"], background=row["background"])
    edited = int(rng.integers(2))
    image = Image.open(data / row["image_path"]).convert("RGB")
    target = {"remove": _without, "insert": _same, "colour": _recoloured, "object": _replaced}[kind](
        source, edited, rng
    )
    if kind == "insert":  # the scene without the object is the source, and the whole scene the target
        image.paste(BACKGROUNDS[source.background], boxes[edited])
        source = _without(source, edited, rng)
    caption = {spec: write_captions(spec, _CONCEPTS, style=row["style"])[0] for spec in (source, target)}
    return EditTask(
        id=f"{kind}-{Path(row['image_path']).stem}",
        kind=kind,
        image=image,
        source_prompt=caption[source],
        prompt=caption[target],
        box=boxes[edited],
        wanted=None if kind == "remove" else target.objects[edited],
        other=objects[1 - edited],
        other_box=boxes[1 - edited],
    )


def _without(spec: SceneSpec, edited: int, rng: np.random.Generator) -> SceneSpec:
    return replace(spec, kind="single", objects=(spec.objects[1 - edited],), relation=None)


def _same(spec: SceneSpec, edited: int, rng: np.random.Generator) -> SceneSpec:
    return spec


def _recoloured(spec: SceneSpec, edited: int, rng: np.random.Generator) -> SceneSpec:
    names = [name for name in COLOURS if name != spec.objects[edited].colour]
    return _with_object(spec, edited, replace(spec.objects[edited], colour=names[rng.integers(len(names))]))


def _replaced(spec: SceneSpec, edited: int, rng: np.random.Generator) -> SceneSpec:
    taken = {item.concept for item in spec.objects}
    names = sorted(_CONCEPTS.keys() - taken)
    return _with_object(spec, edited, ObjectSpec(names[rng.integers(len(names))]))


def _with_object(spec: SceneSpec, edited: int, item: ObjectSpec) -> SceneSpec:
    objects: Sequence[ObjectSpec] = [item if i == edited else old for i, old in enumerate(spec.objects)]
    return replace(spec, objects=tuple(objects))
