"""The schema of a request is true: what it admits is planned, and what is planned it admits."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.fields import DESCRIPTIONS, ImagesRequest, parse_images_request
from bitvar.serving.http.plan import plan_images
from bitvar.serving.http.schema import json_schema
from tests.support.json_schemas import admits
from tests.support.recorded_requests import GENERATIONS, large_card, small_card

SMALL = small_card()
ALPHA = large_card(alpha=True, adapters=("ink", "wash"))


def test_the_schema_names_and_explains_every_field() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(DESCRIPTIONS) == set(ImagesRequest.model_fields)
    assert schema["required"] == ["prompt"]
    assert schema["additionalProperties"] is False
    assert all(values["description"] for values in schema["properties"].values())
    assert "$ref" not in json.dumps(schema)


def test_schemas_share_nothing_that_a_caller_could_change() -> None:
    before = copy.deepcopy(json_schema())
    for values in json_schema(SMALL)["properties"].values():
        values.clear()
    json_schema()["allOf"][0].clear()
    assert json_schema() == before


SCHEMAS = {"small": (SMALL, json_schema(SMALL)), "alpha": (ALPHA, json_schema(ALPHA))}
GENERAL = json_schema()
INEXPRESSIBLE = {"size", "width", "height", "exact_native"}
"""Parameters about which a schema can't say everything."""


def planned(values: dict[str, Any], card: ModelCard) -> ApiError | None:
    """The error that refuses a body; None if it is planned."""
    try:
        plan_images(parse_images_request(values), card, job_id="job-1", answered_name="served")
    except ApiError as error:
        return error
    return None


@pytest.mark.parametrize("client", GENERATIONS)
def test_the_schema_admits_what_clients_send(client: str) -> None:
    values = GENERATIONS[client]
    assert admits(json_schema(), values)
    assert admits(SCHEMAS["small"][1], values)


NUMBERS = st.sampled_from([0, 1, 1.0, 2.5, 3, 16, 64, 100, 101, -1, 512, 2**63, True])
LISTS = st.lists(NUMBERS, max_size=5) | st.integers(1, 14).map(lambda count: [1] * count) | st.just([2, 1, 1, 1])
TEXTS = st.sampled_from(
    ["", " ", "auto", "a red circle", "png", "webp", "jpeg", "gif", "low", "hd", "xhigh", "url", "b64_json", "vivid",
     "transparent", "opaque", "512x512", "1024x1024", "1536x1024", "64x64", "0x0", "512", "x" * 300]
)  # fmt: skip
LORA = st.fixed_dictionaries(
    {}, optional={"name": st.sampled_from(["ink", "wash", "", "none"]), "scale": NUMBERS, "weight": NUMBERS}
)
ANY = st.none() | st.booleans() | NUMBERS | LISTS | TEXTS | LORA | st.lists(LORA, max_size=2)
TYPED: dict[str, st.SearchStrategy[Any]] = {
    "n": st.sampled_from([1, 2, 3, None]),
    "seed": st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=3),
    "size": st.sampled_from(["auto", None, "1024x1024", "512x512"]),
    "width": st.just(512),
    "height": st.just(512),
    "stream": st.booleans(),
    "partial_images": st.integers(0, 14),
    "output_format": st.sampled_from(["png", "webp", "jpeg", None]),
    "output_compression": st.sampled_from([0, 100, None]),
    "background": st.sampled_from(["transparent", "opaque", "auto"]),
    "response_format": st.sampled_from(["url", "b64_json"]),
    "negative_prompt": st.sampled_from(["blue", " ", "", None]),
    "guidance_scale": st.sampled_from([1, 1.0, 3, [1, 1, 1, 1], [3, 1, 1, 1], [1] * 13, [2] * 13, None]),
    "guidance_schedule": st.sampled_from([[1, 1, 1, 1], [3, 1, 1, 1], [1] * 13, [2] * 13, None]),
    "lora": LORA | st.lists(LORA, max_size=2),
}
OTHERS = [name for name in ImagesRequest.model_fields if name != "prompt"]
BODIES = st.one_of(
    st.fixed_dictionaries({"prompt": st.just("a red circle")}, optional=TYPED),
    st.fixed_dictionaries({"prompt": st.just("a red circle")}, optional=dict.fromkeys(OTHERS, ANY)),
    st.dictionaries(st.sampled_from([*ImagesRequest.model_fields, "steps", "promt"]), ANY, max_size=3),
    st.sampled_from(OTHERS).flatmap(lambda name: st.fixed_dictionaries({"prompt": st.just("a red circle"), name: ANY})),
)


@settings(max_examples=200, deadline=None)
@given(BODIES, st.sampled_from(list(SCHEMAS)))
def test_the_schema_and_the_planner_agree(values: dict[str, Any], name: str) -> None:
    card, schema = SCHEMAS[name]
    error = planned(values, card)
    if error is None:
        assert admits(schema, values)
        assert admits(GENERAL, values)
    elif admits(schema, values):
        beyond = any(words in error.message for words in ("scales", "twice", "seed lists", "JPEG"))
        beyond |= error.param == "negative_prompt" and "guidance_schedule" in values
        assert beyond or error.param in INEXPRESSIBLE, (error.param, error.message)


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ({"n": 2, "stream": True}, False),
        ({"n": 1, "stream": True}, True),
        ({"partial_images": 1}, False),
        ({"partial_images": 0, "stream": True}, True),
        ({"width": 512}, False),
        ({"width": 512, "height": 512}, True),
        ({"width": 512, "height": 512, "size": "512x512"}, False),
        ({"output_compression": 50}, False),
        ({"output_compression": 50, "output_format": "webp"}, True),
        ({"seed": [1, 2], "n": 2}, True),
        ({"width": 520, "height": 520}, False),
        ({"negative_prompt": "blue"}, False),
        ({"negative_prompt": "blue", "guidance_scale": 2}, True),
        ({"negative_prompt": "blue", "guidance_schedule": [1, 1, 1, 2]}, True),
        ({"negative_prompt": "blue", "guidance_scale": [1, 1, 1, 1]}, False),
        ({"negative_prompt": " "}, True),
        ({"background": "transparent"}, False),
        ({"lora": {"name": "ink"}}, False),
        ({"lora": []}, True),
        ({"guidance_scale": [1, 1, 1]}, False),
        ({"guidance_scale": 1, "guidance_schedule": [1, 1, 1, 1]}, False),
        ({"steps": 1}, False),
        ({"prompt": " "}, False),
    ],
    ids=repr,
)
def test_rules_across_fields_are_in_the_schema(values: dict[str, Any], valid: bool) -> None:
    body = {"prompt": "a red circle", **values}
    assert admits(SCHEMAS["small"][1], body) is valid
    assert (planned(body, SMALL) is None) is valid
