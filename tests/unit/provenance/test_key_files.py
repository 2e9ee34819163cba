"""Key files: private, never overwritten, and never quoted in an error."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from bitvar.errors import UsageError
from bitvar.provenance.key_files import read_key, write_key
from bitvar.sampling.watermark import Watermark

MARK = Watermark(bytes(range(32)), delta=1.5, context=3, first_scale=4)
GOOD: dict[str, Any] = {
    "format": "bitvar watermark key 1", "secret": bytes(range(32)).hex(), "delta": 1.5, "context": 3, "first_scale": 4,
}  # fmt: skip


def test_a_key_comes_back_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(MARK, path)
    assert read_key(path) == MARK
    assert read_key(path).key_id == MARK.key_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == GOOD


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key(MARK, path)
    with pytest.raises(UsageError, match="never overwritten"):
        write_key(Watermark.new(), path)
    assert read_key(path) == MARK


@pytest.mark.parametrize(
    "change",
    [
        {"secret": "00" * 31}, {"secret": "00" * 33}, {"secret": "zz" * 32}, {"secret": None}, {"secret": 5},
        {"delta": -1}, {"delta": "2"}, {"delta": 21}, {"delta": True}, {"context": 1.5}, {"context": 9},
        {"first_scale": None}, {"first_scale": 64}, {"format": "bitvar watermark key 2"}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_keys_are_refused_without_a_word_of_the_secret(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "a.key"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(UsageError, match=r"a\.key") as error:
        read_key(path)
    assert "\n  do:  " in str(error.value)
    for secret in (GOOD["secret"], str((GOOD | change)["secret"])):
        assert len(secret) < 10 or secret[:10] not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"{", b"[" * 5000, b" " * 5000 + b"{}"])
def test_other_files_are_no_keys(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.key").write_bytes(content)
    with pytest.raises(UsageError, match="no key file"):
        read_key(tmp_path / "a.key")
    for path in (tmp_path, tmp_path / "none", "/dev/zero", "a\0b"):
        with pytest.raises(UsageError, match="key file"):
            read_key(path)
