"""Every number, list and text of a configuration that is read from a model's files has bounds."""

import json
import shutil
import time
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bitvar.errors import UsageError, WeightsError
from bitvar.lora.file import LoraBase, _Settings
from bitvar.lora.layers import LoraSettings
from bitvar.scales import ScaleSchedule
from bitvar.text import TextEncoderConfig
from bitvar.text.files import BertSizes, T5Sizes, is_simple_pattern
from bitvar.tokenizer import TokenizerConfig
from bitvar.transformer import TransformerConfig
from bitvar.weights.digests import write_manifest
from bitvar.weights.identity import TokenizerIdentity
from bitvar.weights.index import ModelIndex, TrainedGrids
from bitvar.weights.model_folder import load_folder
from bitvar.weights.vocabulary import Vocabulary

READ_FROM_FILES = (
    ModelIndex,
    TokenizerIdentity,
    TrainedGrids,
    TransformerConfig,
    TokenizerConfig,
    TextEncoderConfig,
    BertSizes,
    T5Sizes,
    LoraSettings,
    LoraBase,
    _Settings,
    Vocabulary,
)


def unbounded(name: str, annotation: Any, metadata: list[Any]) -> Iterator[str]:  # noqa: PLR0912
    """The names of the parts of a type that take any number, any length or any text."""
    if get_origin(annotation) is typing.Annotated:
        inner, *more = get_args(annotation)
        own = [part for item in more for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        yield from unbounded(name, inner, metadata + own)
    elif is_dataclass(annotation):
        for own, kind in typing.get_type_hints(annotation, include_extras=True).items():
            yield from unbounded(f"{name}.{own}", kind, [])
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, f"{name}.")
    elif annotation in (int, float):
        if not any(isinstance(part, Ge | Gt) for part in metadata):
            yield f"{name}: no lower bound"
        if not any(isinstance(part, Le | Lt) for part in metadata):
            yield f"{name}: no upper bound"
    elif annotation is str:
        if not any(isinstance(part, MaxLen) or getattr(part, "pattern", None) for part in metadata):
            yield f"{name}: any length of text"
    elif get_origin(annotation) in (typing.Union, types.UnionType):
        for choice in get_args(annotation):
            yield from unbounded(name, choice, metadata)
    elif get_origin(annotation) in (tuple, list, dict, Sequence):
        parts = get_args(annotation)
        fixed = get_origin(annotation) is tuple and Ellipsis not in parts
        if not fixed and not any(isinstance(part, MaxLen) for part in metadata):
            yield f"{name}: any length"
        for part in parts:
            if part is not Ellipsis:
                yield from unbounded(f"{name}[]", part, [])
    elif annotation not in (bool, type(None)) and get_origin(annotation) is not Literal:
        yield f"{name}: {annotation} is nothing that this test knows"


