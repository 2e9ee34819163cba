"""Answers: the JSON object and the events of a stream, field by field as OpenAI's packages read them."""

import base64
import json
from typing import Any

import pytest

from bitvar.serving.engine.events import Finished, ImageDone, Preview, ScaleDone, Usage
from bitvar.serving.http.answers import comment, completed_event, error_event, images_answer, partial_event
from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.fields import parse_images_request
from bitvar.serving.http.plan import Plan, plan_images
from tests.support.recorded_requests import small_card

CARD = small_card()
FINISHED = Finished(Usage(text_tokens=5, image_tokens=170), ("Unknown word: zebu.",), 0.25, 1.5)


def a_plan(**values: Any) -> Plan:
    request = parse_images_request({"prompt": "a red circle", "seed": 7, **values})
    return plan_images(request, CARD, job_id="job-1", answered_name="icons")


def an_image(index: int = 0, seed: int = 7) -> ImageDone:
    return ImageDone(
        image=index, data=b"file %d" % index, format="png", width=1024, height=1024, native_width=64, native_height=64,
        seed=seed, record={},
    )  # fmt: skip


def event(data: bytes) -> tuple[str, dict[str, Any]]:
    first, second, *rest = data.decode("ascii").split("\n")
    assert rest == ["", ""]
    assert first.startswith("event: ")
    assert second.startswith("data: ")
    return first.removeprefix("event: "), json.loads(second.removeprefix("data: "))


def test_an_answer_has_every_field() -> None:
    plan = a_plan(n=2, size="1024x1024", style="vivid", user="someone")
    answer = images_answer(plan, [an_image(), an_image(1, 8)], FINISHED, card=CARD, created=1_790_000_001)
    assert json.loads(json.dumps(answer)) == {
        "created": 1_790_000_001,
        "data": [{"b64_json": base64.b64encode(b"file %d" % i).decode()} for i in range(2)],
        "background": "opaque",
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
        "safety_identifier": "someone",
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"text_tokens": 5, "image_tokens": 0},
            "output_tokens": 170,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 170},
            "total_tokens": 175,
        },
        "bitvar": {
            "model": "icons",
            "model_digest": "icons@0123456789ab",
            "seeds": [7, 8],
            "native_size": "64x64",
            "warnings": ["style has no effect on this model.", "Unknown word: zebu."],
            "timings": {"queued_seconds": 0.25, "drawing_seconds": 1.5},
        },
    }


def test_an_item_has_a_url_or_an_image_and_never_both() -> None:
    plan = a_plan(response_format="url")
    answer = images_answer(plan, [an_image()], FINISHED, card=CARD, created=1, urls=["http://localhost/v1/images/x"])
    assert answer["data"] == [{"url": "http://localhost/v1/images/x"}]
    assert "safety_identifier" not in answer
    with pytest.raises(AssertionError):
        images_answer(plan, [an_image()], FINISHED, card=CARD, created=1)


def test_a_preview_is_an_event_of_openais_type() -> None:
    done = ScaleDone(image=0, scale=1, scales=4, grid=(2, 2), tokens_done=5, tokens_total=85)
    plan = a_plan(stream=True, partial_images=2, output_format="webp")
    name, values = event(partial_event(plan, Preview(0, done, b"preview", "jpeg"), created=3))
    assert name == values["type"] == "image_generation.partial_image"
    assert values == {
        "type": name,
        "b64_json": base64.b64encode(b"preview").decode(),
        "partial_image_index": 0,
        "created_at": 3,
        "size": "64x64",
        "quality": "low",
        "background": "opaque",
        "output_format": "jpeg",
        "bitvar": {"scale": 1, "scales": 4, "grid": [2, 2], "tokens_done": 5, "tokens_total": 85, "seed": 7},
    }


def test_the_last_event_has_usage_and_the_real_size() -> None:
    plan = a_plan(stream=True, size="1024x1024", safety_identifier="someone")
    name, values = event(completed_event(plan, an_image(), FINISHED, card=CARD, created=3))
    assert name == values["type"] == "image_generation.completed"
    assert base64.b64decode(values["b64_json"]) == b"file 0"
    assert (values["created_at"], values["size"], values["safety_identifier"]) == (3, "1024x1024", "someone")
    assert values["usage"]["total_tokens"] == 175
    assert values["bitvar"]["seeds"] == [7]
    assert {"quality", "background", "output_format"} <= set(values)


def test_an_error_is_in_the_only_form_that_clients_raise() -> None:
    name, values = event(error_event(ApiError(503, "The worker died.\nAgain \U0001f34e.", code="worker_died")))
    assert name == "error"
    assert values == {
        "error": {
            "message": "The worker died.\nAgain \U0001f34e.",
            "type": "server_error",
            "param": None,
            "code": "worker_died",
        }
    }


def test_a_comment_is_one_line_whatever_it_says() -> None:
    assert comment("keep-alive queue=3") == b": keep-alive queue=3\n\n"
    assert comment("a\n\nevent: x\r\ndata: \u00e9") == b": a event: x data: \\xe9\n\n"
