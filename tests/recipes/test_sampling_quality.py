"""The experiment that measures ways to draw: seeds, halves of the prompts, lines, and the first way as reference."""

import argparse
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "sampling_quality.py"
MODULE = runpy.run_path(str(EXPERIMENT))


class Painter:
    """Stands in for a pipeline: fills images with a level that the seed or the options decide."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[int]]] = []
        self.applied: list[tuple[str, ...]] = []

    def optimize(self, *names: str) -> None:
        self.applied.append(names)

    def __call__(self, prompts: list[str], *, seed: list[int], level: int | None = None, **options: Any) -> Any:
        assert options == {"output_type": "np", "batch_invariant": False}
        self.calls.append((prompts, seed))
        levels = [(one % 2) * 255 if level is None else level for one in seed]
        images = np.stack([np.full((8, 8, 3), each, np.uint8) for each in levels])
        images[:, 0, 0] = 100
        return SimpleNamespace(images=images)


def difference(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().mean(dim=(1, 2, 3))


def test_lines_compare_with_the_first_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    painter, scope = Painter(), MODULE["measure"].__globals__
    judge = SimpleNamespace(detect=list, decide=lambda image, payload, skill: SimpleNamespace(correct=image.mean() > 0))
    monkeypatch.setitem(scope, "InfinityPipeline", SimpleNamespace(from_pretrained=lambda model: painter))
    monkeypatch.setitem(scope, "load_judge", lambda device: judge)
    monkeypatch.setitem(scope, "perceptual_distance", lambda name: difference)
    options = argparse.Namespace(out=tmp_path / "rows.jsonl", half="report", every=20, seeds=2)
    MODULE["measure"](options, {"plain": {}, "white": {"level": 255}})
    plain, white = (json.loads(line) for line in options.out.read_text(encoding="utf-8").splitlines())
    assert (plain["score"], plain["gain"], plain["relative"]) == (50, 0, 1) and plain["diversity"] == pytest.approx(
        2 * 63 / 64
    )
    assert (white["score"], white["gain"], white["diversity"]) == (100, 50, 0)
    assert plain["sharpness"] == 1 and white["sharpness"] == pytest.approx(white["energy"] / plain["energy"])
    assert plain["images"] == white["images"] == 2 * len(plain["correct"])
    drawn = len(painter.calls)
    black = {"level": 0, "fast": ["int8"]}
    MODULE["measure"](options, {"plain": {}, "white": {"level": 255}, "black": black})
    assert len(painter.calls) == drawn + 3, "lines that are there are not measured again, but the first seed is drawn"
    assert painter.applied[-3:] == [("int8",), ("int8",), ("auto",)]
    assert plain["psnr"] == 100 > white["psnr"] > 0
    options.half, options.out = "tune", tmp_path / "other.jsonl"
    MODULE["measure"](options, {"plain": {}})
    assert not set(painter.calls[-1][0]) & set(painter.calls[0][0])
    assert not set(painter.calls[-1][1]) & set(painter.calls[0][1])


def test_times_are_compared_with_the_first_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Pipe:
        def optimize(self, *names: str) -> None:
            assert names == ("auto",)

        def __call__(self, text: str, **options: Any) -> Tensor:
            return torch.zeros(1)

    pipe = SimpleNamespace(from_pretrained=lambda model: Pipe())
    monkeypatch.setitem(MODULE["main"].__globals__, "InfinityPipeline", pipe)
    words = [str(tmp_path / "x.jsonl"), "--time", "3", "--draw", "plain={}", "--draw", 'hot={"temperature": 1}']
    monkeypatch.setattr(sys, "argv", ["sampling_quality.py", *words])
    MODULE["main"]()
    medians = json.loads(capsys.readouterr().out)
    assert list(medians) == ["plain", "hot"] and medians["plain"][1] == 1.0
    assert not (tmp_path / "x.jsonl").exists()
