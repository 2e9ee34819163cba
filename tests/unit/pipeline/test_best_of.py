"""Best of n: which seeds go on, and that those which do are drawn as if they were alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.best_of import Keep, best_of, medoids
from tests.support.tiny import rough_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("tiny"))


class Redness:
    """Scores images by their red, and keeps how many it was shown."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, images: Tensor, prompt: str) -> Tensor:
        assert prompt == "a red dog"
        self.seen.append(len(images))
        return images[:, 0].mean(dim=(1, 2))


def corners(images: Tensor) -> Tensor:
    return images[:, :, ::5, ::5].flatten(1)


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": {"spatial_guidance": 1.0}}, {"quality": {"confidence": 0.6}, "temperature": 0.1}],
    ids=["plain", "spatial guidance", "confidence"],
)
def test_survivors_are_the_images_of_their_seeds(pipe: InfinityPipeline, options: dict[str, Any]) -> None:
    scorer = Redness()
    keep = (Keep(1, 4, "diversity"), Keep(2, 2))
    found = best_of(pipe, "a red dog", scorer=scorer, n=6, keep=keep, features=corners, num_images=2, seed=5, **options)
    assert scorer.seen == [4, 2] and [len(seeds) for seeds in found.survivors] == [4, 2]
    assert set(found.output.seeds) == set(found.survivors[-1]) < set(range(5, 11))
    assert found.scores == sorted(found.scores, reverse=True)
    for image, seed, metadata in zip(found.output.images, found.output.seeds, found.output.metadata, strict=True):
        alone = pipe("a red dog", seed=seed, **options)
        assert image.tobytes() == alone.images[0].tobytes()
        assert metadata == alone.metadata[0]


def test_without_choices_the_best_of_all_is_returned(pipe: InfinityPipeline) -> None:
    found = best_of(pipe, "a red dog", scorer=Redness(), n=5, seed=3)
    drawn = pipe("a red dog", num_images_per_prompt=5, seed=3, output_type="pt")
    scores = drawn.images[:, 0].mean(dim=(1, 2))
    assert found.output.seeds == [3 + int(scores.argmax())] and found.scores == [scores.max().item()]


def test_previews_decide(pipe: InfinityPipeline) -> None:
    found = best_of(pipe, "a red dog", scorer=Redness(), n=6, keep=[Keep(2, 1)], seed=0)
    *_, event = (e for e in pipe.stream("a red dog", num_images_per_prompt=6, seed=0) if e.index < 2)
    assert found.output.seeds == [int(event.pixels[:, 0].mean(dim=(1, 2)).argmax())]


def test_seeds_may_be_listed(pipe: InfinityPipeline) -> None:
    found = best_of(pipe, "a red dog", scorer=Redness(), n=3, num_images=3, seed=[9, 4, 7], keep=[Keep(1, 3)])
    assert sorted(found.output.seeds) == [4, 7, 9]


def test_medoids_lie_nearest_to_the_others() -> None:
    groups = torch.tensor([[0.0], [1.0], [2.0], [50.0], [51.0], [52.0], [53.0], [90.0]])
    assert medoids(groups, 1) == [3]
    assert medoids(groups, 3) in ([1, 4, 7], [1, 5, 7])
    assert medoids(groups, 8) == list(range(8))


def test_medoids_are_as_good_as_any_choice() -> None:
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(features, features)

    def cost(chosen: Any) -> float:
        return distance[:, list(chosen)].amin(dim=1).sum().item()

    best = min(cost((i, j)) for i in range(7) for j in range(i))
    assert cost(medoids(features, 2)) == pytest.approx(best)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"n": 2000},
        {"n": 2, "num_images": 3},
        {"n": 4, "keep": [Keep(0, 2)]},
        {"n": 4, "keep": [Keep(1, 5)]},
        {"n": 4, "keep": [Keep(2, 2), Keep(1, 1)]},
        {"n": 4, "keep": [Keep(1, 1)], "num_images": 2},
        {"n": 4, "keep": [Keep(4, 2)]},
        {"n": 4, "keep": [Keep(1, 2, "diversity")]},
        {"constraint": None},
        {"num_images_per_prompt": 2},
        {"seed": [1, 2]},
        {"unknown": 1},
        {"scorer": lambda images, prompt: torch.zeros(2)},
        {"scorer": lambda images, prompt: torch.full((8,), torch.nan)},
    ],
    ids="-".join,
)
def test_impossible_choices_are_refused(pipe: InfinityPipeline, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        best_of(pipe, "a red dog", **{"scorer": Redness(), **wrong})
