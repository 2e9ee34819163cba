"""Frames between front process and worker."""

import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.serving.engine import wire
from bitvar.serving.engine.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    ImageDone,
    Preview,
    Queued,
    ScaleDone,
    Started,
    Usage,
)
from bitvar.serving.engine.wire import LENGTHS, Frame, event_frame, lengths, pack, parse, parse_event, read_frame

QUICK = settings(deadline=None)
NUMBERS = st.integers(0, 2**53)
TEXT = st.text(max_size=40)
SCALES = st.builds(ScaleDone, NUMBERS, NUMBERS, NUMBERS, st.tuples(NUMBERS, NUMBERS), NUMBERS, NUMBERS)
RECORDS = st.dictionaries(TEXT, TEXT | NUMBERS | st.none() | st.lists(NUMBERS, max_size=3), max_size=4)
SECONDS = st.floats(0, 1e6)
EVENTS: st.SearchStrategy[Callable[[], Event]] = st.one_of(
    st.builds(partial, st.just(Queued), NUMBERS),
    st.builds(partial, st.just(Started)),
    st.builds(partial, st.just(ScaleDone), NUMBERS, NUMBERS, NUMBERS, st.tuples(NUMBERS, NUMBERS), NUMBERS, NUMBERS),
    st.builds(partial, st.just(Preview), NUMBERS, SCALES, st.binary(max_size=50), st.sampled_from(["png", "jpeg"])),
    st.builds(partial, st.just(ImageDone), NUMBERS, st.binary(max_size=50), TEXT, *[NUMBERS] * 5, RECORDS),
    st.builds(
        partial,
        st.just(Finished),
        st.builds(Usage, NUMBERS, NUMBERS),
        st.lists(TEXT, max_size=3).map(tuple),
        SECONDS,
        SECONDS,
    ),
    st.builds(partial, st.just(Failed), TEXT, TEXT, st.none() | TEXT),
    st.builds(partial, st.just(Cancelled), NUMBERS),
)
"""What makes an event, outside of the strategy: the types of collections are checked at random items."""


@QUICK
@given(TEXT, EVENTS)
def test_every_event_arrives_as_it_was_sent(job: str, make: Callable[[], Event]) -> None:
    event = make()
    received = read_frame(io.BytesIO(pack(event_frame(job, event))).read)
    assert received is not None
    assert parse_event(received) == (job, event)


@QUICK
@given(st.lists(EVENTS, max_size=5))
def test_frames_follow_each_other(makes: list[Callable[[], Event]]) -> None:
    events = [make() for make in makes]
    stream = io.BytesIO(b"".join(pack(event_frame("job", event)) for event in events))
    frames = list(iter(lambda: read_frame(stream.read), None))
    assert [parse_event(frame)[1] for frame in frames] == events


@QUICK
@given(EVENTS, st.data())
def test_a_stream_that_is_cut_ends(make: Callable[[], Event], data: st.DataObject) -> None:
    whole = pack(event_frame("job", make()))
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert read_frame(io.BytesIO(whole[:cut]).read) is None


@QUICK
@given(EVENTS, st.data())
def test_a_damaged_frame_is_a_value_error_and_nothing_else(make: Callable[[], Event], data: st.DataObject) -> None:
    """Whoever reads must know one exception only; any other would end the reading without a restart."""
    damaged = bytearray(pack(event_frame("job", make())))
    index = data.draw(st.integers(0, len(damaged) - 1))
    damaged[index] ^= 1 << data.draw(st.integers(0, 7))
    try:
        if (frame := read_frame(io.BytesIO(damaged).read)) is not None and frame.kind == "event":
            parse_event(frame)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"event"',
        b"{}",
        b'{"kind": 1}',
        b'{"kind": ["event"]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kind": "event"}',
        b'{"kind": "event", "values": []}',
        b'{"kind": "event", "values": {}}',
        b'{"kind": "event", "values": {"job": "a", "event": "Nothing", "fields": {}}}',
        b'{"kind": "event", "values": {"job": "a", "event": [], "fields": {}}}',
        b'{"kind": "event", "values": {"job": "a", "event": "Queued", "fields": {}}}',
        b'{"kind": "event", "values": {"job": "a", "event": "Queued", "fields": []}}',
        b'{"kind": "event", "values": {"job": "a", "event": "Queued", "fields": {"position": "first"}}}',
        b'{"kind": "event", "values": {"job": 5, "event": "Started", "fields": {}}}',
        b'{"kind": "event", "values": {"job": "a", "event": "ScaleDone", "fields": {"grid": 1}}}',
        b'{"kind": "event", "values": {"job": "a", "event": "Finished", "fields": {"usage": 3, "warnings": []}}}',
        b'{"kind": "event", "values": {"job": "a", "event": "Preview", "fields": {"index": 0}}}',
    ],
)
def test_a_header_that_is_no_event_is_a_value_error(header: bytes) -> None:
    with pytest.raises(ValueError):
        parse_event(parse(header, b""))


@pytest.mark.parametrize("head", [(wire.MAX_HEADER + 1, 0), (0, wire.MAX_DATA + 1), (2**32 - 1, 2**32 - 1)])
def test_claimed_lengths_are_bounded_before_anything_is_read(head: tuple[int, int]) -> None:
    asked: list[int] = []

    def receive(number: int) -> bytes:
        asked.append(number)
        return LENGTHS.pack(*head)

    with pytest.raises(ValueError, match="claims"):
        read_frame(receive)
    assert asked == [LENGTHS.size]
    with pytest.raises(ValueError, match="claims"):
        lengths(LENGTHS.pack(*head))


def test_a_frame_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_DATA", 10)
    monkeypatch.setattr(wire, "MAX_HEADER", 100)
    pack(Frame("event", {}, b"x" * 10))
    for frame in (Frame("event", {}, b"x" * 11), Frame("event", {"text": "x" * 100})):
        with pytest.raises(ValueError, match="too long"):
            pack(frame)


def test_a_header_is_plain_json() -> None:
    received: Callable[[int], bytes] = io.BytesIO(pack(Frame("submit", {"job": {"id": "\ud800\u00e9"}}))).read
    header, _ = lengths(received(LENGTHS.size))
    values: dict[str, Any] = json.loads(received(header))
    assert values == {"kind": "submit", "values": {"job": {"id": "\ud800\u00e9"}}}


def test_values_may_have_any_names() -> None:
    frame = Frame("fatal", {"kind": "UsageError", "values": 1, "message": ""})
    assert read_frame(io.BytesIO(pack(frame)).read) == frame
