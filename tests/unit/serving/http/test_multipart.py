"""Reading a form: into memory alone, with limits counted while reading. Every fault is a 4xx."""

import asyncio
import tempfile
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitvar.serving.http.body import ClientLeft
from bitvar.serving.http.errors import ApiError
from bitvar.serving.http.multipart import MAX_ENTRIES, MAX_TEXT, FormEntry, FormLimits, read_form

TYPE = "multipart/form-data; boundary=x"
LIMITS = FormLimits(body=1 << 20, file=5000, seconds=30)


def part(name: str, data: bytes, *, file: bool = False, more: bytes = b"") -> bytes:
    extra = b'; filename="a.png"' if file else b""
    head = b'--x\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + extra + b"\r\n"
    return head + more + b"\r\n" + data + b"\r\n"


END = b"--x--\r\n"


def read(
    body: bytes | Sequence[bytes], content_type: str = TYPE, *, limits: FormLimits = LIMITS, left: bool = False
) -> tuple[list[FormEntry], int]:
    """Read a body that comes in pieces. Returns the parts, and how many bytes were held."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    held = 0

    async def receive() -> dict[str, Any]:
        if not pieces:
            if left:
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces) or left}

    def hold(count: int) -> None:
        nonlocal held
        held += count

    parts = asyncio.run(read_form(receive, {"content-type": content_type}, limits=limits, hold=hold))
    return parts, held


def refused(body: bytes | Sequence[bytes], content_type: str = TYPE, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body, content_type, **options)
    return caught.value


FORM = (
    part("prompt", "\u00e9t\u00e9".encode()) + part("image[]", bytes(range(256)) * 4, file=True) + part("n", b"") + END
)


def test_a_form_comes_in_one_piece_or_in_many() -> None:
    expected = [
        FormEntry("prompt", False, "\u00e9t\u00e9".encode()),
        FormEntry("image[]", True, bytes(range(256)) * 4),
        FormEntry("n", False, b""),
    ]
    assert read(FORM) == (expected, len(FORM))
    assert read([FORM[i : i + 1] for i in range(len(FORM))]) == (expected, len(FORM))
    assert read([b"", FORM, b""])[0] == expected
    assert read(END)[0] == []


def test_no_file_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, fail)
    big = FormLimits(body=1 << 24, file=1 << 24, seconds=30)
    assert len(read(part("image", bytes(8 << 20), file=True) + END, limits=big)[0][0].data) == 8 << 20


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        ("", "none"),
        ("application/json", "multipart/form-data"),
        ("multipart/mixed; boundary=x", "multipart/form-data"),
        ("multipart/form-data", "boundary"),
        ("multipart/form-data; boundary=", "boundary"),
        (f"multipart/form-data; boundary={'x' * 5000}", "too long"),
    ],
)
def test_what_is_no_form_is_refused(content_type: str, said: str) -> None:
    error = refused(FORM, content_type)
    assert (error.status, said in error.message) == (400, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"--y--\r\n",
        FORM[:-4],
        FORM[:40],
        b"--x\r\n\r\nno headers\r\n" + END,
        b"--x\r\nContent-Disposition: form-data\r\n\r\nno name\r\n" + END,
        b'--x\r\nContent-Disposition: attachment; name="image"\r\n\r\nx\r\n' + END,
        b'--x\r\nContent-Disposition: form-data; name=""\r\n\r\nx\r\n' + END,
        part("image", b"aGk=", file=True, more=b"Content-Transfer-Encoding: base64\r\n") + END,
        b"--x\r\n" + b"A" * 20_000 + b": b\r\n\r\nx\r\n" + END,
        b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\nx\r\n" + END,
    ],
)
def test_damaged_forms_are_400(body: bytes) -> None:
    error = refused(body)
    assert (error.status, error.code) == (400, "invalid_form")


def test_limits_are_counted_while_reading() -> None:
    error = refused(part("image", bytes(5001), file=True) + END)
    assert (error.status, error.param) == (413, "image")
    assert read(part("image", bytes(5000), file=True) + END)[0]
    error = refused(part("prompt", bytes(MAX_TEXT + 1)) + END)
    assert (error.status, error.param) == (413, "prompt")
    texts = b"".join(part(f"t{i}", bytes(MAX_TEXT)) for i in range(5))
    assert refused(texts + END, limits=FormLimits(body=1 << 24, file=1, seconds=30)).status == 413
    assert refused(part("a", b"") * (MAX_ENTRIES + 1) + END).status == 400
    endless = [part("image", b"", file=True)[:-2], *[bytes(1000)] * 2000]
    assert refused(endless).status == 413  # its file is too long
    assert refused([bytes(1000)] * 2000).status == 400  # it is no form


def test_a_form_that_stalls_is_408_and_one_that_breaks_off_is_no_fault() -> None:
    assert refused([], limits=FormLimits(body=1000, file=1000, seconds=0.01)).status == 408
    with pytest.raises(ClientLeft):
        read([FORM[:30]], left=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(FORM) - 1), st.binary(max_size=8)), max_size=4), st.integers(1, 400))
def test_any_change_is_read_or_refused(changes: list[tuple[int, bytes]], size: int) -> None:
    body = bytearray(FORM)
    for at, data in changes:
        body[at : at + len(data)] = data
    pieces = [bytes(body[i : i + size]) for i in range(0, len(body), size)]
    try:
        parts, held = read(pieces)
        assert held == len(body)
        assert sum(len(one.data) for one in parts) < len(body)
    except ApiError as error:
        assert error.status in (400, 413)
