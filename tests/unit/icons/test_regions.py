"""Regions follow their prompts, as the scenes judge sees them, with the embedded model."""

import pytest

from bitvar.icons.benchmark.pretrained_judge import load_judge
from bitvar.icons.benchmark.rules import is_shown
from bitvar.icons.dataset.scene_spec import ObjectSpec
from bitvar.imaging.convert import from_pil
from bitvar.pipeline import InfinityPipeline

LEFT = ("lion", "cat", "robot", "fish", "apple", "dog", "star", "car")
RIGHT = ("tree", "house", "cactus", "guitar", "trumpet", "bicycle", "bus", "penguin")


def phrase(concept: str) -> str:
    return f"an {concept}" if concept[0] in "aeiou" else f"a {concept}"


@pytest.mark.slow
def test_regions_follow_their_prompts_by_the_judge() -> None:
    pipe, judge = InfinityPipeline.from_pretrained(device="cpu"), load_judge("cpu")
    images = []
    for left, right in zip(LEFT, RIGHT, strict=True):
        other = phrase("snowman")
        mix = [
            {"prompt": f"{phrase(left)} to the left of {other}", "box": (0.0, 0.0, 0.5, 1.0)},
            {"prompt": f"{other} to the left of {phrase(right)}", "box": (0.5, 0.0, 0.5, 1.0)},
        ]
        images.append(pipe(f"{other} to the left of {other}", mix=mix, seed=0).images[0])
    followed = []
    for found, left, right in zip(judge.detect(from_pil(images)), LEFT, RIGHT, strict=True):
        for concept, is_left in ((left, True), (right, False)):
            seen = [one for one in found.objects if is_shown(one, ObjectSpec(concept), found)]
            followed.append(any((one.centre[0] < 0.5) == is_left for one in seen))
    assert sum(followed) >= 12, f"{sum(followed)} of {len(followed)} regions show what their prompts say"
