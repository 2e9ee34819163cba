"""Instructions on icon scenes: what is drawn, what is held out, and how results are judged."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bitvar.data.samples import read_samples
from bitvar.icons.benchmark.detections import Detection, Detections
from bitvar.icons.dataset.concepts import BACKGROUNDS, COLOURS, CONCEPTS
from bitvar.icons.dataset.held_out import held_out_keys, is_held_out
from bitvar.icons.dataset.render import SpriteAtlas
from bitvar.icons.dataset.scene_spec import ObjectSpec
from bitvar.icons.dataset.sources import ARTISTS
from bitvar.icons.instructions.benchmark import read_edits, summarise
from bitvar.icons.instructions.build import HELD_OUT, NUM_HELD_OUT_EACH, NUM_VALIDATION, plan_edits, write_edits
from bitvar.icons.instructions.draw import LayoutPainter
from bitvar.icons.instructions.judge import EditJudgement, judge_edit
from bitvar.icons.instructions.spec import (
    KINDS,
    Layout,
    Placed,
    SceneEdit,
    add_edit,
    background_edit,
    from_row,
    recolour_edit,
    remove_edit,
    replace_edit,
    to_row,
)

CONCEPT = {concept.name: concept for concept in CONCEPTS}
CAT, CAR = Placed(ObjectSpec("cat"), "left"), Placed(ObjectSpec("car"), "right")
SIZE = 64
NUM_TRAIN = 60


@pytest.fixture(scope="module")
def atlas() -> SpriteAtlas:
    """Ellipses, each of its own shape and colour."""
    sprites: dict[str, dict[str, Image.Image]] = {}
    for artist in ARTISTS:
        for concept in CONCEPTS:
            number = hashlib.sha256(f"{artist.key} {concept.name}".encode()).digest()
            image = Image.new("RGBA", (20 + number[0] % 30, 20 + number[1] % 30))
            ImageDraw.Draw(image).ellipse((0, 0, *image.size), (number[2], number[3] // 2, number[4] // 2, 255))
            sprites.setdefault(artist.key, {})[concept.name] = image
    return SpriteAtlas(sprites)


@pytest.fixture(scope="module")
def planned(atlas: SpriteAtlas) -> list[tuple[str, SceneEdit]]:
    return list(plan_edits(atlas, seed=0, num_edits=NUM_TRAIN))


def test_only_the_held_out_split_shows_held_out_compositions(planned: list[tuple[str, SceneEdit]]) -> None:
    keys = held_out_keys()
    for split, edit in planned:
        shown = any(is_held_out(layout.spec(), keys) for layout in (edit.source, edit.target))
        assert shown == (split == HELD_OUT), edit
        if split == HELD_OUT:
            assert is_held_out((edit.source if edit.kind == "remove" else edit.target).spec(), keys)
    counts = Counter((split, edit.kind) for split, edit in planned)
    assert all(counts["train", kind] == NUM_TRAIN // len(KINDS) for kind in KINDS)
    assert all(counts[HELD_OUT, kind] == NUM_HELD_OUT_EACH for kind in KINDS)
    assert sum(counts["val", kind] for kind in KINDS) == NUM_VALIDATION


def test_an_edit_says_what_it_does(planned: list[tuple[str, SceneEdit]]) -> None:
    for _, edit in planned:
        before, after = len(edit.source.objects), len(edit.target.objects)
        assert after - before == {"remove": -1, "add": 1}.get(edit.kind, 0)
        assert (edit.source.background != edit.target.background) == (edit.kind == "background")
        assert edit.source.artist == edit.target.artist
        assert len(edit.kept) == min(before, after) - (edit.kind in ("colour", "replace"))
        assert len(set(edit.instructions)) == (5 if edit.kind == "remove" else 4)
        assert from_row(json.loads(json.dumps(to_row(edit)))) == edit


def test_what_is_kept_stays_on_the_same_pixels(atlas: SpriteAtlas, planned: list[tuple[str, SceneEdit]]) -> None:
    painter = LayoutPainter(atlas, size=SIZE)
    for _, edit in planned[:40]:
        before, after = (np.asarray(painter.draw(layout)) for layout in (edit.source, edit.target))
        assert (before != after).any()
        if edit.kind == "background":
            continue
        for placed in edit.kept:
            left, top, right, bottom = painter.box(edit.source.artist, placed)
            assert (before[top:bottom, left:right] == after[top:bottom, left:right]).all()


def test_a_set_is_two_captioned_sets_in_step(
    atlas: SpriteAtlas, planned: list[tuple[str, SceneEdit]], tmp_path: Path
) -> None:
    few = [entry for split in ("train", "val", HELD_OUT) for entry in [e for e in planned if e[0] == split][:3]]
    write_edits(tmp_path, few, LayoutPainter(atlas, size=SIZE), manifest={"size": SIZE})
    sources, targets = (read_samples(tmp_path / part, split=None) for part in ("sources", "targets"))
    assert [sample.path.name for sample in sources] == [sample.path.name for sample in targets]
    assert [sample.captions for sample in targets] == [edit.instructions for _, edit in few]
    read = read_edits(tmp_path)
    assert [sample.edit for sample in read] == [edit for split, edit in few if split == HELD_OUT]
    assert [sample.instruction for sample in read] == [s.edit.instructions[i] for i, s in enumerate(read)]
    assert read[0].source.size == (SIZE, SIZE)
    yes, no = EditJudgement(True, True, ()), EditJudgement(True, False, ("saw 3 objects",))
    assert summarise(read, [yes, no, no])["all"] == {"followed": 1.0, "kept": 1 / 3, "both": 1 / 3}


def seen(*objects: tuple[str, str | None, tuple[float, float]], background: str = "white") -> Detections:
    """Detections of concepts in colours around centres."""
    found = tuple(
        Detection(
            (x - 0.1, y - 0.1, x + 0.1, y + 0.1),
            0.9,
            {name: 0.9},
            dict.fromkeys(COLOURS, 0.0) | {"own": 0.1} | ({colour: 0.9} if colour else {}),
        )
        for name, colour, (x, y) in objects
    )
    return Detections(found, dict.fromkeys(BACKGROUNDS, 0.0) | {background: 0.9})


LEFT, RIGHT = (0.25, 0.5), (0.75, 0.5)
PAIR = Layout("noto", (CAT, CAR))
TO_DOG = replace_edit(PAIR, 0, ObjectSpec("dog"), CONCEPT)


@pytest.mark.parametrize(
    ("edit", "detections", "followed", "kept"),
    [
        (recolour_edit(PAIR, 1, "green", CONCEPT), seen(("cat", None, LEFT), ("car", "green", RIGHT)), True, True),
        (recolour_edit(PAIR, 1, "green", CONCEPT), seen(("cat", None, LEFT), ("car", "red", RIGHT)), False, True),
        (recolour_edit(PAIR, 1, "green", CONCEPT), seen(("dog", None, LEFT), ("car", "green", RIGHT)), True, False),
        (remove_edit(PAIR, 0, CONCEPT), seen(("car", None, RIGHT)), True, True),
        (remove_edit(PAIR, 0, CONCEPT), seen(("car", None, LEFT)), True, False),
        (remove_edit(PAIR, 0, CONCEPT), seen(("cat", None, LEFT), ("car", None, RIGHT)), False, False),
        (remove_edit(PAIR, 0, CONCEPT), seen(), True, False),
        (TO_DOG, seen(("dog", None, LEFT), ("car", None, RIGHT)), True, True),
        (TO_DOG, seen(("cat", None, LEFT), ("car", None, RIGHT)), False, True),
        (background_edit(PAIR, "blue"), seen(("cat", None, LEFT), ("car", None, RIGHT), background="blue"), True, True),
        (background_edit(PAIR, "blue"), seen(("cat", None, LEFT), ("car", None, RIGHT)), False, True),
        (add_edit(PAIR, 1, CONCEPT), seen(("cat", None, LEFT), ("car", None, RIGHT)), True, True),
        (add_edit(PAIR, 1, CONCEPT), seen(("car", None, LEFT), ("cat", None, RIGHT)), False, False),
        (add_edit(PAIR, 1, CONCEPT), seen(("cat", None, LEFT), ("car", None, RIGHT), background="red"), True, False),
        (add_edit(PAIR, 1, CONCEPT), seen(("cat", None, LEFT), ("car", None, RIGHT), ("bus", None, LEFT)), True, False),
    ],
)  # fmt: skip
def test_the_judge(edit: SceneEdit, detections: Detections, followed: bool, kept: bool) -> None:
    judgement = judge_edit(detections, edit)
    assert (judgement.followed, judgement.kept) == (followed, kept), judgement.reasons
    assert bool(judgement.reasons) != (followed and kept)


def test_instructions_in_words() -> None:
    assert remove_edit(PAIR, 0, CONCEPT).instructions[1] == "remove the left one"
    assert add_edit(PAIR, 1, CONCEPT).instructions[0] == "add a car on the right"
    assert (
        replace_edit(PAIR, 0, ObjectSpec("apple", "green"), CONCEPT).instructions[0]
        == "replace the cat with a green apple"
    )
    assert recolour_edit(PAIR, 1, "green", CONCEPT).instructions[0] == "make the car green"
    assert background_edit(PAIR, "orange").instructions[2] == "put it on an orange background"
