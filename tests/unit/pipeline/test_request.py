"""A request is one frozen value without tensors: it has a JSON schema, travels as JSON, and needs no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bitvar.errors import UsageError
from bitvar.pipeline import GenerationRequest, InfinityPipeline
from bitvar.sampling.constraint import PrefixBits
from bitvar.sampling.params import SamplingParams
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("request"))


def a_request() -> GenerationRequest:
    return GenerationRequest(
        prompts=("a dog", "a red circle"),
        params=SamplingParams(guidance_scale=(3.0, 2.0, 1.0), temperature=0.7, top_p=0.9),
        height=16,
        width=16,
        negative_prompt=("a cat", None),
        num_images_per_prompt=2,
        seed=(1, 2, 3, 2**63 - 1),
    )


def test_a_request_comes_back_from_json() -> None:
    request = a_request()
    text = request.model_dump_json()
    assert GenerationRequest.parse(json.loads(text), source="a test") == request
    assert json.loads(text)["params"]["guidance_scale"] == [3.0, 2.0, 1.0]


def test_a_request_has_a_schema_and_is_frozen() -> None:
    schema = GenerationRequest.model_json_schema()
    assert {"prompts", "params", "seed", "prefix"} <= set(schema["properties"])
    assert schema["$defs"]["SamplingParams"]["properties"]["top_p"]["anyOf"][0]["maximum"] == 1
    with pytest.raises(ValueError, match="frozen"):
        a_request().height = 32  # type: ignore[misc]


def test_a_request_needs_no_torch() -> None:
    code = (
        "import sys; from bitvar.pipeline.request import GenerationRequest;"
        "GenerationRequest.from_options(['a dog'], {'seed': 1, 'temperature': 0.5}, source='x').model_dump_json();"
        "GenerationRequest.model_json_schema(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_request_gives_the_images_of_the_call(pipe: InfinityPipeline) -> None:
    request = a_request()
    *_, last = pipe.stream_request(GenerationRequest.parse(json.loads(request.model_dump_json()), source="a test"))
    out = pipe(
        list(request.prompts), guidance_scale=(3.0, 2.0, 1.0), temperature=0.7, top_p=0.9, height=16, width=16,
        negative_prompt=["a cat", None], num_images_per_prompt=2, seed=(1, 2, 3, 2**63 - 1), output_type="bits",
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(last.bits, out.images, strict=True))
    assert last.metadata == out.metadata


def test_a_prefix_travels_with_the_request(pipe: InfinityPipeline) -> None:
    prefix = PrefixBits([scale[0] for scale in pipe("a dog", seed=8, output_type="bits").images[:2]])
    request = GenerationRequest(prompts=("a red circle",), seed=3).with_prefix(prefix)
    again = GenerationRequest.parse(json.loads(request.model_dump_json()), source="a test")
    *_, last = pipe.stream_request(again)
    expected = pipe("a red circle", seed=3, constraint=prefix, output_type="bits").images
    assert all(torch.equal(a, b) for a, b in zip(last.bits, expected, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "AAAAAAAA"}, "scale 1 of the prefix are damaged"),
        ({"rows": 3}, "scale 1 of the prefix are damaged"),
        ({"data": "%"}, "base64"),
        ({"rows": 0}, "rows"),
    ],
)
def test_a_damaged_prefix_is_refused(pipe: InfinityPipeline, change: dict[str, object], words: str) -> None:
    prefix = PrefixBits([scale[0] for scale in pipe("a dog", seed=8, output_type="bits").images[:2]])
    values = GenerationRequest(prompts=("a dog",), seed=3).with_prefix(prefix).model_dump(mode="json")
    values["prefix"][1] |= change
    with pytest.raises(UsageError, match=words):
        list(pipe.stream_request(GenerationRequest.parse(values, source="a test")))


@pytest.mark.parametrize("name", ["prompts", "params"])
def test_options_are_given_one_by_one(name: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown key '{name}'"):
        GenerationRequest.from_options("a dog", {name: ("a cat",)}, source="the options")


def test_settings_come_from_the_call_then_the_model_then_the_library() -> None:
    own = SamplingParams(temperature=0.5)
    model = SamplingParams(temperature=0.9, guidance_scale=2.0)
    assert own.over(model).complete() == SamplingParams(guidance_scale=2.0, temperature=0.5, top_k=0, top_p=0.0)


def test_a_module_without_such_a_name_says_so(tmp_path: Path) -> None:
    import bitvar.pipeline

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(bitvar.pipeline, "nothing")  # noqa: B009
