"""Frames between front process and worker: a JSON header and the bytes of an image, each with its length before it.

Both ends are ours, yet nothing that arrives is executed: a header is JSON, and names one of the kinds below.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

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

LENGTHS: Final = struct.Struct("!II")
"""Lengths of header and data in bytes, big-endian."""

MAX_HEADER: Final = 1 << 22
MAX_DATA: Final = 1 << 29

_EVENTS: Final = {
    kind.__name__: kind for kind in (Queued, Started, ScaleDone, Preview, ImageDone, Finished, Failed, Cancelled)
}


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        kind: What it is: "settings", "submit", "cancel" to the worker; "card", "event", "fatal" from it.
        values: JSON object.
        data: Bytes of an encoded image; empty for most frames.
    """

    kind: str
    values: dict[str, Any]
    data: bytes = field(default=b"", repr=False)


def pack(frame: Frame) -> bytes:
    """Write a frame with its lengths."""
    header = json.dumps({"kind": frame.kind, **frame.values}, separators=(",", ":")).encode("ascii")
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
    """Read a frame whose parts have arrived."""
    values = json.loads(header)
    return Frame(values.pop("kind"), values, data)


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


def event_frame(job_id: str, event: Event) -> Frame:
    """Write what happened to a job as a frame."""
    data = event.data if isinstance(event, Preview | ImageDone) else b""
    plain = replace(event, data=b"") if isinstance(event, Preview | ImageDone) else event
    values = asdict(plain)
    values.pop("data", None)
    return Frame("event", {"job": job_id, "event": type(event).__name__, "fields": values}, data)


def parse_event(frame: Frame) -> tuple[str, Event]:
    """Read a job's id and what happened to it."""
    fields = dict(frame.values["fields"])
    kind = _EVENTS[frame.values["event"]]
    if kind in (Preview, ImageDone):
        fields["data"] = frame.data
    if kind is Preview:
        fields["done"] = _scale_done(fields["done"])
    if kind is ScaleDone:
        return frame.values["job"], _scale_done(fields)
    if kind is Finished:
        fields |= {"usage": Usage(**fields["usage"]), "warnings": tuple(fields["warnings"])}
    return frame.values["job"], kind(**fields)


def _scale_done(fields: dict[str, Any]) -> ScaleDone:
    rows, columns = fields["grid"]
    return ScaleDone(**{**fields, "grid": (rows, columns)})