def fields(config: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in config.model_fields.items():
        yield from unbounded(f"{prefix}{name}", field.annotation, list(field.metadata))


@pytest.mark.parametrize("config", READ_FROM_FILES, ids=lambda config: config.__name__)
def test_every_field_has_bounds(config: type[BaseModel]) -> None:
    assert list(fields(config)) == []


HUGE = 10**12
PARTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "no schedule": ("transformer/config.json", lambda c: c.update(schedules=[])),
    "a grid of 10^12": ("transformer/config.json", lambda c: c["schedules"][0]["grids"].append([HUGE, HUGE])),
    "a reference of nothing": ("transformer/config.json", lambda c: c["schedules"][0].update(reference=[0, 0])),
    "a negative reference": ("transformer/config.json", lambda c: c["schedules"][0].update(reference=[-8, 8])),
    "no grid": ("transformer/config.json", lambda c: c["schedules"][0].update(grids=[])),
    "a grid of nothing": ("transformer/config.json", lambda c: c["schedules"][0]["grids"].insert(1, [0, 1])),
    "a grid of one side": ("transformer/config.json", lambda c: c["schedules"][0]["grids"].append([9])),
    "many scales": ("transformer/config.json", lambda c: c["schedules"][0].update(grids=[[1, 1]] * 1000)),
    "many tokens": ("transformer/config.json", lambda c: c["schedules"][0].update(grids=[[1, 1], [4096, 4096]])),
    "more scales than rows": ("transformer/config.json", lambda c: c.update(max_scales=2)),
    "many schedules": ("transformer/config.json", lambda c: c.update(schedules=c["schedules"] * 5000)),
    "a width of 10^9": ("transformer/config.json", lambda c: c.update(width=10**9)),
    "a negative width": ("transformer/config.json", lambda c: c.update(width=-256)),
    "the largest sizes": ("transformer/config.json", lambda c: c.update(depth=256, width=65536, num_heads=1024)),
    "10^7 blocks": ("transformer/config.json", lambda c: c.update(depth=10**7)),
    "a width that is text": ("transformer/config.json", lambda c: c.update(width="wide")),
    "an infinite width": ("transformer/config.json", lambda c: c.update(width=float("inf"))),
    "a tokenizer of the largest sizes": (
        "image_tokenizer/config.json",
        lambda c: c.update(base_channels=4096, channel_multipliers=[64, 64], res_blocks=64),
    ),
    "10^9 channels": ("image_tokenizer/config.json", lambda c: c.update(base_channels=10**9)),
    "a negative patch": ("image_tokenizer/config.json", lambda c: c.update(pixel_patch=-2)),
    "a text encoder of 10^7 layers": ("text_encoder/config.json", lambda c: c.update(num_hidden_layers=10**7)),
    "a text encoder of no layer": ("text_encoder/config.json", lambda c: c.update(num_hidden_layers=0)),
    "256 wide layers": (
        "text_encoder/config.json",
        lambda c: c.update(num_hidden_layers=256, hidden_size=65520, num_attention_heads=12),
    ),
    "10^12 words": ("text_encoder/config.json", lambda c: c.update(vocab_size=HUGE)),
    "a vocabulary too small for its ids": ("text_encoder/config.json", lambda c: c.update(vocab_size=10)),
    "10^9 positions": ("text_encoder/config.json", lambda c: c.update(max_position_embeddings=10**9)),
    "a name of a megabyte": ("model_index.json", lambda c: c.update(name="x" * 10**6)),
    "another format": ("model_index.json", lambda c: c.update(format=2)),
    "a hidden state of 10^9": ("text_encoder/bitvar.json", lambda c: c.update(hidden_states=[10**9])),
}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def load(folder: Path) -> None:
    load_folder(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("name", list(PARTS))
def test_a_hostile_configuration_is_refused_at_once(name: str, model: Path) -> None:
    file, change = PARTS[name]
    values = json.loads((model / file).read_text())
    change(values)
    (model / file).write_text(json.dumps(values))
    write_manifest(model)
    began = time.perf_counter()
    with pytest.raises(WeightsError, match="why:"):
        load(model)
    assert time.perf_counter() - began < 10  # a second, on a machine that does nothing else


def bomb(pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}


VOCABULARIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "repeats of repeats": lambda v: v.update(normalizer=bomb("(a+)+$")),
    "10^9 repeats": lambda v: v.update(normalizer=bomb("a{1000000000}")),
    "many repeats": lambda v: v.update(normalizer=bomb("a*a*a*a*a*a*b")),
    "repeats of repeats of repeats": lambda v: v.update(normalizer=bomb("((a{100}){100}){100}")),
    "a pattern inside a sequence": lambda v: v.update(
        normalizer={"type": "Sequence", "normalizers": [bomb("(x+x+)+y")]}
    ),
    "a pattern that splits": lambda v: v.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a|a)*b"}, "behavior": "Isolated", "invert": False}
    ),
    "an id that is too large": lambda v: v["model"]["vocab"].update(zzz=10**9),
    "an id that is negative": lambda v: v["model"]["vocab"].update(zzz=-1),
    "an id that is text": lambda v: v["model"]["vocab"].update(zzz="7"),
    "an added word beyond": lambda v: v["added_tokens"].append({"id": 99999, "content": "x"}),
    "no vocabulary": lambda v: v.update(model={}),
    "a model of a kind that nobody knows": lambda v: v["model"].update(type="Evil"),
    "many added words": lambda v: v.update(added_tokens=[{"id": 1, "content": "x"}] * 20_000),
}


@pytest.mark.parametrize("name", list(VOCABULARIES))
def test_a_hostile_vocabulary_is_refused(name: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = model / "text_encoder" / "tokenizer.json"
    values = json.loads(path.read_text())
    VOCABULARIES[name](values)
    path.write_text(json.dumps(values))
    write_manifest(model)
    with pytest.raises(WeightsError):
        load(model)
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("pattern", [" {2,}", r"\s+", "[a-z]+", "^ ", "abc", r"\p{L}", "a{0,3}", r"\(x\)", r"\n"])
def test_simple_patterns_pass(pattern: str) -> None:
    assert is_simple_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a)", "a+b+", "a{999}", "a{1,99999999999}", "x" * 100, "(?:a*)*", "[a-z]+[a-z]+$"]
)
def test_other_patterns_are_refused(pattern: str) -> None:
    assert not is_simple_pattern(pattern)


@pytest.mark.parametrize(
    ("grids", "reference"),
    [
        (((1, 1), (0, 2)), (4, 4)),
        (((1, 1), (2, 2)), (0, 0)),
        (((1, 1), (2, 2)), (-4, 4)),
        (((1, 1), (10**12, 10**12)), (4, 4)),
        (((1, 1), (4096, 4096)), (4, 4)),
        (((1, 1),) * 65, (4, 4)),
    ],
)
def test_a_schedule_has_bounds(grids: Any, reference: Any) -> None:
    with pytest.raises(UsageError):
        ScaleSchedule(grids, reference)
