"""Whatever a client was told once, it isn't told again when its job is drawn anew."""

from collections.abc import Iterable

import pytest

from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    ImageDone,
    Preview,
    ScaleDone,
    Started,
    Usage,
)
from bitvar.serving.replicas.delivery import Delivery

GRIDS = ((1, 1), (2, 2), (4, 4))


def scale(image: int, index: int) -> ScaleDone:
    return ScaleDone(image, index, len(GRIDS), GRIDS[index], index + 1, len(GRIDS))


def whole_draw(images: int = 2) -> list[Event]:
    """Every event of a draw in which the scales of the images take turns."""
    events: list[Event] = [Started()]
    for index in range(len(GRIDS)):
        for image in range(images):
            events.append(scale(image, index))
            if index < 2:
                events.append(Preview(index, scale(image, index), b"preview"))
    events += [ImageDone(image, b"file", "png", 8, 8, 8, 8, image, {}) for image in range(images)]
    return [*events, Finished(Usage(1, 6), ("a warning",), 0.25, 0.5)]


def told(delivery: Delivery, events: Iterable[Event]) -> list[Event]:
    return [event for event in map(delivery.take, events) if event is not None]


@pytest.mark.parametrize("lost_after", range(len(whole_draw())))
def test_a_draw_that_is_lost_anywhere_and_repeated_reads_like_one(lost_after: int) -> None:
    delivery = Delivery(clock=lambda: 0.0)
    events = whole_draw()
    assert delivery.start_draw("model@1")
    first = told(delivery, events[:lost_after])
    assert delivery.start_draw("model@1")
    second = told(delivery, events)
    *before, last = first + second
    assert before == events[:-1]
    assert isinstance(last, Finished)


def test_a_replica_that_orders_its_images_otherwise_repeats_nothing() -> None:
    delivery = Delivery()
    told(delivery, [Started(), scale(0, 0), scale(1, 0), scale(1, 1)])
    again = [Started(), *(scale(image, index) for image in (1, 0) for index in range(3))]
    assert told(delivery, again) == [scale(1, 2), scale(0, 1), scale(0, 2)]
    assert delivery.num_scales == 6


def test_times_are_those_of_the_client() -> None:
    now = [10.0]
    delivery = Delivery(clock=lambda: now[0])
    now[0] = 13.0
    delivery.take(Started())
    now[0] = 14.0
    delivery.take(Started())  # the second draw
    now[0] = 18.0
    assert delivery.take(Finished(Usage(1, 2), ("w",), 0.1, 0.2)) == Finished(Usage(1, 2), ("w",), 3.0, 5.0)


def test_only_an_untold_job_may_change_its_model() -> None:
    delivery = Delivery()
    assert delivery.start_draw("model@1")
    assert delivery.start_draw("model@2")  # nothing was told yet
    delivery.take(Started())
    assert delivery.start_draw("model@2")
    assert not delivery.start_draw("model@3")


@pytest.mark.parametrize("last", [Failed("server_error", "no"), Cancelled(3)])
def test_other_ends_pass(last: Event) -> None:
    assert Delivery().take(last) == last
