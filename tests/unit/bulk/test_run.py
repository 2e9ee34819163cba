"""Bulk runs: what is drawn, what is kept, and what is refused."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from bitvar.bulk import LEDGER, WorkItem, generate_work, read_ledger
from bitvar.bulk.folder import OutputFolder, PlannedImage
from bitvar.errors import UsageError
from bitvar.pipeline.record import read_record
from bitvar.pipeline.request import GenerationRequest
from tests.support.drawing import QuickPipeline, item, visible_files
from tests.support.tiny import rough_pipeline


def draw(items: list[WorkItem], folder: Path, pipeline: Any = None, **options: Any) -> Any:
    return generate_work(pipeline or QuickPipeline(), items, folder, **{"batch_size": 4, **options})


def test_images_and_ledger_say_the_same(tmp_path: Path) -> None:
    items = [item(i, file=f"{i:05d}/samples/0000.png", note={"id": f"p{i}"}) for i in range(5)]
    result = draw(items, tmp_path)
    assert (result.drawn, result.already_there) == (5, 0)
    assert sorted(visible_files(tmp_path)) == [one.file for one in items]
    lines = read_ledger(tmp_path)
    assert lines == result.lines
    for one, line in zip(items, lines, strict=True):
        data = (tmp_path / one.file).read_bytes()
        assert (line.file, line.prompt, line.seed, line.note) == (one.file, one.prompt, one.seed, one.note)
        assert (line.sha256, line.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
        record = read_record(tmp_path / one.file)
        assert (record.prompt, record.seed, record.model) == (line.prompt, line.seed, line.model)
        assert line.settings["dtype"] == "float32"
    assert [line.batch for line in lines] == [4, 4, 4, 4, 1]


def test_what_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    draw([item(i) for i in range(6)], tmp_path)
    before, pipeline = visible_files(tmp_path), QuickPipeline()
    result = draw([item(i) for i in range(9)], tmp_path, pipeline)
    assert (result.already_there, result.drawn) == (6, 3)
    assert [seed for _, seed in pipeline.drawn] == [6, 7, 8]
    assert {name: visible_files(tmp_path)[name] for name in before} == before
    (tmp_path / "0003.png").unlink()
    again = draw([item(i) for i in range(9)], tmp_path)
    assert again.drawn == 1
    assert visible_files(tmp_path)["0003.png"] == before["0003.png"]
    assert [line.file for line in read_ledger(tmp_path)] == [f"{i:04d}.png" for i in range(9)]
    assert len((tmp_path / LEDGER).read_text().splitlines()) == 9


def test_images_of_equal_settings_are_drawn_together(tmp_path: Path) -> None:
    pipeline = QuickPipeline()
    draw([item(i, guidance=float(2 + i % 2)) for i in range(8)], tmp_path, pipeline)
    assert pipeline.batches == [4, 4]
    assert [line.seed for line in read_ledger(tmp_path)] == list(range(8))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_batch_changes_no_byte(tmp_path: Path, batch_size: int) -> None:
    pipeline, prompts = rough_pipeline(tmp_path), ["a red circle", "a dog", "two cats on a square"]
    items = [
        WorkItem(f"{i}.png", GenerationRequest(prompts=(prompts[i % 3],), height=16, width=16), seed=i)
        for i in range(5)
    ]
    draw(items, tmp_path / "images", pipeline, batch_size=batch_size)
    alone = pipeline("a dog", seed=4, height=16, width=16).save(tmp_path / "alone.png")
    assert (tmp_path / "images" / "4.png").read_bytes() == alone[0].read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "another thing"}, "its prompt was 'thing 2', now 'another thing'"),
        ({"seed": 77}, "its seed was 2, now 77"),
        ({"guidance": 7.0}, "prompt and seed are the same"),
        ({"digest": "cd" * 32}, "prompt and seed are the same"),
        ({"dtype": "torch.bfloat16"}, "prompt and seed are the same"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_an_image_of_other_settings_is_neither_taken_nor_replaced(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    draw([item(i) for i in range(4)], tmp_path)
    before, ledger = visible_files(tmp_path), (tmp_path / LEDGER).read_bytes()
    pipeline = QuickPipeline(**{name: change[name] for name in ("digest", "dtype") if name in change})
    other = item(2, guidance=change.get("guidance"))
    request = other.request.model_copy(update={"prompts": (change.get("prompt", other.prompt),)})
    with pytest.raises(UsageError) as caught:
        draw([WorkItem(other.file, request, change.get("seed", 2))], tmp_path, pipeline)
    assert "0002.png was made with other settings" in str(caught.value) and words in str(caught.value)
    assert (visible_files(tmp_path), (tmp_path / LEDGER).read_bytes(), pipeline.drawn) == (before, ledger, [])


def test_files_that_the_ledger_does_not_know_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "0001.png").write_bytes(b"mine")
    pipeline = QuickPipeline()
    with pytest.raises(UsageError, match=r"0001\.png is in the way"):
        draw([item(0), item(1)], tmp_path, pipeline)
    assert visible_files(tmp_path) == {"0001.png": b"mine"} and pipeline.drawn == []
    (tmp_path / "0001.png").unlink()
    draw([item(0), item(1)], tmp_path)
    (tmp_path / "0001.png").write_bytes(b"shorter")
    with pytest.raises(UsageError, match=r"0001\.png was altered"):
        draw([item(0), item(1)], tmp_path)


def test_a_file_that_appears_while_it_is_drawn_is_left_alone(tmp_path: Path) -> None:
    pipeline = QuickPipeline(before=lambda batch: (tmp_path / "0001.png").write_bytes(b"mine") and None)
    with pytest.raises(UsageError, match=r"0001\.png is in the way"):
        draw([item(0), item(1), item(2)], tmp_path, pipeline)
    assert (tmp_path / "0001.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("../a.png", "no plain path"),
        ("/a.png", "no plain path"),
        ("a//b.png", "no plain path"),
        ("a\\b.png", "no plain path"),
        ("", "no plain path"),
        (".bulk/a.png", "dot in front"),
        ("a.txt", "the suffix names the format"),
        ("x" * 300 + ".png", "255 bytes"),
        ("0000.PNG", "Two images would go to"),
    ],
    ids=["up", "root", "double", "backslash", "empty", "hidden", "suffix", "long", "twice"],
)
def test_bad_names_are_refused_before_anything_is_drawn(tmp_path: Path, file: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        draw([item(0), item(1, file=file)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_lists_that_can_not_be_drawn(tmp_path: Path) -> None:
    two = WorkItem("a.png", GenerationRequest(prompts=("a", "b")), 0)
    with pytest.raises(UsageError, match="for several images"):
        draw([two], tmp_path)
    with pytest.raises(UsageError, match="out of range"):
        draw([item(0)], tmp_path, batch_size=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="a file is in its place"):
        draw([item(0)], tmp_path / "file")
    assert draw([], tmp_path / "empty").lines == []


def test_two_threads_share_a_list(tmp_path: Path) -> None:
    items, pipelines = [item(i) for i in range(40)], [QuickPipeline(seconds=0.005) for _ in range(2)]
    threads = [threading.Thread(target=draw, args=(items, tmp_path, pipeline)) for pipeline in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(pipeline.drawn for pipeline in pipelines)
    assert sorted(seed for pipeline in pipelines for _, seed in pipeline.drawn) == list(range(40))
    assert [line.seed for line in read_ledger(tmp_path)] == list(range(40))
    assert list((tmp_path / ".bulk" / "claims").iterdir()) == list((tmp_path / ".bulk" / "partial").iterdir()) == []


def test_a_run_takes_over_what_another_gives_up(tmp_path: Path) -> None:
    place, logged = OutputFolder(tmp_path), list[str]()
    claim = place.claim(PlannedImage(item(1), "", 0))
    assert claim is not None

    def log(text: str) -> None:
        logged.append(text)
        if "waiting" in text:
            claim.release()

    assert draw([item(0), item(1)], tmp_path, log=log).drawn == 2
    assert [text.split(",")[0] for text in logged] == [
        "1 of 2 images", "waiting for 1 images that other processes draw", "2 of 2 images",
    ]  # fmt: skip


def test_an_error_keeps_what_was_made(tmp_path: Path) -> None:
    def fail(batch: int) -> None:
        if batch == 1:
            raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="gone"):
        draw([item(i) for i in range(8)], tmp_path, QuickPipeline(before=fail))
    pipeline = QuickPipeline()
    assert draw([item(i) for i in range(8)], tmp_path, pipeline).already_there == 4
    assert len(pipeline.drawn) == 4


def test_a_damaged_ledger_is_named_by_line(tmp_path: Path) -> None:
    draw([item(i) for i in range(3)], tmp_path)
    lines = (tmp_path / LEDGER).read_text().splitlines()
    for damage in ("{", json.dumps({**json.loads(lines[1]), "sha256": "x"}), "[]"):
        (tmp_path / LEDGER).write_text("\n".join([lines[0], damage, lines[2], ""]))
        with pytest.raises(UsageError, match="line 2: "):
            draw([item(i) for i in range(3)], tmp_path)
    with pytest.raises(UsageError, match="There is no"):
        read_ledger(tmp_path / "elsewhere")
