"""Files and folders that are whole or absent (docs/reliability.md): what is replaced, what never is, and full disks."""

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bitvar.config import read_json
from bitvar.errors import UsageError, WeightsError
from bitvar.files import atomic_path, open_plain, recover_folder, write_text
from bitvar.weights.digests import MANIFEST, atomic_folder, verify_folder
from bitvar.weights.tensors import load_tensors, write_tensors
from tests.support.tiny import tiny_pipeline, toy_set

ROOT_ONLY = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may do this")


def save(folder: Path, text: str = "new") -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "config.json").write_text(text)


def content(folder: Path) -> str:
    verify_folder(folder)
    return (folder / "inner" / "config.json").read_text()


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith((".partial", ".old"))]


# Files: permissions, links, pipes, devices, names


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        write_tensors({"a": torch.zeros(1)}, tmp_path / "b")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o640, 0o640]


def test_a_replaced_file_and_a_replaced_folder_keep_their_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "a").chmod(0o604)
    write_text(tmp_path / "a", "y")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604
    save(tmp_path / "f")
    (tmp_path / "f").chmod(0o750)
    save(tmp_path / "f")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o750


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "store").mkdir()
    target, link, second = tmp_path / "store" / "file", tmp_path / "link", tmp_path / "second"
    if there:
        target.write_text("old")
    link.symlink_to("store/file")
    second.symlink_to(link)
    write_text(second, "new")
    assert link.is_symlink()
    assert second.is_symlink()
    assert target.read_text() == "new"
    assert not hidden(tmp_path) + hidden(tmp_path / "store")


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "a", "x")
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "a").is_symlink()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with atomic_path(pipe) as temporary:
        Image.new("RGB", (3, 2)).save(temporary, format="PNG")
    reader.join(10)
    assert got[0].startswith(b"\x89PNG")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]  # noqa: PTH208


@ROOT_ONLY
def test_a_device_is_written_to(tmp_path: Path) -> None:
    node = tmp_path / "null"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        node.write_bytes(b"x")
    except OSError:
        pytest.skip("no device can be made here")
    write_tensors({"a": torch.zeros(1)}, tmp_path / "plain")
    write_text(node, "x")
    assert stat.S_ISCHR(node.lstat().st_mode)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full"])
def test_known_devices_stay_what_they_are(name: str) -> None:
    if not Path(name).is_char_device():
        pytest.skip(f"no {name} here")
    failure = pytest.raises(OSError, match="No space left") if name == "/dev/full" else contextlib.nullcontext()
    with failure as caught:
        write_text(Path(name), "x")
    assert caught is None or caught.value.filename == name
    assert Path(name).is_char_device()


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("into_file", [False, True])
def test_standard_output_is_written_to(tmp_path: Path, link: bool, into_file: bool) -> None:
    if not Path("/dev/stdout").exists():
        pytest.skip("no /dev/stdout here")
    path = Path("/dev/stdout")
    if link:
        path = tmp_path / "link"
        path.symlink_to("/dev/stdout")
    code = (
        "import sys, pathlib; from bitvar.files import write_text; print('a', flush=True);"
        "write_text(pathlib.Path(sys.argv[1]), 'b\\n'); print('c', flush=True)"
    )
    out = tmp_path / "out"
    out.write_text("before\n")
    with out.open("a") as stream:
        where = stream if into_file else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", code, str(path)], stdout=where, text=True, check=True)
    assert (out.read_text() if into_file else f"before\n{done.stdout}") == "before\na\nb\nc\n"


@pytest.mark.parametrize(
    "name", ["a" * 255, "\N{SNOWMAN}" * 85, "\N{GRINNING FACE}" * 63 + "abc", "\udcff" * 255, "-x"]
)
def test_every_legal_name_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    write_text(tmp_path / name, "y")
    assert (tmp_path / name).read_text() == "y"
    (tmp_path / name).unlink()
    save(tmp_path / name)
    save(tmp_path / name, "newer")
    assert content(tmp_path / name) == "newer"
    assert not hidden(tmp_path)


