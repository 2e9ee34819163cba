"""What the worker refuses while it loads."""

import pytest

from bitvar.errors import UsageError
from bitvar.pipeline.optimizations import choose
from bitvar.serving.engine.loading import load_pipeline, warm_up
from bitvar.serving.engine.settings import WorkerSettings


@pytest.mark.parametrize("size", [(65, 64), (128, 128)])
def test_a_warm_size_is_one_that_the_model_draws(size: tuple[int, int]) -> None:
    pipeline = load_pipeline(WorkerSettings(device="cpu"))
    with pytest.raises(UsageError, match=f"Can't warm up for images of {size[0]}x{size[1]}") as caught:
        warm_up(pipeline, (size,))
    assert "--warm-size 64x64" in str(caught.value)


@pytest.mark.parametrize("fast", [("auto",), ("off",), ("folded",)])
def test_a_worker_computes_with_the_optimizations_that_it_is_told(fast: tuple[str, ...]) -> None:
    pipeline = load_pipeline(WorkerSettings(device="cpu", fast=fast))
    assert pipeline.optimizations == [kind.name for kind in choose(fast, "cpu")]
    assert (pipeline.optimizations == []) == (fast == ("off",))


def test_an_unknown_optimization_is_refused() -> None:
    with pytest.raises(UsageError, match="optimization 'pakced'"):
        load_pipeline(WorkerSettings(device="cpu", fast=("pakced",)))
