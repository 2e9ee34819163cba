"""Plans: what each client's request becomes, and every rule that needs the model."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.sampling.params import SamplingParams
from bitvar.serving.engine.job import AdapterChoice, Job
from bitvar.serving.engine.model_card import ModelCard
from bitvar.serving.http.errors import ApiError, envelope
from bitvar.serving.http.fields import ImagesRequest, parse_images_request
from bitvar.serving.http.plan import Plan, plan_images
from tests.support.recorded_requests import GENERATIONS, large_card, small_card

LARGE, SMALL = large_card(), small_card()


def planned(card: ModelCard = LARGE, **values: Any) -> Plan:
    request = parse_images_request({"prompt": "a red circle", **values})
    return plan_images(request, card, job_id="job-1", answered_name="served")


def refused(param: str, card: ModelCard = LARGE, **values: Any) -> str:
    with pytest.raises(ApiError) as caught:
        planned(card, **values)
    error = caught.value
    assert (error.status, error.param, error.code) == (400, param, "invalid_value")
    assert len(json.dumps(envelope(error)).encode()) < 4096
    return error.message


# client: n, size of the file, native size on the large model, format, quality of the encoder, answer, previews
EXPECTED = {
    "openai for Python": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", None),
    "openai for Python, all fields": (2, "1536x1024", "1248x832", "webp", 80, "b64_json", None),
    "openai for Python, stream": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", 3),
    "openai for Python, extra_body": (2, "1024x1024", "1024x1024", "png", 100, "b64_json", None),
    "openai for npm, stream": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", 2),
    "AI SDK, openai provider": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", None),
    "AI SDK, compatible provider": (3, "512x512", "512x512", "png", 100, "b64_json", None),
    "LangChain JS": (1, "1024x1024", "1024x1024", "png", 100, "url", None),
    "langchain-community": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", None),
    "LiteLLM": (1, "256x256", "256x256", "png", 100, "b64_json", None),
    "Open WebUI": (1, "512x512", "512x512", "png", 100, "b64_json", None),
    "Open WebUI, gpt-image": (1, "512x512", "512x512", "png", 100, "b64_json", None),
    "Open WebUI, not configured": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", None),
    "LibreChat": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", None),
    "LibreChat, webp": (1, "1024x1024", "1024x1024", "webp", 70, "b64_json", None),
    "a fork of LibreChat, stream": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", 3),
    "nulls": (1, "1024x1024", "1024x1024", "png", 100, "b64_json", None),
}


def test_the_table_has_every_client() -> None:
    assert set(EXPECTED) == set(GENERATIONS)


@pytest.mark.parametrize("client", GENERATIONS)
def test_what_clients_send_is_planned(client: str) -> None:
    n, size, native, output_format, quality, answer, previews = EXPECTED[client]
    plan = planned(LARGE, **GENERATIONS[client])
    job = plan.job
    assert job.request.prompts == ("a red circle",)
    assert (job.request.num_images, len(set(plan.seeds))) == (n, n)
    assert (plan.size, f"{job.request.width}x{job.request.height}") == (size, native)
    assert job.output.size == (None if size == native else tuple(map(int, size.split("x"))))
    assert (plan.output_format, job.output.format, job.output.quality) == (output_format, output_format, quality)
    assert (plan.response_format, plan.stream, job.previews.count) == (answer, previews is not None, previews or 0)
    assert (plan.background, plan.model, job.id) == ("opaque", "served", "job-1")


@pytest.mark.parametrize("client", GENERATIONS)
def test_what_clients_send_is_planned_for_a_small_model_too(client: str) -> None:
    plan = planned(SMALL, **GENERATIONS[client])
    asked = EXPECTED[client][1] if GENERATIONS[client].get("size") not in (None, "auto") else "64x64"
    assert (plan.size, plan.quality) == (asked, "low")
    assert (plan.native_size.width, plan.native_size.height) == (64, 64)


def test_a_plan_says_what_it_ignores() -> None:
    plan = planned(SMALL, **GENERATIONS["LangChain JS"])
    assert plan.warnings == (
        "style has no effect on this model.",
        "quality standard has no effect here: the model draws at 64x64, which is low.",
    )
    assert planned(LARGE, **GENERATIONS["AI SDK, openai provider"]).warnings == ()
    assert planned(LARGE, quality="high", size="1024x1024").warnings == ()
    assert "33 % of the image is cropped" in planned(SMALL, size="1536x1024").warnings[0]
    assert planned(LARGE, size="1536x864").warnings == ()
    assert "preview_size" in planned(preview_size=64).warnings[0]
    assert planned(stream=True, partial_images=1, preview_size=64).warnings == ()


def test_a_job_travels_as_json() -> None:
    job = planned(**GENERATIONS["openai for Python, extra_body"]).job
    assert Job.parse(json.loads(job.dump()), source="a test") == job
    assert job.request.params == SamplingParams(guidance_scale=3.0)
    assert job.request.negative_prompt == "blue"


def test_seeds_are_fixed_by_the_plan() -> None:
    plan = planned(n=4)
    first = plan.seeds[0]
    assert plan.job.request.seed == tuple(range(first, first + 4)) == plan.seeds
    assert planned(n=4).seeds != plan.seeds
    assert planned(n=3, seed=42).job.request.seed == (42, 43, 44)
    assert planned(n=2, seed=[9, 9]).seeds == (9, 9)
    assert planned(n=2, seed=2**63 - 1).seeds == (2**63 - 1, 0)
    assert "lists 2, and n asks for 3" in refused("seed", n=3, seed=[1, 2])
    refused("seed", seed=[1, 2])


def test_quality_is_echoed_as_what_was_drawn() -> None:
    assert [planned(quality=name).size for name in ("low", "medium", "high")] == ["256x256", "512x512", "1024x1024"]
    assert [planned(quality=name).quality for name in ("standard", "hd", "auto", "low")] == [
        "medium",
        "high",
        "high",
        "low",
    ]
    assert planned(quality="low", size="1024x1024").quality == "high"
    assert planned(quality="low", size="auto").size == "256x256"


def test_width_and_height_are_another_spelling_of_size() -> None:
    assert planned(width=1536, height=1024).size == "1536x1024"
    assert planned(width=1536, height=1024, size="auto").size == "1536x1024"
    refused("width", width=512)
    refused("height", height=512)
    refused("width", width=512, height=512, size="512x512")
    refused("width", width=500, height=500)
    refused("width", width=1536, height=1024, exact_native=True)
    refused("size", size="1000x1000")
    refused("size", size="1536x1024", exact_native=True)


def test_previews_need_a_stream_of_one_image() -> None:
    assert planned(stream=True).job.previews.count == 0
    assert planned(stream=True, partial_images=12, preview_size=128).job.previews.model_dump() == {
        "count": 12,
        "size": 128,
    }
    assert planned(SMALL, stream=True, partial_images=3).job.previews.count == 3
    assert "13 scales" in refused("partial_images", stream=True, partial_images=13)
    assert "4 scales" in refused("partial_images", SMALL, stream=True, partial_images=4)
    assert refused("partial_images", stream=True, partial_images=7, quality="low")
    assert planned(stream=True, partial_images=6, quality="low").job.previews.count == 6
    for stream in (False, None):
        refused("partial_images", stream=stream, partial_images=0)
    refused("n", stream=True, n=2)
    refused("response_format", stream=True, response_format="url")
    assert planned(stream=True, n=1).stream
    assert not planned(stream=False, n=2).stream


def test_three_previews_may_always_be_asked_for() -> None:
    size = SMALL.sizes[0].model_copy(update={"grids": ((1, 1), (8, 8))})
    assert planned(small_card(sizes=(size,)), stream=True, partial_images=3).job.previews.count == 3


def test_transparency_needs_a_model_and_a_format_that_have_it() -> None:
    assert "no transparent" in refused("background", background="transparent")
    alpha = large_card(alpha=True)
    assert planned(alpha, background="transparent").background == "transparent"
    assert planned(alpha, background="transparent", output_format="webp").background == "transparent"
    refused("background", alpha, background="transparent", output_format="jpeg")
    assert planned(alpha, background="opaque").background == "opaque"


@pytest.mark.parametrize("background", [None, "auto"])
def test_what_is_left_open_is_as_transparent_as_model_and_format_are(background: str | None) -> None:
    alpha = large_card(alpha=True)
    done = {form: planned(alpha, background=background, output_format=form) for form in ("png", "webp", "jpeg")}
    assert [plan.background for plan in done.values()] == ["transparent", "transparent", "opaque"]
    assert {plan.job.request.background for plan in done.values()} == {"auto"}
    assert planned(background=background).background == "opaque"


def test_the_job_has_the_choice_of_a_background() -> None:
    alpha = large_card(alpha=True)
    for background in ("transparent", "opaque"):
        assert planned(alpha, background=background).job.request.background == background
    assert planned(background="opaque").job.request.background == "auto"  # the model draws no other


def test_png_takes_no_compression_but_100() -> None:
    assert planned(output_compression=100).job.output.quality == 100
    assert planned(output_compression=0, output_format="jpeg").job.output.quality == 0
    refused("output_compression", output_compression=99)
    refused("output_compression", output_compression=0, output_format="png")


def test_adapters_are_those_of_the_server() -> None:
    card = large_card(adapters=("ink", "wash"))
    assert planned(card, lora={"name": "ink"}).job.adapters == (AdapterChoice(name="ink", scale=1.0),)
    both = planned(card, lora=[{"name": "wash", "scale": 0.5}, {"name": "ink", "scale": 0}]).job.adapters
    assert [(one.name, one.scale) for one in both] == [("wash", 0.5), ("ink", 0.0)]
    assert planned(card, lora=[]).job.adapters == ()
    assert "known: ink, wash" in refused("lora", card, lora={"name": "../ink"})
    assert "known: none" in refused("lora", lora={"name": "ink"})
    assert "twice" in refused("lora", card, lora=[{"name": "ink"}, {"name": "ink"}])


def test_a_negative_prompt_needs_guidance() -> None:
    assert planned(negative_prompt="blue").job.request.negative_prompt == "blue"
    assert planned(SMALL, negative_prompt="blue", guidance_scale=3).job.request.negative_prompt == "blue"
    assert planned(SMALL, negative_prompt="blue", guidance_schedule=[1, 1, 1, 2]).job.request.negative_prompt == "blue"
    assert "guidance is off" in refused("negative_prompt", SMALL, negative_prompt="blue")
    refused("negative_prompt", negative_prompt="blue", guidance_scale=1)
    refused("negative_prompt", SMALL, negative_prompt="blue", guidance_schedule=[1, 1, 1, 1])
    assert planned(SMALL, negative_prompt=" ").job.request.negative_prompt is None


@pytest.mark.parametrize("name", ["guidance_scale", "guidance_schedule", "temperature"])
def test_lists_have_a_value_for_each_scale(name: str) -> None:
    params = planned(SMALL, **{name: [1, 2, 3, 4]}).job.request.params
    field = "temperature" if name == "temperature" else "guidance_scale"
    assert getattr(params, field) == (1.0, 2.0, 3.0, 4.0)
    assert "4 scales" in refused(name, SMALL, **{name: [1, 2, 3]})
    refused(name, SMALL, **{name: [1]})
    refused(name, LARGE, quality="low", **{name: [1] * 13})
    assert planned(LARGE, quality="low", **{name: [1] * 7})


def test_guidance_is_given_once() -> None:
    refused("guidance_schedule", SMALL, guidance_scale=3, guidance_schedule=[1, 1, 1, 1])


def test_settings_of_the_sampler_are_passed_on_and_the_rest_left_to_the_model() -> None:
    params = planned(temperature=0.5, top_k=1, top_p=0.9).job.request.params
    assert params == SamplingParams(guidance_scale=None, temperature=0.5, top_k=1, top_p=0.9)
    assert planned().job.request.params == SamplingParams()


def test_the_effective_id_of_a_person_is_echoed() -> None:
    assert planned(user="a").safety_identifier == "a"
    assert planned(user="a", safety_identifier="b").safety_identifier == "b"
    assert planned().safety_identifier is None
    assert (planned(moderation="low").moderation, planned().moderation) == ("low", "auto")


LIKELY = {
    "n": st.integers(1, 3),
    "size": st.sampled_from(["auto", "1024x1024", "1536x1024", "100x100", "64x64", "3840x16"]),
    "quality": st.sampled_from(["low", "hd", "auto"]),
    "output_format": st.sampled_from(["png", "webp", "jpeg"]),
    "output_compression": st.integers(0, 100),
    "background": st.sampled_from(["transparent", "opaque", "auto"]),
    "stream": st.booleans(),
    "partial_images": st.integers(0, 14),
    "response_format": st.sampled_from(["url", "b64_json"]),
    "seed": st.integers(0, 2**63 - 1) | st.lists(st.integers(0, 9), min_size=1, max_size=3),
    "negative_prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    "guidance_scale": st.floats(0, 100) | st.lists(st.floats(0, 100), min_size=1, max_size=14),
    "guidance_schedule": st.lists(st.floats(0, 100), min_size=4, max_size=4),
    "width": st.integers(1, 3840),
    "height": st.integers(1, 3840),
    "lora": st.fixed_dictionaries({"name": st.sampled_from(["ink", "none"])}, optional={"scale": st.floats(-100, 100)}),
    "temperature": st.floats(0, 100) | st.lists(st.floats(0, 100), min_size=4, max_size=4),
    "top_k": st.integers(0, 3),
    "top_p": st.floats(0, 1),
    "preview_size": st.integers(16, 4096),
    "exact_native": st.booleans(),
}


def test_likely_values_name_the_fields_that_plans_depend_on() -> None:
    free = {"prompt", "model", "moderation", "style", "user", "safety_identifier"}
    assert set(LIKELY) | free == set(ImagesRequest.model_fields)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries({}, optional=LIKELY), st.sampled_from([SMALL, large_card(alpha=True, adapters=("ink",))]))
def test_any_request_that_is_read_is_planned_or_refused(values: dict[str, Any], card: ModelCard) -> None:
    try:
        plan = planned(card, **values)
    except ApiError as error:
        assert (error.status, error.param in values) == (400, True)
        return
    assert len(plan.seeds) == (values.get("n") or 1)
    assert Job.parse(json.loads(plan.job.dump()), source="a test") == plan.job