@pytest.mark.parametrize("write", [write_text, save], ids=["file", "folder"])
def test_four_threads_may_write_to_one_path(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    failures = list[Exception]()

    def often(number: int) -> None:
        try:
            for i in range(15):
                write(tmp_path / "out", f"{number} {i} " * 1000)
        except Exception as error:  # reported below
            failures.append(error)

    threads = [threading.Thread(target=often, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    text = (tmp_path / "out").read_text() if write is write_text else content(tmp_path / "out")
    assert text == text[: len(text) // 1000] * 1000
    assert hidden(tmp_path) == []


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "file", tmp_path):
        with pytest.raises(OSError) as caught:
            write_text(path, "x")
        assert caught.value.filename == str(path)


# Folders that are not ours


def user_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    return folder


def git_checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    save(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    return folder


def ours_and_a_note(tmp_path: Path) -> Path:
    save(tmp_path / "model")
    (tmp_path / "model" / "notes.md").write_text("mine")
    return tmp_path / "model"


def ours_and_an_empty_folder(tmp_path: Path) -> Path:
    save(tmp_path / "model")
    (tmp_path / "model" / "later").mkdir()
    return tmp_path / "model"


def link_to_users(tmp_path: Path) -> Path:
    (tmp_path / "link").symlink_to(user_folder(tmp_path))
    return tmp_path / "link"


def ours_with_a_link_in_it(tmp_path: Path) -> Path:
    save(tmp_path / "model")
    (tmp_path / "model" / "link").symlink_to(user_folder(tmp_path))
    return tmp_path / "model"


def a_run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    save(tmp_path / "run" / "model")
    return tmp_path / "run"


def a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file"


def a_pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def a_manifest_that_is_a_pipe(tmp_path: Path) -> Path:
    folder = user_folder(tmp_path)
    os.mkfifo(folder / MANIFEST)
    return folder


def a_circle_of_links(tmp_path: Path) -> Path:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    return tmp_path / "a"


def test_names_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="symbolic links"):
        save(a_circle_of_links(tmp_path))
    with pytest.raises(UsageError, match="NUL"):
        save(tmp_path / "a\0b")


FOREIGN = (
    user_folder, git_checkout, ours_and_a_note, ours_and_an_empty_folder, link_to_users, ours_with_a_link_in_it, a_run,
    a_file, a_pipe, a_manifest_that_is_a_pipe,
)  # fmt: skip


def image_of(folder: Path) -> dict[str, object]:
    return {
        str(path): path.read_bytes() if path.is_file() else path.lstat().st_mode for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    before = image_of(tmp_path)
    with pytest.raises(UsageError, match="why:"):
        save(folder)
    assert image_of(tmp_path) == before


@pytest.mark.parametrize("name", ["", ".", "..", "../..", "../../here", "/", "~"])
def test_the_places_around_the_user_are_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = tmp_path / "home" / "here" / "deep"
    here.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(here)
    with pytest.raises(UsageError, match="can't be replaced"):
        save(Path(name).expanduser())
    assert here.is_dir()


def test_a_file_that_comes_while_a_save_works_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "model", "old")
    with pytest.raises(UsageError, match=r"late\.txt"), atomic_folder(tmp_path / "model"):
        (tmp_path / "model" / "late.txt").write_text("mine")
    assert (tmp_path / "model" / "late.txt").read_text() == "mine"
    assert hidden(tmp_path) == []


def test_save_pretrained_refuses_a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline(tmp_path)
    folder = user_folder(tmp_path)
    monkeypatch.chdir(folder)
    for name in ("", ".", "..", str(folder)):
        with pytest.raises(UsageError):
            pipe.save_pretrained(name)
    assert (folder / "thesis.txt").read_text() == "mine"
    pipe.save_pretrained("model")
    pipe.save_pretrained("model")
    assert verify_folder(folder / "model")


@pytest.mark.parametrize("kind", ["absent", "empty", "ours", "link to ours", "dangling link"])
def test_what_may_be_replaced_is(tmp_path: Path, kind: str) -> None:
    folder = target = tmp_path / "model"
    if "link" in kind:
        target = tmp_path / "store"
        folder.symlink_to("store")
    if kind == "empty":
        folder.mkdir()
    if "ours" in kind:
        save(target, "old")
    save(folder)
    assert content(target) == "new"
    assert folder.is_symlink() == ("link" in kind)
    assert hidden(tmp_path) == []


# Wherever a save of a folder stops

CRASHING = """
import os, shutil, sys
from pathlib import Path
from tests.unit.core.test_files import save

folder = Path(sys.argv[1])
writing = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")


def crash_at(number):
    count = 0

    def hook(event, arguments):
        nonlocal count
        reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in writing and not (reads and ".partial" not in str(arguments[0])):
            count += 1
            if count == number:
                os._exit(9)

    sys.addaudithook(hook)


for number in range(1, 200):
    child = os.fork()
    if child == 0:
        place = folder / str(number)
        place.mkdir()
        save(place / "model", "old")
        crash_at(number)
        save(place / "model", "new")
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(number - 1)
        break
"""


def test_wherever_a_save_of_a_folder_stops_a_whole_one_is_found(tmp_path: Path) -> None:
    """The process dies before each file operation in turn; the old folder or the new one has its name, or can be
    given it, and the next save clears away what was left of the old."""
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(tmp_path)],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    operations, between, found = int(done.stdout), 0, list[str]()
    assert operations >= 10
    for number in range(1, operations + 2):
        place = tmp_path / str(number)
        between += not (place / "model").exists()
        recover_folder(place / "model")
        found.append(content(place / "model"))
        save(place / "model", "newest")
        assert content(place / "model") == "newest"
        assert not [name for name in hidden(place) if name.endswith(".old")]
    assert found == sorted(found, key=["old", "new"].index)
    assert between == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=lambda c: errno.errorcode[c])
def test_an_operation_that_fails_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    calls: dict[str, Any] = {"write_text": Path, "fsync": os, "rename": Path, "mkdir": Path, "chmod": Path}
    failed = 0
    for fail_at in range(1, 40):
        place = tmp_path / str(fail_at)
        place.mkdir()
        save(place / "model", "old")
        count = 0

        def failing(plain: Callable[..., Any], fail_at: int = fail_at) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == fail_at:
                    raise OSError(code, os.strerror(code))
                return plain(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for name, owner in calls.items():
                patch.setattr(owner, name, failing(getattr(owner, name)))
            try:
                save(place / "model", "new")
            except OSError as error:
                assert error.errno == code
                assert error.filename == str(place / "model")
                failed += 1
        assert content(place / "model") in ("old", "new")
        assert [name for name in hidden(place) if name.endswith(".partial")] == []
    assert failed >= 10


def test_only_names_we_make_are_cleared(tmp_path: Path) -> None:
    save(tmp_path / "model", "old")
    theirs = [".model.old", ".model.0123456.old", ".model.0123456g.old", ".model.01234567.older", ".other.01234567.old"]
    for name in theirs:
        (tmp_path / name).mkdir()
    (tmp_path / ".model.01234567.old").mkdir()
    save(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model", *theirs])


# Full disks


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def big_tensors(path: Path) -> None:
    write_tensors({"a": torch.zeros(1_000_000)}, path)


def big_official(path: Path) -> None:
    from bitvar.weights.official.files import write_official

    write_official({"a": torch.zeros(1_000_000)}, path.with_suffix(".pth"))


def big_photo(path: Path) -> None:
    noise = torch.randint(256, (1000, 1000, 3), dtype=torch.uint8).numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(noise).save(temporary, format="JPEG", quality=100)


def big_text(path: Path) -> None:
    write_text(path, "x" * 1_000_000)


def big_folder(path: Path) -> None:
    with atomic_folder(path) as temporary:
        from safetensors.torch import save_file

        save_file({"a": torch.zeros(1_000_000)}, temporary / "model.safetensors")  # as libraries save


@pytest.mark.parametrize(
    "write", [big_tensors, big_official, big_photo, big_text, big_folder], ids=lambda w: w.__name__
)
def test_a_full_disk_is_called_one(full_disk: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write(full_disk / "out")
    assert caught.value.errno == errno.ENOSPC
    assert Path(caught.value.filename).stem == "out"
    assert hidden(full_disk) == []


def test_a_full_disk_is_called_one_by_whatever_saves(full_disk: Path, tmp_path: Path) -> None:
    """A model through transformers, a text encoder alone, features of a training set, a tokenizer."""
    from bitvar.training.transformer.feature_cache import FeaturesKey, load_feature_set

    pipe = tiny_pipeline(tmp_path)
    tokenizer, encoder = pipe.components.tokenizer, pipe.components.text_encoder
    assert encoder is not None
    data = toy_set(tmp_path / "data")
    (full_disk / "filler").write_bytes(bytes(240_000))
    key = FeaturesKey("a", "b")
    saves: dict[str, Callable[[Path], object]] = {
        "model": pipe.save_pretrained,
        "cache": lambda path: load_feature_set(
            data, "train", tokenizer=tokenizer, text_encoder=encoder, cache=path, key=key, log=lambda _: None
        ),
    }
    for name, write in saves.items():
        with pytest.raises(OSError, match="No space left") as caught:
            write(full_disk / name)
        assert Path(caught.value.filename).is_relative_to(full_disk / name)
        assert set(os.listdir(full_disk)) <= {"filler", "digests.json"}  # noqa: PTH208  (what is known of the data)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS], ids=lambda c: errno.errorcode[c])
def test_what_safetensors_says_of_a_disk_is_an_oserror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    from safetensors import SafetensorError

    from bitvar.weights import tensors

    def fail(*_: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(tensors, "save_file", fail)
    with pytest.raises(OSError) as caught:
        write_tensors({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "a.safetensors"))


def test_other_errors_of_safetensors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="share memory"):
        tensor = torch.zeros(2)
        write_tensors({"a": tensor, "b": tensor}, tmp_path / "a.safetensors")


# What is read: no pipes, no devices, no pointers


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    with pytest.raises(OSError, match="pipe or a device"), open_plain(path):
        pass
    with pytest.raises(UsageError, match="pipe or a device"):
        read_json(path)
    with pytest.raises(WeightsError, match="pipe or a device"):
        load_tensors(path)


@pytest.mark.parametrize("name", [MANIFEST, "inner/config.json"])
def test_a_folder_with_a_pipe_in_it_is_refused_at_once(tmp_path: Path, name: str) -> None:
    save(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    os.mkfifo(tmp_path / "model" / name)
    with pytest.raises(WeightsError, match="pipe or a device"):
        verify_folder(tmp_path / "model")


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"


def test_pointers_of_git_lfs_are_called_so(tmp_path: Path) -> None:
    from bitvar.weights.official.files import read_official

    for name in ("model.safetensors", "model.pth"):
        (tmp_path / name).write_text(POINTER)
        with pytest.raises(WeightsError, match=r"Git LFS pointer[\s\S]*git lfs pull"):
            read_official(tmp_path / name)
    (tmp_path / "tokenizer.json").write_text(POINTER)
    with pytest.raises(UsageError, match=r"Git LFS pointer[\s\S]*git lfs pull"):
        read_json(tmp_path / "tokenizer.json")
    save(tmp_path / "model")
    (tmp_path / "model" / "inner" / "config.json").write_text(POINTER)
    with pytest.raises(WeightsError, match=r"inner/config.json: a Git LFS pointer[\s\S]*git lfs pull"):
        verify_folder(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "bitvar.json"])
@pytest.mark.parametrize("kind", ["pipe", "pointer"])
def test_a_text_encoder_with_a_pipe_or_a_pointer_in_it_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    from bitvar.text import load_text_encoder

    encoder = tiny_pipeline(tmp_path).components.text_encoder
    assert encoder is not None
    (tmp_path / "t").mkdir()
    encoder.save(tmp_path / "t")
    (tmp_path / "t" / name).unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / "t" / name)
    else:
        (tmp_path / "t" / name).write_text(POINTER)
    with pytest.raises(WeightsError, match="pipe or a device" if kind == "pipe" else "git lfs pull"):
        load_text_encoder(tmp_path / "t")


def test_training_refuses_its_output_before_it_works(tmp_path: Path) -> None:
    from tests.unit.cli.test_command_edges import run

    data, out = toy_set(tmp_path / "data"), tmp_path / "out"
    (out / "model").mkdir(parents=True)
    (out / "model" / "thesis.txt").write_text("mine")
    recipe = Path(__file__).parents[3] / "recipes" / "icons" / "tokenizer.py"
    done = run(["train", str(recipe), "--data", str(data), "--out", str(out), "--set", "optimization.steps=1"])
    assert done.returncode == 2
    assert "thesis.txt" in done.stderr
    assert (out / "model" / "thesis.txt").read_text() == "mine"
    assert not (out / "checkpoints").exists()


# What a manifest binds


@pytest.fixture
def model(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "README.md").write_text("# card\n\nText.\n")
        (folder / "LICENSE").write_text("terms\n")
        (folder / "config.json").write_text('{\n  "a": 1\n}\n')
        (folder / "vocab.txt").write_text("a\nb\n")
        write_tensors({"a": torch.zeros(3)}, folder / "model.safetensors")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "config.json"])
def test_line_ends_changed_by_git_refuse_nothing_that_computes_the_same(model: Path, name: str) -> None:
    path = model / name
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    verify_folder(model)


def test_a_vocabulary_with_other_line_ends_is_refused_by_that_name(model: Path) -> None:
    (model / "vocab.txt").write_bytes(b"a\r\nb\r\n")
    with pytest.raises(WeightsError, match=r"vocab\.txt: its line ends[\s\S]*core\.autocrlf false"):
        verify_folder(model)


def test_a_card_and_notes_may_change_come_and_go(model: Path) -> None:
    sums = verify_folder(model)
    with (model / "README.md").open("a") as card:
        card.write("One line more.\n")
    (model / "LICENSE").unlink()
    for name in (".gitattributes", "NOTES.md", "NOTICE", ".git/HEAD", ".cache/huggingface/x.metadata", "LICENSE.txt"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("x")
    assert verify_folder(model) == sums


ADDED = (
    "adapter_config.json", "other.json", "extra.safetensors", "pytorch_model.bin", "modeling.py", "merges.txt", "x.pt",
    "inner/adapter_config.json", "inner/.git.py/../x.py", "README.json", "tokenizer.model",
)  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_a_file_that_a_loader_might_read_is_refused_when_unlisted(model: Path, name: str) -> None:
    path = Path(os.path.normpath(model / name))
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    with pytest.raises(WeightsError, match=f"{path.name}: not in {MANIFEST}"):
        verify_folder(model)


def test_a_model_s_identity_is_not_of_its_card(tmp_path: Path) -> None:
    from bitvar.pipeline import InfinityPipeline

    tiny_pipeline(tmp_path).save_pretrained(tmp_path / "model")
    names = set[str]()
    for card in ("# tiny\n", "# another\n", None):
        (tmp_path / "model" / "README.md").unlink(missing_ok=True)
        if card is not None:
            (tmp_path / "model" / "README.md").write_text(card)
        pipe = InfinityPipeline.from_pretrained(tmp_path / "model", device="cpu", dtype="fp32")
        names.add(pipe.model_name)
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        pipe.save_pretrained(tmp_path / "again")
        names.add(InfinityPipeline.from_pretrained(tmp_path / "again", device="cpu", dtype="fp32").model_name)
    assert len(names) == 1
