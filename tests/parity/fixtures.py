"""Reads a folder of parity fixtures through its `index.json`."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bitvar.official_schedules import official_schedules
from bitvar.scales import ScaleSchedule
from bitvar.tokenizer import InfinityTokenizer, TokenizerConfig
from bitvar.transformer import InfinityTransformer, TransformerConfig
from bitvar.weights.official.names import from_official

KINDS = {"tokenizer", "bitwise_self_correction", "teacher_forced", "greedy_generation", "bit_distribution"}


@dataclass(frozen=True)
class Case:
    name: str
    folder: Path
    entry: dict[str, Any]
    device: torch.device

    @property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.name}.safetensors", device=str(self.device))

    @property
    def grids(self) -> list[tuple[int, int]]:
        return [(h, w) for h, w in self.entry["scales"]]

    def schedule(self) -> ScaleSchedule:
        """The official schedule with these grids."""
        grids = tuple(self.grids)
        return next(s for s in official_schedules(("0.06M", "0.25M", "0.60M", "1M")) if s.grids == grids)

    def tokenizer(self, key: str) -> InfinityTokenizer:
        return load_tokenizer(self.folder, self.entry[key], self.device)

    def transformer(self) -> InfinityTransformer:
        return load_transformer(self.folder, self.entry["weights"], self.device)


class Golden:
    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.index: dict[str, Any] = json.loads((folder / "index.json").read_text())
        kinds = {entry["kind"] for entry in self.index.values() if "kind" in entry} | {"bit_distribution"}
        assert kinds <= KINDS, f"fixtures of unknown kinds: {kinds - KINDS}"

    def cases(self, kind: str) -> list[Case]:
        return [
            Case(name, self.folder, e, self.device) for name, e in self.index.items() if e.get("kind", name) == kind
        ]


def _load(folder: Path, name: str) -> dict[str, Tensor]:
    return {key: tensor.float() for key, tensor in load_file(folder / f"{name}.safetensors").items()}


@cache
def load_tokenizer(folder: Path, name: str, device: torch.device) -> InfinityTokenizer:
    converted = from_official(_load(folder, name), source=name)
    assert isinstance(converted.config, TokenizerConfig)
    model = InfinityTokenizer(converted.config)
    model.load_state_dict(converted.tensors)
    return model.to(device).eval()


@cache
def load_transformer(folder: Path, name: str, device: torch.device) -> InfinityTransformer:
    converted = from_official(_load(folder, name), source=name)
    assert isinstance(converted.config, TransformerConfig)
    model = InfinityTransformer(converted.config)
    model.load_state_dict(converted.tensors)
    return model.to(device).eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the fixture's largest value."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} against {tuple(theirs.shape)}"
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def to_rows(bits: Tensor) -> Tensor:
    """`(b, d, h, w)` to the fixtures' `(b, h, w, d)`."""
    return bits.permute(0, 2, 3, 1)
