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
