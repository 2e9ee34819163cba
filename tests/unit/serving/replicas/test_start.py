"""Replicas are asked for by options, and cost nothing until then."""

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from bitvar.cli.serve import _read_replicas
from bitvar.errors import UsageError
from bitvar.serving.engine.settings import WorkerSettings
from bitvar.serving.replicas.backend import RayBackend
from bitvar.serving.replicas.settings import ReplicaSettings
from bitvar.serving.replicas.start import ray_backend


@pytest.mark.parametrize(
    "module",
    ["bitvar.serving.replicas.start", "bitvar.serving.replicas.replica", "bitvar.serving.replicas.arguments"],
)
def test_neither_ray_nor_torch_is_loaded_before_the_server_listens(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) & {"ray", "torch"} == set()


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"ray is not installed[\s\S]*pip install .*\[ray\]"):
        ray_backend(ReplicaSettings(), WorkerSettings())


def test_a_backend_is_made_without_a_cluster() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    backend = ray_backend(ReplicaSettings(), WorkerSettings())
    assert isinstance(backend, RayBackend) and backend.state == "stopped"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"replicas": 2}, ReplicaSettings(replicas=2)),
        ({"max_replicas": 3}, ReplicaSettings(max_replicas=3)),
        ({"address": "auto"}, ReplicaSettings(address="auto")),
        ({"replicas": 1, "cpus": 0.5, "gpus": 0.25}, ReplicaSettings(cpus=0.5, gpus=0.25)),
        ({}, None),
    ],
)
def test_any_option_asks_for_ray(
    options: dict[str, Any], expected: ReplicaSettings | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    every = dict.fromkeys(("replicas", "max_replicas", "address", "cpus", "gpus"))
    assert _read_replicas(every | options) == expected


def test_the_most_replicas_are_not_fewer_than_the_least() -> None:
    with pytest.raises(UsageError, match="at most 1 replicas are fewer than 2"):
        ReplicaSettings.parse({"replicas": 2, "max_replicas": 1}, source="the options")
