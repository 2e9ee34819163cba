"""An index that somebody made up: every record and every line of its manifest is bounded before it is used."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitvar.data.index import SampleIndex, is_index, read_source
from bitvar.data.index_writing import build_index
from bitvar.data.validation import validate
from bitvar.errors import UsageError
from bitvar.imaging.open import ImageLimits
from tests.unit.data.test_index import many


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    build_index(many(folder / "set", 12), folder / "index")
    return folder


@pytest.fixture
def indexed(original: Path, tmp_path: Path) -> Path:
    for name in ("set", "index"):
        shutil.copytree(original / name, tmp_path / name)
    return tmp_path / "index"


@pytest.mark.parametrize("field", ["offset", "size", "text"])
@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**63 - 1])
def test_records_that_no_file_could_hold(indexed: Path, field: str, value: int) -> None:
    records = np.load(indexed / "records.npy")
    records[field] = value
    records[{"offset": "size", "size": "offset", "text": "width"}[field]] = 7
    np.save(indexed / "records.npy", records)
    index = SampleIndex.open(indexed)
    for use in (lambda: index[3], lambda: list(index.raw_samples())):
        with pytest.raises(UsageError, match="points outside of it"):
            use()


def test_an_offset_past_the_end_is_a_sample_that_can_not_be_read(indexed: Path) -> None:
    records = np.load(indexed / "records.npy")
    records["offset"], records["size"] = 2**62, 100
    np.save(indexed / "records.npy", records)
    made = list(validate(read_source(indexed), lambda image: image.size, limits=ImageLimits()))
    reasons = {sample.reason for sample in made}  # type: ignore[union-attr]
    assert reasons <= {"empty-file", "unreadable-file"}  # by file system


def test_paths_with_a_zero_byte(indexed: Path) -> None:
    data = (indexed / "paths.bin").read_bytes()
    (indexed / "paths.bin").write_bytes(data.replace(b".png", b"\0png"))
    with pytest.raises(UsageError, match=r"path \d+ is not a path"):
        list(SampleIndex.open(indexed).raw_samples())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": {"ratio": "abc"}}, "ratio"),
        ({"groups": {"ratio": "nan"}}, "ratio"),
        ({"groups": {"ratio": "1e400"}}, "ratio"),
        ({"groups": {"count": 10**30}}, "groups"),
        ({"groups": {"count": -1}}, "count"),
        ({"groups": {"start": 2**64}}, "groups"),
        ({"groups": {"split": "../val"}}, "split"),
        ({"groups": {"split": "a" * 100_000}}, "split"),
        ({"samples": 10**30}, "samples"),
        ({"paths": 10**30}, "path_ends"),
        ({"rejected": {"x": -5}}, "rejected"),
        ({"caption_words": {"3": -5}}, "caption_words"),
        ({"source": "a\0b"}, "not a path"),
        ({"source_from_index": "a\0b"}, "not a path"),
        ({"allow_duplicates": "perhaps"}, "allow_duplicates"),
        ({"version": 10**30}, "version"),
    ],
    ids=str,
)
def test_manifests_that_lie(indexed: Path, change: dict[str, Any], words: str) -> None:
    path = indexed / "index.json"
    manifest = json.loads(path.read_text())
    if "groups" in change:
        manifest["groups"][0] |= change["groups"]
    else:
        manifest |= change
    path.write_text(json.dumps(manifest))
    assert is_index(indexed)
    with pytest.raises(UsageError, match=words):
        SampleIndex.open(indexed)
