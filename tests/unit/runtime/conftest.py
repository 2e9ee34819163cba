"""Where these tests compute: `pytest tests/unit/runtime --device cuda` captures real graphs, a CPU records instead."""

import pytest
import torch

from bitvar.nn import linear
from bitvar.runtime.graph_capture import GraphCapture, capture_on


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def capture(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> GraphCapture:
    monkeypatch.setattr(
        linear, "MIN_TOKENS_FOR_CONVOLUTION", 1 << 30
    )  # CUDA has no such path, which lays text out anew
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return capture_on(device)
