"""Whatever the public functions are given, an error is three lines of text; options have types that editors see."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from bitvar import arguments
from bitvar.config import Config
from bitvar.errors import UsageError, WeightsError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.control import Control
from bitvar.pipeline.request import GenerationKwargs, GenerationRequest
from bitvar.sampling.constraint import BitConstraint, PrefixBits
from bitvar.sampling.params import SamplingParams, ScaleParams
from bitvar.sampling.watermark import Watermark
from tests.support.tiny import tiny_pipeline

NAN, INF = float("nan"), float("inf")


def endless() -> Iterator[str]:
    while True:
        yield "a dog"


# Values that no argument below takes.
NEVER: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"x",
    "bytearray": lambda: bytearray(b"x"),
    "surrogate": lambda: "\ud800",
    "complex": lambda: 1j,
    "object": object,
    "dict": lambda: {"a dog": 1},
    "set": lambda: {"a dog"},
    "class": lambda: InfinityPipeline,
    "matrix": lambda: np.zeros((2, 2)),
    "matrix of text": lambda: np.array([["a dog"]]),
    "tensor": lambda: torch.zeros(2, 2),
    "scalar tensor": lambda: torch.tensor(True),
    "list of None": lambda: [None],
    "list of list": lambda: [["a dog"]],
    "list of bytes": lambda: [b"x"],
    "list of surrogates": lambda: ["\ud800"],
}
NUMBERS: dict[str, Callable[[], Any]] = {
    "five": lambda: 5,
    "float": lambda: 1.5,
    "true": lambda: True,
    "numpy true": lambda: np.True_,
    "nan": lambda: NAN,
    "inf": lambda: INF,
    "huge": lambda: 10**400,
    "digits": lambda: 10**5000,
    "array": lambda: np.array([1.5, NAN]),
}
TEXTS: dict[str, Callable[[], Any]] = {"text": lambda: "hot", "nothing": lambda: "", "nul": lambda: "\0"}

CALLS: dict[str, tuple[Callable[[InfinityPipeline, Any], Any], set[str]]] = {
    # name -> (call, those odd values that are fine there, or that a rule of its own test covers)
    "prompt": (lambda pipe, x: pipe(x), {"text", "nul"}),
    "stream": (lambda pipe, x: next(pipe.stream(x)), {"text", "nul"}),
    "encode_prompts": (lambda pipe, x: pipe.encode_prompts(x), {"text", "nul"}),
    "output_type": (lambda pipe, x: pipe("a dog", output_type=x), set()),
    "height": (lambda pipe, x: pipe("a dog", height=x, width=16), {"five"}),
    "width": (lambda pipe, x: pipe("a dog", height=16, width=x), set()),
    "guidance_scale": (lambda pipe, x: pipe("a dog", guidance_scale=x), {"five", "float"}),
    "temperature": (lambda pipe, x: pipe("a dog", temperature=x), {"five", "float"}),
    "top_k": (lambda pipe, x: pipe("a dog", top_k=x), {"five"}),
    "top_p": (lambda pipe, x: pipe("a dog", top_p=x), set()),
    "negative_prompt": (
        lambda pipe, x: pipe("a dog", negative_prompt=x, guidance_scale=2.0),
        {"text", "nothing", "nul", "list of None"},
    ),
    "num_images_per_prompt": (lambda pipe, x: pipe("a dog", num_images_per_prompt=x), {"five"}),
    "seed": (lambda pipe, x: pipe("a dog", seed=x), {"five"}),
    "constraint": (lambda pipe, x: pipe("a dog", constraint=x), {"nothing"}),
    "edit": (lambda pipe, x: pipe("a dog", edit=x), set()),
    "edit(image)": (lambda pipe, x: pipe.edit("a dog", image=x), set()),
    "edit(mask)": (lambda pipe, x: pipe.edit("a dog", image=Image.new("RGB", (16, 16)), mask=x), set()),
    "mix": (lambda pipe, x: pipe("a dog", mix=x), {"nothing"}),
    "mixed_seed": (lambda pipe, x: pipe("a dog", mixed_seed=x), set()),
    "quality": (lambda pipe, x: pipe("a dog", quality=x), set()),
    "PrefixBits": (lambda pipe, x: PrefixBits(x), {"nothing"}),
    "batch_invariant": (lambda pipe, x: pipe("a dog", batch_invariant=x), {"true"}),
    "preview": (lambda pipe, x: next(pipe.stream("a dog")).preview(x), {"five"}),
    "schedule_for": (lambda pipe, x: pipe.schedule_for(x, 16), {"five"}),
    "params_for": (lambda pipe, x: pipe.params_for(x), set()),
    "from_pretrained": (lambda pipe, x: pipe.from_pretrained(x), set()),
    "from_pretrained(revision)": (lambda pipe, x: pipe.from_pretrained("no/where/at-all", revision=x), set()),
    "from_pretrained(tokenizer)": (lambda pipe, x: pipe.from_pretrained(tokenizer=x), set()),
    "from_pretrained(dtype)": (lambda pipe, x: pipe.from_pretrained(dtype=x), set()),
    "from_pretrained(device)": (lambda pipe, x: pipe.from_pretrained(device=x), set()),
    "to(device)": (lambda pipe, x: pipe.to(x), set()),
    "to(dtype)": (lambda pipe, x: pipe.to(dtype=x), set()),
    "save_pretrained": (lambda pipe, x: pipe.save_pretrained(x), {"text"}),
    "load_lora_weights": (lambda pipe, x: pipe.load_lora_weights(x), set()),
    "load_lora_weights(name)": (lambda pipe, x: pipe.load_lora_weights("no.safetensors", x), set()),
    "load_lora_weights(revision)": (lambda pipe, x: pipe.load_lora_weights("no.safetensors", revision=x), set()),
    "set_adapters": (lambda pipe, x: pipe.set_adapters(x), set()),
    "set_adapters(weights)": (lambda pipe, x: pipe.set_adapters(["one"], x), set()),
    "delete_adapters": (lambda pipe, x: pipe.delete_adapters(x), set()),
    "fuse_lora": (lambda pipe, x: pipe.fuse_lora(lora_scale=x), set()),
    "InfinityPipeline": (lambda pipe, x: InfinityPipeline(x), set()),
    "SamplingParams(guidance_scale)": (lambda pipe, x: SamplingParams(guidance_scale=x), {"five", "float"}),
    "SamplingParams(temperature)": (lambda pipe, x: SamplingParams(temperature=x), {"five", "float"}),
    "SamplingParams(top_k)": (lambda pipe, x: SamplingParams(top_k=x), {"five"}),
    "SamplingParams(top_p)": (lambda pipe, x: SamplingParams(top_p=x), set()),
}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("arguments"))


@pytest.fixture(autouse=True)
def as_users_meet_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the tests' own checks of types, which would speak first; in a folder that holds nothing."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("call", CALLS)
def test_odd_values_are_refused_in_three_lines(pipe: InfinityPipeline, call: str, tmp_path: Path) -> None:
    function, fine = CALLS[call]
    for name, make in {**NEVER, **NUMBERS, **TEXTS}.items():
        if name in fine:
            continue
        with pytest.raises((UsageError, WeightsError)) as caught:
            function(pipe, make())
            pytest.fail(f"{call}: {name} was taken")
        lines = str(caught.value).splitlines()
        assert len(lines) in (2, 3), (name, lines)
        assert lines[-1].startswith("  do:  "), (name, lines)
        assert len(lines) == 2 or lines[1].startswith("  why: "), (name, lines)
        assert all(line.isprintable() and len(line) < 300 for line in lines), (name, lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "value"),
    [
        *[
            ("prompt", None),
            ("encode_prompts", None),
            ("stream", None),
            ("output_type", None),
            ("save_pretrained", None),
        ],
        *[("load_lora_weights", None), ("set_adapters", None), ("params_for", None), ("fuse_lora", None)],
        *[("from_pretrained(dtype)", None), ("from_pretrained(device)", None), ("InfinityPipeline", None)],
        *[("batch_invariant", None), ("num_images_per_prompt", None), ("PrefixBits", None), ("schedule_for", None)],
        *[("height", 0), ("height", 64.0), ("height", -1), ("guidance_scale", []), ("guidance_scale", [1.0, 2.0])],
        *[("guidance_scale", [1.0, 2.0, NAN]), ("temperature", [True]), ("temperature", -INF), ("top_p", -0.1)],
        *[("seed", -1), ("seed", 2**63), ("seed", [1, 2]), ("seed", []), ("seed", [1.0]), ("seed", "7")],
        *[
            ("prompt", []),
            pytest.param("prompt", endless(), id="prompt-endless"),
            ("prompt", ["a dog", 5]),
            ("prompt", np.array("a dog")),
        ],
        *[("negative_prompt", ["a", "b"]), ("negative_prompt", []), ("PrefixBits", [np.zeros((4, 1, 1), bool)])],
        *[("PrefixBits", torch.zeros(4, 1, dtype=torch.bool)), ("save_pretrained", "")],
    ],
    ids=lambda value: str(value)[:40],
)
def test_more_odd_values(pipe: InfinityPipeline, call: str, value: Any) -> None:
    with pytest.raises((UsageError, WeightsError), match=r"(\n  why: .*)?\n  do:  "):
        CALLS[call][0](pipe, value)


@pytest.mark.parametrize(
    "prompts",
    [["a dog", "a cat"], ("a dog", "a cat"), np.array(["a dog", "a cat"]), (text for text in ("a dog", "a cat"))],
    ids=["list", "tuple", "array", "generator"],
)
def test_prompts_come_in_any_ordered_collection(pipe: InfinityPipeline, prompts: Any) -> None:
    out = pipe(prompts, seed=1)
    assert [(entry["prompt"], type(entry["prompt"])) for entry in out.metadata] == [("a dog", str), ("a cat", str)]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[
            ("seed", "x"),
            ("seed", [1, None]),
            ("guidance_scale", "x"),
            ("temperature", [1, "x"]),
            ("negative_prompt", 5),
        ],
        *[("negative_prompt", ["a", 5]), ("num_images_per_prompt", 0), ("height", 1.5), ("top_p", 2)],
    ],
    ids=str,
)
def test_errors_name_the_option_alone(pipe: InfinityPipeline, option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(UsageError, match=f"Bad value for '{option}' in the options of this call"):
        pipe("a dog", **options)


def test_errors_of_nested_configurations_name_no_members_of_unions() -> None:
    class Inner(Config):
        size: int | tuple[int, ...]

    class Outer(Config):
        inner: Inner | None = None
        sizes: dict[str, tuple[int, ...] | None] | None = None

    for values, place in (
        ({"inner": {"size": "x"}}, "'inner.size'"),
        ({"inner": {"size": [1, "x"]}}, r"'inner.size(\.1)?'"),
        ({"inner": {}}, "'inner.size'"),
        ({"inner": {"size": {}}}, "'inner.size'"),
        ({"sizes": {"a": [1, "x"]}}, r"'sizes.a.1'"),
        ({"inner": 5}, "'inner'"),
    ):
        with pytest.raises(UsageError, match=f"Bad value for {place} in a test"):
            Outer.parse(values, source="a test")


@pytest.mark.parametrize("count", [1025, 10**9, 10**30])
def test_a_call_is_bounded(pipe: InfinityPipeline, count: int) -> None:
    with pytest.raises(UsageError, match=r"num_images_per_prompt[\s\S]*1024"):
        pipe("a dog", num_images_per_prompt=count)


def test_all_prompts_together_are_bounded(pipe: InfinityPipeline) -> None:
    with pytest.raises(UsageError, match=r"3 prompts of 1,000 images[\s\S]*1,024 images[\s\S]*call several times"):
        pipe(["a dog"] * 3, num_images_per_prompt=1000)
    with pytest.raises(UsageError, match="at most 1,024"):
        pipe(["a dog"] * 1025)


def test_typed_keywords_are_the_options() -> None:
    names = {"BitConstraint": BitConstraint, "Watermark": Watermark, "Control": Control, "Image": Image.Image}
    kinds = get_type_hints(GenerationKwargs, localns=names)
    known = {*GenerationRequest.model_fields, *ScaleParams._fields} - {"prompts", "params", "prefix"}
    assert set(kinds) == {*known, "constraint", "watermark", "control"}
    for function in (InfinityPipeline.__call__, InfinityPipeline.stream):
        assert "GenerationKwargs" in str(function.__annotations__["options"])
    documented = f"{GenerationRequest.__doc__} {SamplingParams.__doc__} {InfinityPipeline.__call__.__doc__}"
    assert all(name in documented for name in kinds)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 100, "'" + "x" * 59 + "..."),
        ("a\nb\ud800", r"'a\nb\ud800'"),
        (torch.zeros(2), "a Tensor of torch.float32 and shape (2,)"),
        (object(), "a object"),
        (10**5000, "a number of thousands of digits"),
    ],
    ids=["long", "lines", "tensor", "object", "digits"],
)
def test_values_are_shown_on_one_short_line(value: Any, expected: str) -> None:
    assert arguments.shown(value) == expected
