"""Strict configuration: unknown keys, overrides, JSON, frozenness, and the settings of a call."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, ValidationError

from bitvar.config import Config
from bitvar.errors import UsageError
from bitvar.pipeline.request import GenerationRequest
from bitvar.tokenizer import TokenizerConfig
from bitvar.training.config import OptimizationConfig, TokenizerTraining, TransformerTraining
from bitvar.transformer import PRESETS, InfinityTransformer, ScheduleConfig, TransformerConfig


class Engine(Config):
    power: int = Field(default=5, gt=0)
    gears: tuple[int, ...] = (1, 2)


class Car(Config):
    name: str
    engine: Engine = Engine()
    weight: float | None = None


CAR = Car(name="a car")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "wieght": 1}, r"key 'wieght' in here[\s\S]*did you mean 'weight'"),
        ({"name": "x", "engine": {"powr": 1}}, r"key 'engine.powr' in here[\s\S]*did you mean 'power'"),
        ({"name": "x", "zzz": 1}, r"key 'zzz'[\s\S]*known: engine, gears, name, power, weight"),
        ({"name": "x", "engine": {"power": 0}}, r"Bad value for 'engine.power' in here[\s\S]*greater than 0"),
        ({"name": "x", "engine": {"power": "much"}}, r"Bad value for 'engine.power'[\s\S]*valid integer"),
        ({}, r"Bad value for 'name'[\s\S]*required"),
    ],
)
def test_a_wrong_key_or_value_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Car.parse(values, source="here")


@pytest.mark.parametrize(
    ("setting", "path", "expected"),
    [
        ("name=a lorry", ("name",), "a lorry"),
        ('name="12"', ("name",), "12"),
        ("engine.power=9", ("engine", "power"), 9),
        ("engine.gears=[3,4,5]", ("engine", "gears"), (3, 4, 5)),
        ("weight=2.5", ("weight",), 2.5),
        ("weight=null", ("weight",), None),
        ("name=a=b", ("name",), "a=b"),
        ('engine={"power": 7}', ("engine", "power"), 7),
    ],
)
def test_overrides_replace_one_value(setting: str, path: tuple[str, ...], expected: Any) -> None:
    value: Any = CAR.override([setting])
    for name in path:
        value = getattr(value, name)
    assert value == expected
    assert CAR.model_dump() == Car(name="a car").model_dump()


def test_overrides_apply_in_order_and_none_is_the_same() -> None:
    assert CAR.override(["engine.power=1", "engine.power=2"]).engine.power == 2
    assert CAR.override([]) == CAR


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("name", r"The setting 'name' has no '='[\s\S]*write key=value"),
        ("nam=x", r"Unknown key 'nam'[\s\S]*did you mean 'name'"),
        ("engine.powr=1", r"Unknown key 'engine.powr'[\s\S]*did you mean 'power'"),
        ("engin.power=1", r"Unknown key 'engin.power'[\s\S]*called 'engin'[\s\S]*did you mean 'engine'"),
        ("name.power=1", r"Unknown key 'name.power'"),
        ("engine.power=-1", r"Bad value for 'engine.power'"),
        ("engine.power=much", r"Bad value for 'engine.power'"),
        ("engine=3", r"Bad value for 'engine'"),
        ("=3", r"Unknown key ''"),
    ],
)
def test_a_wrong_override_is_named(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CAR.override([setting])


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CAR.name = "another"  # type: ignore[misc]


def small_trainings() -> list[Config]:
    tokenizer = TokenizerConfig(bits=4, base_channels=8, channel_multipliers=(1, 2), norm_groups=4)
    schedule = ScheduleConfig(grids=((1, 1), (3, 2)), reference=(6, 4))
    transformer = TransformerConfig(depth=1, width=16, num_heads=2, bits=4, schedules=(schedule,), budgets=("1M",))
    optimization = OptimizationConfig(steps=3, batch_size=2, learning_rate=1e-3)
    return [
        TokenizerTraining(model=tokenizer, schedules=(((1, 1), (2, 2)),), optimization=optimization, truncation=0.25),
        TransformerTraining(model=transformer, optimization=optimization, reweighted=True),
    ]


@pytest.mark.parametrize("config", [CAR, *PRESETS.values(), *small_trainings()], ids=lambda c: type(c).__name__)
def test_json_round_trip(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(config.dump(), encoding="utf-8")
    assert type(config).load(path) == config
    assert config.dump().endswith("}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "There is no"),
        ("{", "it is not JSON"),
        ("[1]", "doesn't hold a JSON object"),
        ('{"name": 3}', "Bad value for 'name'"),
    ],
)
def test_an_unreadable_file_is_explained(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "car.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        Car.load(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "car.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match="it is not JSON"):
        Car.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_channels": 12}, "norm_groups 8 must divide the 12"),
        ({"code_norms": []}, "at least 1 item"),
        ({"code_norms": [1, 0]}, "greater than 0"),
        ({"channel_multipliers": ()}, "at least 1"),
        ({"bits": 129}, "less than or equal to 128"),
        ({"res_blocks": 0}, "greater than or equal to 1"),
        ({"image_channels": 17}, "less than or equal to 16"),
    ],
)
def test_tokenizer_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    sizes: dict[str, Any] = {"bits": 4, "base_channels": 8, "channel_multipliers": (1, 2), "norm_groups": 8}
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**(sizes | changes))


def test_a_tokenizers_stride_follows_its_levels() -> None:
    config = TokenizerConfig(bits=4, base_channels=8, channel_multipliers=(1, 2, 4), norm_groups=8)
    assert config.channels == (8, 16, 32)
    assert config.stride == 4


def test_the_presets_build_the_models_they_name() -> None:
    with torch.device("meta"):
        model = InfinityTransformer(PRESETS["125M"].override(["depth=1"]))
    assert len(model.blocks) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "'height'"),
        ({"width": -1}, "'width'"),
        ({"top_k": -1}, "'top_k'"),
        ({"top_p": 1.5}, "'top_p'"),
        ({"num_images_per_prompt": 0}, "'num_images_per_prompt'"),
        ({"seed": -1}, r"'seed'[\s\S]*between 0 and 2\^63"),
        ({"seed": (1, 2**63)}, r"'seed'[\s\S]*between 0 and 2\^63"),
        ({"guidance": 3}, r"Unknown key 'guidance'[\s\S]*did you mean 'guidance_scale'"),
        ({"negative_prompts": "x"}, r"did you mean 'negative_prompt'"),
        ({"temperature": "hot"}, "temperature"),
        ({"prefix": (1,)}, "prefix"),
    ],
)
def test_options_of_a_call_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerationRequest.from_options("a dog", options, source="the options of this call")


def test_overriding_reads_json_before_text() -> None:
    assert json.loads(CAR.override(["name=true story"]).dump())["name"] == "true story"
    with pytest.raises(UsageError, match="Bad value for 'name'"):
        CAR.override(["name=true"])


@pytest.mark.parametrize("grids", [[], [[1, 1], [0, 2]], [[2, 2], [1, 4]]])
def test_grids_of_a_tokenizer_run_go_from_coarse_to_fine(grids: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="coarse to fine"):
        small_trainings()[0].override([f"schedules={[grids]}"])


@pytest.mark.parametrize("text", ["[" * 3000, "9" * 5000, '{"a":' * 3000], ids=["lists", "digits", "objects"])
def test_settings_too_deep_or_too_long_for_json_are_texts(text: str) -> None:
    class Steps(Config):
        steps: int = 5

    with pytest.raises(UsageError, match="steps"):
        Steps().override([f"steps={text}"])
