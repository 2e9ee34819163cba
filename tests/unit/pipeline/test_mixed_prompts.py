"""Further prompts in regions, from a scale on and in part; and images between two seeds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitvar.editing.mixture import prompt_weights
from bitvar.editing.seeds import MixedNoise
from bitvar.editing.spec import MixedPrompt
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.record import read_record
from bitvar.sampling.noise import batch_noise
from tests.support.tiny import rough_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("tiny"))


def bits(pipe: InfinityPipeline, prompt: str, **options: Any) -> list[torch.Tensor]:
    return list(pipe(prompt, output_type="bits", **{"seed": 1, "negative_prompt": "two", **options}).images)


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)]


def test_weights_of_0_and_1_are_the_prompts_themselves(pipe: InfinityPipeline) -> None:
    first, second = bits(pipe, "a red dog"), bits(pipe, "a blue cat")
    assert all(same(bits(pipe, "a red dog", mix=[{"prompt": "a blue cat", "weight": 0.0}]), first))
    assert all(same(bits(pipe, "a red dog", mix=[{"prompt": "a blue cat", "weight": 1.0}]), second))
    half = bits(pipe, "a red dog", mix=[{"prompt": "a blue cat", "weight": 0.5}])
    assert not all(same(half, first)) and not all(same(half, second))


def test_a_prompt_may_apply_from_a_scale_on(pipe: InfinityPipeline) -> None:
    switched = bits(pipe, "a red dog", mix=[{"prompt": "a blue cat", "first_scale": 2}])
    assert same(switched, bits(pipe, "a red dog")) == [True, True, False]
    early = bits(pipe, "a red dog", mix=[{"prompt": "a blue cat", "last_scale": 0}])
    assert same(early, bits(pipe, "a blue cat"))[0]
    each = bits(pipe, "a red dog", mix=[{"prompt": "a blue cat", "weight": (0.0, 0.0, 1.0)}])
    assert all(same(each, switched))


def test_weights_follow_boxes_and_masks() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    mix = [
        MixedPrompt.parse({"prompt": "a", "box": (0.5, 0, 0.5, 1)}, source="a test"),
        MixedPrompt.parse({"prompt": "b", "mask": mask, "weight": 0.5}, source="a test"),
    ]
    for weights, grid in zip(prompt_weights(mix, [(1, 1), (2, 2), (4, 4)]), (1, 2, 4), strict=True):
        whole = torch.zeros(grid, grid)
        whole[:, grid // 2 :] = 1.0 if grid > 1 else 0.5
        assert torch.allclose(weights[0].view(grid, grid), whole)
        assert torch.allclose(weights[1].view(grid, grid), whole / 2)


def test_a_region_leaves_the_coarse_bits_elsewhere_alone(pipe: InfinityPipeline) -> None:
    region = bits(pipe, "a red dog", mix=[{"prompt": "a blue cat", "box": (0.5, 0, 0.5, 1), "first_scale": 1}])
    plain = bits(pipe, "a red dog")
    assert torch.equal(region[1][..., 0], plain[1][..., 0])
    assert not torch.equal(region[2], plain[2])


def test_mixtures_in_a_batch_are_those_of_each_image(pipe: InfinityPipeline) -> None:
    options: dict[str, Any] = {"mix": [{"prompt": "a blue cat", "box": (0, 0, 1, 0.5)}], "mixed_seed": {"seed": 9}}
    together = bits(pipe, "a red dog", num_images_per_prompt=2, **options)
    alone = [bits(pipe, "a red dog", seed=seed, **options) for seed in (1, 2)]
    assert all(same(together, [torch.cat(pair) for pair in zip(*alone, strict=True)]))


def test_a_region_and_an_edit_combine(pipe: InfinityPipeline) -> None:
    mix = [{"prompt": "a blue cat", "box": (0.5, 0, 0.5, 1)}]
    spec = {"image": Image.new("RGB", (16, 16), "red"), "strength": 0.5}
    plain, mixed = bits(pipe, "a red dog", edit=spec), bits(pipe, "a red dog", edit=spec, mix=mix)
    assert same(plain, mixed)[:1] == [True] and not all(same(plain, mixed))
    with pytest.raises(UsageError, match="can't mix further prompts"):
        bits(pipe, "a red dog", edit={**spec, "method": "inversion", "source_prompt": "two"}, mix=mix)


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ([{"prompt": ""}], "prompt"),
        ([{"prompt": "a", "weight": 2}], "weight"),
        ([{"prompt": "a", "weight": (0.1, 0.2)}], "has 2 values"),
        ([{"prompt": "a", "box": (0, 0, 0, 1)}], "box is empty"),
        ([{"prompt": "a", "box": (0.5, 0, 0.9, 1)}], "reaches out of the image"),
        ([{"prompt": "a", "mask": Image.new("L", (9, 9), 0)}], "selects nothing"),
        ([{"prompt": "a", "first_scale": 9}], "would never apply"),
        ([{"prompt": "a", "first_scale": 2, "last_scale": 1}], "before first_scale"),
        ([{"prompt": "a dog " * 50}], "too long"),
        ([{"prompt": "a"}] * 17, "16"),
    ],
    ids=[
        "no prompt",
        "weight",
        "weights",
        "empty box",
        "box outside",
        "black mask",
        "scale",
        "scales",
        "too long",
        "many",
    ],
)
def test_bad_mixtures_are_refused(pipe: InfinityPipeline, mix: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        bits(pipe, "a red dog", mix=mix)


def test_masks_of_regions_fit_into_records(pipe: InfinityPipeline, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300), np.uint8))
    out = pipe("a red dog", seed=1, mix=[{"prompt": "a blue cat", "mask": noise}])
    record = read_record(out.save(tmp_path / "b.png")[0])
    again = pipe("a red dog", seed=1, mix=[mixed.model_dump() for mixed in record.mix])
    assert again.images[0].tobytes() == out.images[0].tobytes()


# Two seeds


def test_the_way_between_two_seeds_starts_and_ends_at_them(pipe: InfinityPipeline) -> None:
    first, second = bits(pipe, "a red dog"), bits(pipe, "a red dog", seed=9)
    for weight, expected in ((0.0, first), (1.0, second)):
        assert all(same(bits(pipe, "a red dog", mixed_seed={"seed": 9, "weight": weight}), expected))
    each = bits(pipe, "a red dog", mixed_seed={"seed": 9, "weight": (0.0, 0.0, 1.0)})
    assert same(each, first) == [True, True, False]


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_mixed_numbers_are_uniform(weight: float) -> None:
    cpu = torch.device("cpu")
    numbers = MixedNoise([3], 4, [weight]).numbers(0, (200, 100), cpu)
    counts = torch.histc(numbers, bins=10, min=0.0, max=1.0) / numbers.numel()
    assert torch.allclose(counts, torch.full((10,), 0.1), atol=0.01)
    assert numbers.min() >= 0 and numbers.max() < 1
    own, other = (batch_noise([seed], 0, (200, 100), cpu) for seed in (3, 4))
    near_own, near_other = ((numbers - part).abs().mean() for part in (own, other))
    assert (near_own < near_other) == (weight < 0.5) or weight == 0.5


def test_a_second_seed_out_of_range_is_refused(pipe: InfinityPipeline) -> None:
    for bad in ({"seed": -1}, {"seed": 2**63}, {"seed": 1, "weight": (0.1,) * 2}):
        with pytest.raises(UsageError):
            bits(pipe, "a red dog", mixed_seed=bad)
