"""Data sets of the hub, read through a stand-in for the package `datasets`: one bad image stops nothing."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bitvar.data.huggingface import read_dataset
from bitvar.data.importing import import_set
from bitvar.data.layouts import RawSample, Rejected
from bitvar.errors import UsageError
from bitvar.imaging.open import RefusedError
from tests.support.captioned import encoded, make_image


class Table:
    """As much of `datasets.Dataset` as is used. Images decode, and raise, unless they were cast."""

    def __init__(self, columns: dict[str, list[Any]], raw: bool = False) -> None:
        self.columns, self.raw = columns, raw

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def select_columns(self, names: Sequence[str]) -> "Table":
        return Table({name: self.columns[name] for name in names}, self.raw)

    def cast_column(self, name: str, feature: str) -> "Table":
        assert feature == "bytes"
        if name == "number":
            raise NotImplementedError("Unsupported cast from int64")
        return Table(self.columns, raw=True)

    def __getitem__(self, row: int) -> dict[str, Any]:
        if "image" in self.columns and not self.raw:
            raise OSError("cannot identify image file")
        return {name: values[row] for name, values in self.columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __iter__(self) -> Any:
        return (self[row] for row in range(len(self)))


@pytest.fixture
def columns(tmp_path: Path) -> dict[str, list[Any]]:
    (tmp_path / "file.png").write_bytes(encoded(make_image(seed=100)))
    images: list[Any] = [{"bytes": encoded(make_image(seed=i)), "path": None} for i in range(20)]
    texts: list[Any] = [f"image {i}" for i in range(20)]
    images[3] = {"bytes": b"broken", "path": None}
    images[4] = None
    images[5] = {"bytes": None, "path": str(tmp_path / "nowhere.png")}
    images[6] = {"bytes": None, "path": str(tmp_path / "file.png")}
    texts[7:11] = [None, "", 3, ["a cat", "a small cat"]]
    return {"image": images, "text": texts, "number": list(range(20))}


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, columns: dict[str, list[Any]]) -> list[tuple[str, str]]:
    """The stand-in; what was asked of it."""
    asked: list[tuple[str, str]] = []
    module: Any = ModuleType("datasets")
    module.exceptions = ModuleType("datasets.exceptions")
    module.exceptions.DatasetsError = type("DatasetsError", (Exception,), {})
    module.Image = lambda *, decode: "pixels" if decode else "bytes"

    def load_dataset(name: str, *, split: str) -> Table:
        asked.append((name, split))
        if name == "gone":
            raise module.exceptions.DatasetsError("Dataset 'gone' doesn't exist\nand more")
        if split != "train":
            raise ValueError(f'Unknown split "{split}".')
        return Table(columns)

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def read(name: str = "owner/name", **changes: str) -> list[RawSample | Rejected]:
    options = {"split": "train", "image_column": "image", "caption_column": "text"} | changes
    return list(read_dataset(name, **options))


def test_every_bad_row_is_named_and_the_others_are_read(datasets: list[tuple[str, str]], tmp_path: Path) -> None:
    entries = read_dataset("owner/name", split="train", image_column="image", caption_column="text")
    summary = import_set(entries, tmp_path / "set", size=(16, 16), max_bad_fraction=0.5)
    assert datasets == [("owner/name", "train")]
    assert summary.accepted == 14
    refused = [json.loads(line) for line in (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()]
    assert {refusal["name"]: refusal["reason"] for refusal in refused} == {
        "train:3": "not-an-image", "train:4": "missing-image", "train:5": "missing-image",
        "train:7": "no-caption", "train:8": "empty-caption", "train:9": "wrong-type",
    }  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "set" / "samples.jsonl").read_text().splitlines()]
    assert {row["source"]: row["captions"] for row in rows}["train:10"] == ["a cat", "a small cat"]
    assert {row["split"] for row in rows} == {"train", "val"}


def test_a_large_cell_is_refused(datasets: list[tuple[str, str]]) -> None:
    first = read()[0]
    assert isinstance(first, RawSample)
    with pytest.raises(RefusedError, match="too-many-bytes"):
        first.image.read(max_bytes=100)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gone", {}, "doesn't exist"),
        ("owner/name", {"split": "test"}, "Unknown split"),
        ("owner/name", {"image_column": "img"}, r"no column 'img'[\s\S]*image, text, number[\s\S]*--image-column"),
        ("owner/name", {"caption_column": "caption"}, r"no column 'caption'[\s\S]*--caption-column"),
        ("owner/name", {"image_column": "number"}, "holds no images"),
    ],
)
def test_what_can_not_be_read(datasets: list[tuple[str, str]], name: str, changes: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read(name, **changes)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"\[huggingface\]"):
        read()
