"""Which fixtures to check, and where: `pytest tests/parity --golden DIR --device cuda`."""

from pathlib import Path

import pytest
import torch

from tests.parity.fixtures import Golden

DEFAULT = Path(__file__).parent.parent / "golden"


@pytest.fixture(autouse=True)
def _plain_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA, PyTorch's convolutions round fp32 to TF32 unless told not to: a hundred times these tests' tolerance."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        device = torch.device(metafunc.config.getoption("--device"))
        golden = Golden(Path(metafunc.config.getoption("--golden") or DEFAULT), device)
        kind = metafunc.function.kind
        metafunc.parametrize("case", golden.cases(kind), ids=lambda case: case.name)
