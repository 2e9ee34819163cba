"""What the worker refuses while it loads."""

import pytest

from bitvar.errors import UsageError
from bitvar.serving.engine.loading import load_pipeline, warm_up
from bitvar.serving.engine.settings import WorkerSettings


@pytest.mark.parametrize("size", [(65, 64), (128, 128)])
def test_a_warm_size_is_one_that_the_model_draws(size: tuple[int, int]) -> None:
    pipeline = load_pipeline(WorkerSettings(device="cpu"))
    with pytest.raises(UsageError, match=f"Can't warm up for images of {size[0]}x{size[1]}") as caught:
        warm_up(pipeline, (size,))
    assert "--warm-size 64x64" in str(caught.value)
