"""Fields of a request: every one of OpenAI's is known, wrong values are refused by name, and nothing is coerced."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitvar.serving.http.errors import ApiError, envelope
from bitvar.serving.http.field_names import REFUSED
from bitvar.serving.http.fields import ImagesRequest, LoraChoice, parse_images_request
from tests.support.recorded_requests import GENERATIONS

SECRET = "a very private prompt"


def refused(**values: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_images_request({"prompt": SECRET, **values})
    error = caught.value
    assert error.status == 400
    assert SECRET not in error.message
    assert len(json.dumps(envelope(error)).encode()) < 4096
    assert "x" * 81 not in json.dumps(envelope(error))
    return error


@pytest.mark.parametrize("client", GENERATIONS)
def test_what_clients_send_is_read_as_it_is(client: str) -> None:
    body = GENERATIONS[client]
    request = parse_images_request(json.loads(json.dumps(body)))
    expected = {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    assert {name: getattr(request, name) for name in body} == expected
    assert all(value is None for name, value in request if name not in body)


def test_every_extension_is_read() -> None:
    request = parse_images_request(
        {
            "prompt": "a red circle",
            "seed": 2**63 - 1,
            "negative_prompt": "blue",
            "guidance_scale": [3, 2.5],
            "temperature": 0.5,
            "top_k": 1,
            "top_p": 0.9,
            "width": 512,
            "height": 256,
            "lora": [{"name": "ink", "scale": -0.5}, {"name": "wash"}],
            "preview_size": 64,
            "exact_native": True,
        }
    )
    assert request.seed == 2**63 - 1
    assert request.guidance_scale == (3.0, 2.5)
    assert request.lora == (LoraChoice(name="ink", scale=-0.5), LoraChoice(name="wash"))
    assert parse_images_request({"prompt": "a", "lora": {"name": "ink"}}).lora == LoraChoice(name="ink")
    assert parse_images_request({"prompt": "a", "guidance_schedule": [1]}).guidance_schedule == (1.0,)


def test_a_whole_float_is_an_integer_as_in_json_schema() -> None:
    request = parse_images_request({"prompt": "a", "n": 2.0, "seed": [1.0, 2], "partial_images": 0.0})
    assert (request.n, request.seed, request.partial_images) == (2, (1, 2), 0)
    assert type(request.n) is int


def test_a_request_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_images_request({"prompt": "a"}).n = 2  # type: ignore[misc]


HUGE = 10**5000
WRONG: dict[str, list[Any]] = {
    "prompt": [1, True, [], {}, "x" * 32_001, ["a"]],
    "model": [1, "x" * 257, []],
    "n": ["2", 0, 11, 1.5, True, -1, HUGE, [1], 1e300, float("nan"), float("inf")],
    "size": [1024, "1024", "large", "1024*1024", "x" * 5000, [1024, 1024]],
    "quality": ["best", "", "Low", 1, "xhigh", "max", "x" * 5000],
    "output_format": ["gif", "svg", "jpg", "PNG", 1],
    "output_compression": [-1, 101, "100", 0.5],
    "background": ["white", False],
    "moderation": ["none", "high", 0],
    "stream": ["true", 1, 0, "yes", []],
    "partial_images": [-1, 64, "3", True],
    "response_format": ["base64", "b64", 1],
    "style": ["photo", 1],
    "user": [1, "x" * 257, {}],
    "safety_identifier": [1, "x" * 257],
    "seed": [-1, 2**63, "1", 1.5, [], [1] * 11, [-1], ["1"], [True], [[1]], HUGE, 2.0**63, [1] * 100_000],
    "negative_prompt": [1, ["a"], "x" * 32_001],
    "guidance_scale": ["3", -1, 101, [], [3, "3"], [3] * 65, True, {}, HUGE, float("nan"), [1] * 100_000],
    "guidance_schedule": [3, [], [101], "3", [True]],
    "width": [0, "512", 3841, 1.5],
    "height": [0, "512", 3841, True],
    "lora": [
        "ink", 1, {}, {"name": ""}, {"name": 1}, {"name": "ink", "scale": "1"}, {"name": "ink", "scale": 101},
        {"name": "ink", "weight": 1}, {"name": "ink", "scale": 1, "path": "/etc/passwd"}, [{"name": "ink"}] * 9,
        ["ink"], [[]], {"name": "x" * 201}, {f"key{i}": 1 for i in range(10_000)},
    ],
    "temperature": [-0.1, "1", 101, [], [1, None]],
    "top_k": [-1, 1_000_001, 1.5, "1", True],
    "top_p": [-0.1, 1.1, "1", [0.5], True],
    "preview_size": [15, 4097, "64"],
    "exact_native": ["true", 1],
}  # fmt: skip


def test_the_table_of_wrong_values_names_every_field() -> None:
    assert set(WRONG) == set(ImagesRequest.model_fields)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_by_name(name: str) -> None:
    for value in WRONG[name]:
        error = refused(**{name: value})
        assert (error.param, error.code) == (name, "invalid_value"), ascii(value)[:50]
        assert error.message.startswith(name)


def test_a_refused_value_says_why() -> None:
    assert "largest" in refused(quality="xhigh").message
    assert "still images" in refused(output_format="gif").message
    assert "not shapes" in refused(output_format="svg").message
    assert "called jpeg" in refused(output_format="jpg").message
    assert refused(n="2").message == 'n must be a whole number from 1 to 10, got "2".'
    assert "got 32,001 characters" in refused(negative_prompt="x" * 32_001).message


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000"])
def test_a_blank_prompt_is_refused(text: str) -> None:
    error = refused(prompt=text)
    assert (error.param, error.code) == ("prompt", "invalid_value")
    assert "blank" in error.message


@pytest.mark.parametrize("values", [{}, {"prompt": None}, {"n": 1}])
def test_a_missing_prompt_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        parse_images_request(values)
    assert (caught.value.status, caught.value.param) == (400, "prompt")
    assert caught.value.code == "missing_required_parameter"


def test_a_prompt_may_be_as_long_as_upstream_says() -> None:
    assert len(parse_images_request({"prompt": "\u00e9" * 32_000}).prompt) == 32_000


@pytest.mark.parametrize("name", REFUSED)
def test_fields_of_other_servers_are_refused_with_a_hint(name: str) -> None:
    for value in (1, None, "x" * 5000):
        error = refused(**{name: value})
        assert (error.param, error.code) == (name, "unsupported_parameter")
        assert REFUSED[name] in error.message
        assert error.message.count("\n") == 0


def test_every_field_that_the_design_refuses_is_known() -> None:
    named = "complexity svg frame_count frame_duration_ms num_inference_steps steps true_cfg_scale flow_shift"
    assert {*named.split(), "generator_device", "strength", "image", "url"} <= set(REFUSED)
    assert not set(REFUSED) & set(ImagesRequest.model_fields)
    assert "scales, not in steps" in refused(steps=20).message
    assert "guidance_scale" in refused(true_cfg_scale=4).message
    assert "fetches no URL" in refused(url="http://169.254.169.254/").message


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("promt", "prompt"),
        ("Prompt", "prompt"),
        ("guidance_scales", "guidance_scale"),
        ("response-format", "response_format"),
        ("negativePrompt", "negative_prompt"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest(name: str, near: str) -> None:
    error = refused(**{name: 1})
    assert (error.param, error.code) == (name, "unknown_parameter")
    assert f"did you mean {near}?" in error.message


@pytest.mark.parametrize("name", ["", "zzz", "x" * 100_000, "\ud800", "\x00"], ids=lambda name: ascii(name[:9]))
def test_any_other_field_is_refused_with_the_known_ones(name: str) -> None:
    error = refused(**{name: 1})
    assert error.code == "unknown_parameter"
    assert "temperature" in error.message


def test_a_thousand_unknown_fields_are_refused_at_the_first() -> None:
    assert refused(**{f"field_{i}": 1 for i in range(100_000)}).param == "field_0"


def test_reading_fields_needs_no_torch() -> None:
    code = (
        "import sys; import bitvar.serving.http.answers, bitvar.serving.http.body, bitvar.serving.http.names;"
        "from bitvar.serving.http.schema import json_schema; json_schema(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["auto", "1024x1024", "png"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("name"), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*ImagesRequest.model_fields, *sorted(REFUSED)]) | st.text(max_size=20)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6))
@example({"prompt": "a", "seed": HUGE})
@example({"prompt": "\ud800"})
@example({"prompt": "a", "lora": {"\ud800": 1}})
def test_any_values_are_read_or_refused(values: dict[str, Any]) -> None:
    try:
        assert isinstance(parse_images_request({"prompt": "a", **values}), ImagesRequest)
    except ApiError as error:
        assert 400 <= error.status < 500
        assert len(json.dumps(envelope(error)).encode()) < 4096
