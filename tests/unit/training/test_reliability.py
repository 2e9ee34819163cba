"""What a run's checkpoints survive (docs/reliability.md): kills, full disks, altered files, and two runs at once."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bitvar.errors import UsageError, WeightsError
from bitvar.training.config import IntervalConfig
from bitvar.training.engine import checkpoint, loop, shards
from bitvar.training.engine.loop import TrainingStoppedError
from bitvar.weights.digests import MANIFEST, verify_folder, write_manifest
from tests.support.tiny import toy_set
from tests.unit.training.test_training import (
    assert_same_run,
    metrics,
    optimization,
    saved,
    train,
    transformer_task,
    transformer_training,
)

ROOT = Path(__file__).parents[3]
STEPS, SAVE = 40, 3

# B: integrity


@pytest.fixture(scope="module")
def sharded_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its weights in two shards, as large models have them."""
    folder = tmp_path_factory.mktemp("run")
    train(transformer_training(), folder)
    made = folder / "checkpoints" / "step-00000006"
    for i in range(2):
        save_file({"w": torch.randn(64, 64) + i}, made / f"model-0000{i + 1}-of-00002.safetensors")
    write_manifest(made)
    return made


def victims(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != MANIFEST)


def flip_bit(folder: Path, rng: random.Random) -> Path:
    path = rng.choice(victims(folder))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return path


def zero_block(folder: Path, rng: random.Random) -> Path:
    path = rng.choice([p for p in victims(folder) if p.suffix == ".safetensors"])
    data = bytearray(path.read_bytes())
    start = rng.randrange(max(1, len(data) - 4096))
    length = len(data[start : start + 4096])
    if not any(data[start : start + length]):
        start, length = 0, 8  # the header is never zero
    data[start : start + length] = bytes(length)
    path.write_bytes(data)
    return path


def truncate(folder: Path, rng: random.Random) -> Path:
    path = rng.choice(victims(folder))
    os.truncate(path, rng.randrange(path.stat().st_size))
    return path


def append(folder: Path, rng: random.Random) -> Path:
    path = rng.choice(victims(folder))
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 64)))
    return path


