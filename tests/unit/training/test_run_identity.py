"""What a run must find unchanged to go on: configuration, frozen parts and data, by content, named when they differ."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from bitvar.data.index_writing import build_index
from bitvar.errors import UsageError
from bitvar.training.config import IntervalConfig
from bitvar.training.engine import checkpoint, loop
from bitvar.training.engine.identity import FileDigests, RunIdentity, describe_data, require_same
from bitvar.training.engine.optim import learning_rate
from tests.support.tiny import toy_set
from tests.unit.training.test_streaming import make_images
from tests.unit.training.test_training import (
    assert_same_run,
    optimization,
    train,
    transformer_task,
    transformer_training,
)

PARTS = {"--tokenizer": "a" * 64, "--text-encoder": "b" * 64, "data (images)": "c" * 64}


def data_of(folder: Path, cache: Path) -> dict[str, str]:
    return describe_data(folder, FileDigests(cache), images=lambda: sorted(folder.rglob("*.png")))


def change_caption(folder: Path) -> None:
    path = folder / "samples.jsonl"
    path.write_text(path.read_text().replace("a red circle 0", "a red circle 9", 1))


def replace_image(folder: Path) -> None:
    """Of the same size in bytes, with its old times given back."""
    path = folder / "images" / "train-3.png"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap_images(folder: Path) -> None:
    one, other = folder / "images" / "train-0.png", folder / "images" / "train-1.png"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (change_caption, "data (samples.jsonl)"),
        (replace_image, "data (images)"),
        (swap_images, "data (images)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_change_of_a_captioned_set_is_seen(tmp_path: Path, change: Callable[[Path], None], field: str) -> None:
    folder = toy_set(tmp_path / "set")
    before = data_of(folder, tmp_path / "cache.json")
    assert data_of(folder, tmp_path / "cache.json") == before
    change(folder)
    now = data_of(folder, tmp_path / "cache.json")
    assert [name for name in before if before[name] != now[name]] == [field]
    assert data_of(folder, tmp_path / "no-cache.json") == now


def test_moving_a_set_changes_nothing(tmp_path: Path) -> None:
    folder = toy_set(tmp_path / "set")
    before = data_of(folder, tmp_path / "cache.json")
    shutil.copytree(folder, tmp_path / "other")
    assert data_of(tmp_path / "other", tmp_path / "cache.json") == before


def test_files_of_a_folder_and_of_an_index_count(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    build_index(folder, tmp_path / "index", validation=0.2)
    plain, index = data_of(folder, tmp_path / "c.json"), data_of(tmp_path / "index", tmp_path / "c.json")
    path = sorted(folder.rglob("*.png"))[0]
    path.rename(path.with_name("renamed.png"))
    assert data_of(folder, tmp_path / "c.json") != plain
    assert data_of(tmp_path / "index", tmp_path / "c.json") == index
    texts = tmp_path / "index" / "texts.bin"
    data = bytearray(texts.read_bytes())
    data[0] ^= 1
    texts.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"is damaged[\s\S]*texts\.bin is sha256"):
        data_of(tmp_path / "index", tmp_path / "c.json")


@pytest.mark.parametrize("junk", [b"", b"\0" * 40, b"[1]", b'{"a": 1}', b"\xff"])
def test_a_damaged_cache_of_digests_is_made_again(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    right = FileDigests(tmp_path / "c.json").of([path])
    (tmp_path / "c.json").write_bytes(junk)
    assert FileDigests(tmp_path / "c.json").of([path]) == right
    json.loads((tmp_path / "c.json").read_text())


def test_a_file_that_is_gone_or_a_pipe_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "pipe"):
        with pytest.raises(UsageError, match=name):
            FileDigests(tmp_path / "c.json").of([tmp_path / name])


@pytest.mark.parametrize("name", PARTS)
def test_a_run_whose_parts_changed_is_refused_by_name(tmp_path: Path, name: str) -> None:
    config = transformer_training()
    train(config, tmp_path, identity=PARTS)
    other = {**PARTS, name: "d" * 64}
    with pytest.raises(UsageError) as error:
        train(config, tmp_path, identity=other)
    text = str(error.value)
    assert f"{name} was sha256 {PARTS[name][:12]}, now sha256 dddddddddddd" in text
    assert text.count("\n") == 2
    assert "another --out" in text
    train(config, tmp_path, identity=PARTS)


def test_fields_are_compared_by_name(tmp_path: Path) -> None:
    """A field of a later version is unknown to an older checkpoint, and the other way round."""
    config = transformer_training()
    train(config, tmp_path, identity=PARTS)
    train(config, tmp_path, identity={**PARTS, "a later field": "e" * 64})
    train(config, tmp_path, identity={"--tokenizer": PARTS["--tokenizer"]})
    saved = RunIdentity({"model": {"depth": 1}, "old": 1}, {})
    assert RunIdentity({"model": {"depth": 1, "new": 3}, "old": 1}, {}).changes_from(saved) == []
    changes = RunIdentity({"model": {"depth": 2}}, {}).changes_from(saved)
    assert [str(change) for change in changes] == ["model.depth was 1, now 2", "old was 1, now not set"]


def test_a_checkpoint_from_before_a_setting_is_held_to_what_it_computed() -> None:
    old = RunIdentity({"optimization": {"seed": 0}})
    same, other = (RunIdentity({"optimization": {"seed": 0, "muon_precision": dtype}}) for dtype in ("fp32", "bf16"))
    assert same.changes_from(old) == []
    assert [str(change) for change in other.changes_from(old)] == ['optimization.muon_precision was "fp32", now "bf16"']
    assert [change.before for change in same.changes_from(other)] == ['"bf16"']


def test_a_checkpoint_from_before_identities_is_taken_with_a_warning(tmp_path: Path) -> None:
    config, lines = transformer_training(), list[str]()
    train(config, tmp_path)
    train(config, tmp_path, identity=PARTS, report=lines.append)
    assert any(line.startswith("WARNING") and "was saved before checkpoints recorded" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reweighted": True}, "reweighted was false, now true"),
        ({"condition_dropout": 0.2}, "condition_dropout was 0.1, now 0.2"),
        ({"optimization": optimization(learning_rate=1e-4)}, "optimization.learning_rate was"),
        ({"optimization": optimization(seed=5)}, "optimization.seed was 0, now 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_changed_settings_show_both_values(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    train(transformer_training(), tmp_path)
    with pytest.raises(UsageError, match=r"other settings[\s\S]*--init") as error:
        train(transformer_training(**changes), tmp_path)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["log", "validation", "sample", "save", "keep"])
def test_intervals_may_change(tmp_path: Path, name: str) -> None:
    config = transformer_training()
    train(config, tmp_path)
    intervals = config.intervals.model_copy(update={name: 1})
    train(transformer_training(intervals=intervals), tmp_path)


def test_more_steps_need_extend_and_then_follow_the_longer_schedule(tmp_path: Path) -> None:
    config, longer = transformer_training(), transformer_training(optimization=optimization(steps=10))
    train(config, tmp_path)
    with pytest.raises(UsageError, match=r"optimization.steps was 6, now 10\n[\s\S]*--extend[\s\S]*--init"):
        train(longer, tmp_path)
    lines: list[str] = []
    train(longer, tmp_path, extend=True, report=lines.append)
    assert any(line.startswith("extended from 6 to 10 steps: ") for line in lines)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000010"
    assert json.loads((newest / "state.json").read_text())["extensions"] == [{"at": 6, "from": 6, "to": 10}]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["learning_rate"] for row in rows if row["phase"] == "train"}
    assert rates[7] == pytest.approx(learning_rate(6, longer.optimization))
    train(longer, tmp_path)  # it is a run of ten steps now
    train(longer, tmp_path, extend=True)
    with pytest.raises(UsageError, match="takes none away"):
        train(config, tmp_path, extend=True)
    with pytest.raises(UsageError, match=r"optimization.steps was 10, now 6"):
        train(config, tmp_path)


def test_an_extended_run_that_is_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    config, longer = transformer_training(), transformer_training(optimization=optimization(steps=10))
    for name in ("whole", "cut"):
        train(config, tmp_path / name)
    train(longer, tmp_path / "whole", extend=True)

    def die(line: str) -> None:
        if line.startswith("step 9/"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(longer, tmp_path / "cut", extend=True, report=die)
    train(longer, tmp_path / "cut", extend=True)
    a, b = ((tmp_path / name / "checkpoints" / "step-00000010" / "ema.safetensors") for name in ("whole", "cut"))
    assert a.read_bytes() == b.read_bytes()


def test_extend_changes_nothing_but_the_steps(tmp_path: Path) -> None:
    train(transformer_training(), tmp_path)
    with pytest.raises(UsageError, match=r"optimization.seed was 0, now 3; optimization.steps was 6, now 10"):
        train(transformer_training(optimization=optimization(steps=10, seed=3)), tmp_path, extend=True)


def test_require_same_says_nothing_of_equals() -> None:
    one = RunIdentity({"a": 1}, PARTS)
    assert require_same(one, one, checkpoint=Path("x")) is None


# Names in a run's folder that are none of ours


def test_what_somebody_else_put_among_the_checkpoints_stays(tmp_path: Path) -> None:
    config = transformer_training()
    train(config, tmp_path / "whole")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-4.backup").mkdir(parents=True)
    (folder / "step-notes").mkdir()
    (folder / "step-00000099.old").mkdir()
    (folder / "step-4").mkdir()
    (folder / "step-00000001").write_text("a note")
    (folder / "step-9").write_text("a note")
    for name in ("step-4.backup", "step-notes", "step-4"):
        (folder / name / "mine").write_text("mine")
    theirs = {path.name for path in folder.iterdir()}
    train(config, tmp_path / "run")
    made = {path.name for path in folder.iterdir()}
    assert made == theirs | {"step-00000004", "step-00000006"}
    assert (folder / "step-notes" / "mine").read_text() == "mine"
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    train(config, tmp_path / "run")  # still the newest


def test_a_name_in_the_way_stops_a_save_and_is_not_deleted(tmp_path: Path) -> None:
    config, lines = transformer_training(), list[str]()
    theirs = tmp_path / "checkpoints" / "step-00000002"
    theirs.mkdir(parents=True)
    (theirs / "mine").write_text("mine")
    with pytest.raises(
        checkpoint.WeightsError, match="No checkpoint"
    ):  # it could be a damaged one: nothing starts over
        train(config, tmp_path, report=lines.append)
    assert (theirs / "mine").read_text() == "mine"


# The best checkpoint


def figures(folder: Path, values: list[float], *, keep: int = 1) -> None:
    """A run validated at every step, with these losses."""
    config = transformer_training(
        optimization=optimization(steps=len(values)), intervals=IntervalConfig(log=1, validation=1, save=100, keep=keep)
    )
    task = transformer_task(config)
    left = iter(values)
    task.validate = lambda model, ranks: {"loss": next(left)}  # type: ignore[method-assign]
    loop.train(task, loop.TrainerConfig(folder, config.dump(), config.optimization, config.intervals))


@pytest.mark.parametrize(
    ("values", "kept", "best"),
    [
        ([0.5, 0.3, 0.4, 0.6], [2, 4], 2),
        ([0.5, 0.4, 0.3, 0.2], [4], 4),
        ([0.2, 0.3, float("nan"), 0.4], [1, 4], 1),
    ],
    ids=str,
)
def test_the_checkpoint_of_the_best_validation_is_kept(
    tmp_path: Path, values: list[float], kept: list[int], best: int
) -> None:
    from bitvar.training.export import pick_best

    figures(tmp_path, values)
    assert sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir()) == kept
    assert pick_best(tmp_path).name == f"step-{best:08d}"
    assert json.loads((tmp_path / "best.json").read_text())["checkpoint"] == f"step-{best:08d}"


def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    config = transformer_training(
        optimization=optimization(steps=6), intervals=IntervalConfig(log=1, validation=1, save=100, keep=1)
    )
    losses = [0.5, 0.2, 0.4, 0.3, 0.6, 0.5]

    def go(stop_at: int | None, left: list[float]) -> None:
        task, seen = transformer_task(config), list[str]()
        values = iter(left)
        task.validate = lambda model, ranks: {"loss": next(values)}  # type: ignore[method-assign]
        run = loop.TrainerConfig(
            tmp_path, config.dump(), config.optimization, config.intervals, log=seen.append,
            stop=lambda: any(line.startswith(f"step {stop_at}/") for line in seen),
        )  # fmt: skip
        loop.train(task, run)

    with pytest.raises(loop.TrainingStoppedError):
        go(3, losses[:3])
    go(None, losses[3:])
    assert sorted(int(path.name[5:]) for path in (tmp_path / "checkpoints").iterdir()) == [2, 6]


# Stopping, and saves that fail


def test_an_interrupt_says_where_it_stopped(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    with pytest.raises(loop.TrainingInterrupted, match=r"^Stopped at step 3, which is saved; the same command resumes"):
        train(transformer_training(), tmp_path, report=interrupt)


def test_a_failed_save_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, lines = checkpoint.write_rows, list[str]()

    def full(path: Path, tensors: object) -> None:
        if "step-00000006" in str(path):
            raise OSError(28, "No space left on device", str(path))
        plain(path, tensors)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(checkpoint, "write_rows", full)
        train(transformer_training(), tmp_path / "cut", report=lines.append)
    assert any("could not be written; the checkpoint step-00000004 is whole" in line for line in lines)
    train(transformer_training(), tmp_path / "cut")
    train(transformer_training(), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_sheets_are_drawn_from_the_start(tmp_path: Path) -> None:
    steps: list[int] = []
    config = transformer_training()
    run = loop.TrainerConfig(
        tmp_path, config.dump(), config.optimization, replace_sample(config.intervals),
        sample=lambda model, path: Image.new("RGB", (4, 4)).save(ready(path)),
        log_image=lambda step, path: steps.append(step),
    )  # fmt: skip
    loop.train(transformer_task(config), run)
    assert steps == [0, 3, 6]
    train(config, tmp_path / "plain")
    ours, theirs = (
        folder / "checkpoints" / "step-00000006" / "model.safetensors" for folder in (tmp_path, tmp_path / "plain")
    )
    assert ours.read_bytes() == theirs.read_bytes()


def replace_sample(intervals: IntervalConfig) -> IntervalConfig:
    return intervals.model_copy(update={"sample": 3})


def ready(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_sheet_that_can_t_be_drawn_stops_nothing(tmp_path: Path) -> None:
    def fail(model: torch.nn.Module, path: Path) -> None:
        raise UsageError("no such prompt")

    config, lines = transformer_training(), list[str]()
    run = loop.TrainerConfig(
        tmp_path, config.dump(), config.optimization, config.intervals, sample=fail, log=lines.append
    )
    loop.train(transformer_task(config), replace(run))
    assert sum(line.startswith("WARNING: no sample sheet") for line in lines) == 4
