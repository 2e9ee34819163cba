"""Names of the model: its own, aliases, any, and the objects of `/v1/models`."""

import json

import pytest

from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.names import model_list, model_object, resolve_name
from tests.support.recorded_requests import small_card


@pytest.mark.parametrize("name", [None, "", "icons", "dall-e-2"])
def test_the_model_answers_to_its_name_its_aliases_and_no_name(name: str | None) -> None:
    assert resolve_name(name, served="icons", aliases=["dall-e-2"], any_model=False) == "icons"


@pytest.mark.parametrize(
    "name", ["dall-e-3", "Icons", " icons", "x" * 10_000, "\ud800"], ids=lambda name: ascii(name)[:12]
)
def test_an_unknown_name_is_not_found(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        resolve_name(name, served="icons", aliases=["dall-e-2"], any_model=False)
    error = caught.value
    assert (error.status, error.param, error.code) == (404, "model", "model_not_found")
    assert '"icons"' in error.message
    assert "--alias" in error.message
    assert "--any-model" in error.message
    assert len(error.message) < 400


def test_any_model_answers_to_every_name() -> None:
    assert resolve_name("anything", served="icons", aliases=[], any_model=True) == "icons"


def test_the_list_has_every_name_once_and_the_card_once() -> None:
    card = small_card(adapters=("ink",), examples=("a red circle",))
    answer = model_list(card, served="icons", aliases=["dall-e-2", "icons", "dall-e-2"])
    assert answer["object"] == "list"
    assert [entry["id"] for entry in answer["data"]] == ["icons", "dall-e-2"]
    for entry in answer["data"]:
        assert (entry["object"], entry["created"], entry["owned_by"]) == ("model", card.created, "bitvar")
    assert ["bitvar" in entry for entry in answer["data"]] == [True, False]
    told = json.loads(json.dumps(answer))["data"][0]["bitvar"]
    assert told["sizes"][0]["grids"][-1] == [8, 8]
    assert told["defaults"]["temperature"] == 0.25
    assert (told["adapters"], told["examples"]) == (["ink"], ["a red circle"])


def test_a_single_name_has_the_same_object() -> None:
    card = small_card()
    assert model_object("icons", card, served="icons") == model_list(card, served="icons", aliases=[])["data"][0]