def swap_shards(folder: Path, rng: random.Random) -> Path:
    one, other = rng.sample([p for p in victims(folder) if p.suffix == ".safetensors"], 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return one


def delete_shard(folder: Path, rng: random.Random) -> Path:
    path = rng.choice(victims(folder))
    path.unlink()
    return path


def stale_manifest(folder: Path, rng: random.Random) -> Path:
    path = rng.choice(victims(folder))
    sums = json.loads((folder / MANIFEST).read_text())
    sums[path.name] = rng.randbytes(32).hex()
    (folder / MANIFEST).write_text(json.dumps(sums))
    return path


MUTATIONS = (flip_bit, zero_block, truncate, append, swap_shards, delete_shard, stale_manifest)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
def test_no_altered_checkpoint_passes(
    sharded_checkpoint: Path, tmp_path: Path, mutate: Callable[[Path, random.Random], Path]
) -> None:
    rng = random.Random(mutate.__name__)
    for case in range(100):
        copy = tmp_path / f"step-{case:08d}"
        shutil.copytree(sharded_checkpoint, copy)
        victim = mutate(copy, rng)
        with pytest.raises(WeightsError) as error:
            verify_folder(copy)
        assert victim.name in str(error.value)
        assert "missing" in str(error.value) or str(error.value).count("sha256") >= 1
        shutil.rmtree(copy)


def test_a_damaged_checkpoint_is_passed_over_aloud(tmp_path: Path) -> None:
    """Fifty times: the run falls back to the checkpoint before, says so, and ends where an undamaged one does."""
    config = transformer_training()
    train(config, tmp_path / "whole")
    rng = random.Random(0)
    for case in range(50):
        folder = tmp_path / f"run-{case}"
        shutil.copytree(tmp_path / "whole", folder)
        victim = MUTATIONS[case % len(MUTATIONS)](folder / "checkpoints" / "step-00000006", rng)
        lines: list[str] = []
        if case % 10 == 0:
            train(config, folder, report=lines.append)
            assert_same_run(tmp_path / "whole", folder)
            assert "resuming at step 4" in lines
        else:
            found = checkpoint.latest(folder / "checkpoints", log=lines.append)
            assert found is not None
            assert found.name == "step-00000004"
        assert victim.name in lines[0]
        assert "checkpoint before it" in lines[0]
        shutil.rmtree(folder)


def test_a_run_whose_every_checkpoint_is_damaged_does_not_start_over(tmp_path: Path) -> None:
    config = transformer_training()
    train(config, tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        flip_bit(folder, random.Random(0))
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(WeightsError, match=r"No checkpoint[\s\S]*in silence"):
        train(config, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_training_goes_on_while_a_checkpoint_s_digests_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B3: a step waits for the copy of the state alone. Here no digest is done before two more steps are."""
    config = transformer_training(intervals=IntervalConfig(log=1, save=3))
    ahead, lines = threading.Event(), list[str]()
    plain = checkpoint.digest

    def report(line: str) -> None:
        lines.append(line)
        if line.startswith("step 5/"):
            ahead.set()

    def slow(path: Path) -> str:
        assert ahead.wait(60), "training waits for the digest"
        return plain(path)

    monkeypatch.setattr(checkpoint, "digest", slow)
    train(config, tmp_path, report=report)
    for step in (3, 6):
        verify_folder(tmp_path / "checkpoints" / f"step-{step:08d}")
    assert saved(tmp_path, 3)["model/start_token"].isfinite().all()


def test_a_save_that_fails_in_the_background_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checkpoint, "digest", full)
    with pytest.raises(OSError, match="No space left"):
        train(transformer_training(), tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


# A: crashes


def test_a_request_to_stop_saves_where_it_is(tmp_path: Path) -> None:
    config = transformer_training()
    train(config, tmp_path / "whole")
    seen: list[str] = []
    run = loop.TrainerConfig(
        tmp_path / "cut", config.dump(), config.optimization, config.intervals,
        stop=lambda: any(line.startswith("step 3/") for line in seen), log=seen.append,
    )  # fmt: skip
    with pytest.raises(TrainingStoppedError, match="step 3"):
        loop.train(transformer_task(config), run)
    assert (tmp_path / "cut" / "checkpoints" / "step-00000003").is_dir()
    train(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_request_that_comes_while_a_step_ends_loses_nothing(tmp_path: Path) -> None:
    """Whichever question is the first to be answered with yes, the step that the message names is saved."""
    config = transformer_training()
    for first_yes in range(1, 6):
        asked = 0

        def stop(first_yes: int = first_yes) -> bool:
            nonlocal asked
            asked += 1
            return asked >= first_yes

        folder = tmp_path / str(first_yes)
        run = loop.TrainerConfig(folder, config.dump(), config.optimization, config.intervals, stop=stop)
        with pytest.raises(TrainingStoppedError) as stopped:
            loop.train(transformer_task(config), run)
        newest = checkpoint.latest(folder / "checkpoints")
        assert newest is not None
        assert str(stopped.value).startswith(f"Stopped at step {int(newest.name[5:])};")


def test_a_request_to_stop_at_the_last_step_finds_the_run_finished(tmp_path: Path) -> None:
    config = transformer_training()
    seen: list[str] = []
    run = loop.TrainerConfig(
        tmp_path, config.dump(), config.optimization, config.intervals,
        stop=lambda: any(line.startswith("step 6/") for line in seen), log=seen.append,
    )  # fmt: skip
    loop.train(transformer_task(config), run)
    assert saved(tmp_path)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(UsageError, match="Another process is training"):
        train(transformer_training(), tmp_path)


def test_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step-00000002.12345.partial"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    train(transformer_training(), tmp_path)
    assert not left.exists()
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=lambda c: errno.errorcode[c])
def test_a_failing_disk_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The disk fails at each of the save's writes in turn; the checkpoint before stays, whole and unpruned."""
    config = transformer_training()
    train(config, tmp_path / "whole")
    calls = {"write_tensors": shards, "write_text": Path, "fsync": os, "replace": Path, "mkdir": Path}
    failed = 0
    for fail_at in range(1, 25):
        folder = tmp_path / f"run-{fail_at}"
        shutil.copytree(tmp_path / "whole", folder)
        checkpoints = folder / "checkpoints"
        shutil.rmtree(checkpoints / "step-00000006")
        count = 0

        def failing(plain: Callable[..., Any], fail_at: int = fail_at) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == fail_at:
                    raise OSError(code, os.strerror(code), "disk")
                return plain(*args, **options)

            return call

        restored = transformer_task(config)
        opt = loop.build_optimizer(restored.model, config.optimization)
        training = checkpoint.TrainState(restored.model, loop.Ema(restored.model, 0.9), opt)
        checkpoint.restore(training, checkpoints / "step-00000004", config=config.dump())
        training.step = 6
        with monkeypatch.context() as patch:
            for name, owner in calls.items():
                patch.setattr(owner, name, failing(getattr(owner, name)))
            try:
                save(training, checkpoints, keep=1)
            except OSError as error:
                assert error.errno == code
                failed += 1
        newest = checkpoint.latest(checkpoints)
        assert newest is not None
        assert newest.name in ("step-00000004", "step-00000006")
        assert not list(checkpoints.glob(".*.partial"))
        shutil.rmtree(folder)
    assert failed >= 15


def save(training: checkpoint.TrainState, folder: Path, *, keep: int) -> None:
    """Write a checkpoint, and wait for it."""
    saver = checkpoint.Saver(folder, config=transformer_training().dump(), keep=keep)
    try:
        saver.save(training)
    finally:
        saver.close()


def long_config() -> Any:
    """A run of milliseconds a step that saves every `SAVE`th one."""
    intervals = IntervalConfig(log=1, validation=10, sample=100, save=SAVE, keep=2)
    return transformer_training(optimization=optimization(steps=STEPS), intervals=intervals)


def long_run(folder: Path) -> None:
    """The body of a run that gets killed, in a process of its own."""
    torch.set_num_threads(1)
    config = long_config()

    def report(line: str) -> None:
        print(line, flush=True)  # noqa: T201  (this is what the parent reads)

    loop.train(
        transformer_task(config),
        loop.TrainerConfig(folder, config.dump(), config.optimization, config.intervals, log=report),
    )


def spawn(folder: Path) -> subprocess.Popen[str]:
    code = (
        "import sys, pathlib; from tests.unit.training import test_reliability as t;"
        " t.long_run(pathlib.Path(sys.argv[1]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_after(folder: Path, num_steps: int, delay: float, *, at_save: bool) -> bool:
    """Start or resume the run and SIGKILL it `delay` seconds after `num_steps` steps, or at the next step that saves.

    Returns whether it was killed about a save.
    """
    process = spawn(folder)
    assert process.stdout is not None
    seen = 0
    for line in process.stdout:
        if line.startswith("step "):
            seen += 1
            step = int(line.split()[1].split("/")[0])
            if seen >= num_steps and (step % SAVE == 0 or not at_save):
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait(timeout=120) == -signal.SIGKILL, "it ended before it could be killed"
    process.stdout.close()
    return at_save


@pytest.mark.slow
def test_killed_at_random_a_run_ends_where_an_undisturbed_one_does(tmp_path: Path) -> None:
    """25 SIGKILLs in five runs, ten of them during a save: every final tensor and every metric is the same."""
    long_run(tmp_path / "whole")
    rng = random.Random(0)
    about_a_save = 0
    for case in range(5):
        folder = tmp_path / f"run-{case}"
        for kill in range(5):
            # A save takes some milliseconds and begins right after its step is reported.
            about_a_save += kill_after(folder, rng.randint(1, 4), rng.random() * 0.02, at_save=kill % 2 == 1)
        long_run(folder)
        ours, theirs = (saved(f, STEPS) for f in (folder, tmp_path / "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert metrics(folder) == metrics(tmp_path / "whole")
    assert about_a_save == 10


CRASHING = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from bitvar.data.order import SampleOrder
from bitvar.training.engine import checkpoint, loop
from bitvar.training.engine.microbatch import micro_batches_of
from bitvar.training.engine.update import Updater
from tests.unit.training.test_reliability import long_config, save
from tests.unit.training.test_training import transformer_task

folder = Path(sys.argv[1])
config = long_config()
task = transformer_task(config)
optimizer = loop.build_optimizer(task.model, config.optimization)
training = checkpoint.TrainState(task.model, loop.Ema(task.model, 0.9), optimizer)
batches = task.batches(micro_batches_of(SampleOrder(task.counts, 2, 0), range(1)))
Updater(training, task.loss, config.optimization).step(batches)
for step in (3, 6):
    training.step = step
    save(training, folder / "base", keep=2)

writing = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")


def crash_at(number):
    count = 0

    def hook(event, arguments):
        nonlocal count
        reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        flushes = event == "open" and reads and ".partial" in str(arguments[0])
        if event in writing and (not reads or flushes):
            count += 1
            if count == number:
                os._exit(9)

    sys.addaudithook(hook)


for number in range(1, 200):
    child = os.fork()
    if child == 0:
        import shutil
        copy = folder / f"copy-{number}"
        shutil.copytree(folder / "base", copy)
        training.step = 9
        crash_at(number)
        save(training, copy, keep=2)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(number - 1)
        break
"""


def test_wherever_a_save_stops_a_whole_checkpoint_is_found(tmp_path: Path) -> None:
    """The process dies before each file operation of a save in turn (A4); none leaves the run without a checkpoint."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    operations = int(done.stdout)
    assert operations >= 15
    newest = []
    for number in range(1, operations + 2):
        found = checkpoint.latest(tmp_path / f"copy-{number}")
        assert found is not None
        newest.append(found.name)
    assert newest[0] == "step-00000006"
    assert newest[-1] == "step-00000009"
    assert newest == sorted(newest)


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True])
def test_sigterm_saves_and_exits_with_143(tmp_path: Path, to_all: bool) -> None:
    """Ten times, through the command itself: within ten seconds there is a checkpoint and the process is gone.

    Also where its workers are told to stop as well, as clusters do.
    """
    command = [
        str(Path(sys.executable).with_name("bitvar")), "train", str(ROOT / "recipes" / "icons" / "tokenizer.py"),
        "--data", str(toy_set(tmp_path / "data")), "--set", "optimization.batch_size=2",
        "--set", "model.base_channels=8", "--set", "intervals.log=1", "--set", "optimization.steps=100000",
    ]  # fmt: skip
    for case in range(10):
        out = tmp_path / f"run-{case}"
        process = subprocess.Popen(
            [*command, "--out", str(out)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"step {2 + case % 3}/"):
                break
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGTERM)
        began = time.monotonic()
        rest = process.stderr.read()
        assert process.wait(timeout=10) == 143, rest
        assert time.monotonic() - began < 10
        assert "the same command resumes" in rest
        assert checkpoint.latest(out / "checkpoints") is not None
        process.stderr.close()
