"""Damaged and hostile uploads against the real server and the embedded model: an image, or a 4xx, and never a stall."""

import base64
import io
from collections import Counter
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encoded, image_file, mask_file, mask_image, mutated, smooth_image
from tests.support.serving import ServerProcess, running_server

SECONDS = 30.0
"""Longest time for an answer."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with running_server() as running:
        yield running


def seeds() -> list[tuple[bytes, bytes | None]]:
    """Sound images, some with a mask."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        (image_file(), None),
        (image_file((96, 64)), mask_file((96, 64))),
        (encoded(smooth_image((80, 80)), "JPEG", exif=exif), mask_file((80, 80))),
        (encoded(smooth_image((80, 80), mode="RGBA"), "WEBP", lossless=True), None),
        (encoded(smooth_image().convert("P")), encoded(mask_image().quantize())),
        (encoded(smooth_image(), "GIF"), None),
        (encoded(smooth_image(), "TIFF"), None),
        (encoded(smooth_image(), "BMP"), mask_file()),
        (encoded(smooth_image(), icc_profile=bytes(300)), None),
    ]


def try_uploads(server: ServerProcess, count: int) -> Counter[int]:
    """Send mutated images, masks and forms. Returns how often each status was answered."""
    generator, sound, statuses = np.random.default_rng(count), seeds(), Counter[int]()
    with httpx.Client(base_url=server.url, timeout=SECONDS) as client:
        for number in range(count):
            image, mask = sound[number % len(sound)]
            route = "variations" if number % 5 == 4 else "edits"
            files = {"image": image if number % 3 == 1 and mask else mutated(image, generator)}
            texts = {"seed": str(number), "strength": "0.3"}
            if mask is not None and route == "edits":
                files["mask"] = mutated(mask, generator) if number % 3 else mask
                texts["exact"] = "true" if number % 2 else "false"
            request = client.build_request("POST", f"/v1/images/{route}", files=files, data=texts)
            if number % 7 == 6:  # the form itself
                body = mutated(request.read(), generator)
                kind = request.headers["content-type"]
                answer = client.post(f"/v1/images/{route}", content=body, headers={"content-type": kind})
            else:
                answer = client.send(request)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as made:
                    made.load()
                    assert made.size == tuple(map(int, answer.json()["size"].split("x")))
            else:
                assert answer.status_code in (400, 413), (number, answer.text)
                assert answer.json()["error"]["type"] == "invalid_request_error"
        assert server.state() == "ready"
        metrics = client.get("/metrics").text
        assert "bitvar_worker_losses_total 0.0" in metrics
        assert "bitvar_uploads_held_bytes 0.0" in metrics
    return statuses


def test_mutated_uploads_give_images_or_are_refused(server: ServerProcess) -> None:
    statuses = try_uploads(server, 60)
    assert statuses[200] >= 3 and statuses[400] >= 10, statuses


@pytest.mark.slow
def test_two_thousand_mutated_uploads(server: ServerProcess) -> None:
    statuses = try_uploads(server, 2000)
    assert statuses[200] >= 100 and statuses[400] >= 400, statuses


def test_an_image_that_unpacks_to_too_many_pixels_is_refused(server: ServerProcess) -> None:
    bomb = encoded(Image.new("1", (8000, 8000)))
    answer = httpx.post(f"{server.url}/v1/images/edits", files={"image": bomb}, timeout=SECONDS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert "Too-many-pixels" in answer.json()["error"]["message"]


def test_a_real_edit_keeps_what_its_mask_does_not_mark(server: ServerProcess) -> None:
    image = smooth_image((90, 64))
    files = {"image": encoded(image), "mask": mask_file((90, 64), (40, 10, 70, 50))}
    texts = {"prompt": "a red apple", "exact": "true", "seed": "5"}
    answer = httpx.post(f"{server.url}/v1/images/edits", files=files, data=texts, timeout=SECONDS)
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))))
    inside = np.zeros((64, 90), dtype=bool)
    inside[10:50, 40:70] = True
    assert np.array_equal(made[~inside], np.asarray(image)[~inside])
    assert not np.array_equal(made[inside], np.asarray(image)[inside])
    assert answer.json()["bitvar"]["edit"]["exact"] is True
