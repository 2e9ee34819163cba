"""Frames between front process and worker: a JSON header and the bytes of an image, each with its length before it.

Both ends are ours, yet nothing that arrives is executed: a header is JSON, and names one of the kinds below.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from pydantic import TypeAdapter

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
)
from bitvar.serving.engine.job import Job

LENGTHS: Final = struct.Struct("!II")
"""Lengths of header and data in bytes, big-endian."""

MAX_HEADER: Final = 1 << 22
MAX_DATA: Final = 1 << 29

_EVENTS: Final[dict[str, TypeAdapter[Any]]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (Queued, Started, ScaleDone, Preview, ImageDone, Finished, Failed, Cancelled)
}
"""What reads and checks the fields of each event; fields that it doesn't have are passed over."""


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        kind: What it is: "settings", "submit", "cancel" to the worker; "card", "event", "fatal" from it.
        values: JSON object.
        data: Bytes of an encoded image, or a job as JSON; empty for most frames.
    """

    kind: str
    values: dict[str, Any]
    data: bytes = field(default=b"", repr=False)


def pack(frame: Frame) -> bytes:
    """Write a frame with its lengths."""
    header = json.dumps({"kind": frame.kind, "values": frame.values}, separators=(",", ":")).encode("ascii")
    if len(header) > MAX_HEADER or len(frame.data) > MAX_DATA:
        raise ValueError(f"a frame of {len(header):,} and {len(frame.data):,} bytes is too long")
    return LENGTHS.pack(len(header), len(frame.data)) + header + frame.data


def lengths(head: bytes) -> tuple[int, int]:
    """Read the lengths of header and data.

    Raises:
        ValueError: They are out of bounds, so the stream is damaged.
    """
    header, data = LENGTHS.unpack(head)
    if header > MAX_HEADER or data > MAX_DATA:
        raise ValueError(f"a frame claims {header:,} and {data:,} bytes")
    return header, data


def parse(header: bytes, data: bytes) -> Frame:
    """Read a frame whose parts have arrived.

    Raises:
        ValueError: The header is damaged.
    """
    try:
        read = json.loads(header)
    except RecursionError:
        raise ValueError("a frame's header is nested too deeply") from None
    kind, values = (read.get(key) for key in ("kind", "values")) if isinstance(read, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(values, dict):
        raise ValueError("a frame's header has no kind or no values")
    return Frame(kind, values, data)


def read_frame(receive: Callable[[int], bytes]) -> Frame | None:
    """Read a frame from a blocking reader that returns exactly the number of bytes it is asked for.

    Args:
        receive: Reads that many bytes; returns fewer only at the end of the stream.

    Returns:
        The frame; None at the end of the stream.
    """
    head = receive(LENGTHS.size)
    if len(head) < LENGTHS.size:
        return None
    header_length, data_length = lengths(head)
    header, data = receive(header_length), receive(data_length)
    return parse(header, data) if len(header) == header_length and len(data) == data_length else None


def job_frame(job: Job) -> Frame:
    """Write a job as a frame. An edit's job has images inside, so it doesn't fit into a header."""
    return Frame("submit", {}, job.model_dump_json().encode())


def parse_job(frame: Frame) -> Job:
    """Read a job.

    Raises:
        ValueError: The frame is damaged.
    """
    return Job.model_validate_json(frame.data)


def event_frame(job_id: str, event: Event) -> Frame:
    """Write what happened to a job as a frame."""
    data = event.data if isinstance(event, Preview | ImageDone) else b""
    plain = replace(event, data=b"") if isinstance(event, Preview | ImageDone) else event
    values = asdict(plain)
    values.pop("data", None)
    return Frame("event", {"job": job_id, "event": type(event).__name__, "fields": values}, data)


def parse_event(frame: Frame) -> tuple[str, Event]:
    """Read a job's id and what happened to it.

    Raises:
        ValueError: The frame is damaged.
    """
    job_id, name, fields = (frame.values.get(key) for key in ("job", "event", "fields"))
    if not isinstance(job_id, str) or not isinstance(name, str) or name not in _EVENTS or not isinstance(fields, dict):
        raise ValueError("a frame is no event")
    return job_id, _EVENTS[name].validate_python({**fields, "data": frame.data})
