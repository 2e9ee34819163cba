"""The file of keys: one a line, long enough not to be guessed."""

from pathlib import Path

import pytest

from bitvar.errors import UsageError
from bitvar.serving.http.keys import read_keys

LONG = "a-key-of-more-than-16-characters"


def test_keys_are_lines_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# for the page\n{LONG}\n\n  {LONG}2  \n", encoding="utf-8")
    assert read_keys(path) == (LONG, f"{LONG}2")


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "has no key"), (b"# none\n", "has no key"), (b"short\n", "fewer than 16"), (b"\xff\xfe", "not text")],
)
def test_bad_files_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=why):
        read_keys(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_keys(tmp_path / "keys")
