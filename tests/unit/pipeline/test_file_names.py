"""Names of image files: of any script, short enough, and never somebody else's."""

import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitvar.errors import UsageError
from bitvar.pipeline import file_names
from bitvar.pipeline.file_names import MAX_NAME_BYTES, default_name, targets_of, words_of, write_new


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red apple, 3D emoji", "a-red-apple-3d-emoji-1.png"),
        ("\u732b", "\u732b-1.png"),
        ("\u72ac", "\u72ac-1.png"),
        ("\u041a\u043e\u0442 \u0438 \u0434\u043e\u043c", "\u043a\u043e\u0442-\u0438-\u0434\u043e\u043c-1.png"),
        ("cafe\u0301", "caf\u00e9-1.png"),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940-1.png"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645-1.png"),
        ("\U0001f600", "image-1.png"),
        ("...", "image-1.png"),
        ("-rf /", "rf-1.png"),
        ("../../etc/passwd", "etc-passwd-1.png"),
        (".hidden", "hidden-1.png"),
        ("con", "con-image-1.png"),
        ("a\0b\nc", "a-b-c-1.png"),
        ("\u0301x", "x-1.png"),
        ("x" * 500, "x" * 134 + "-1.png"),
    ],
    ids=ascii,
)  # fmt: skip
def test_names_keep_letters_and_digits_of_any_script(prompt: str, name: str) -> None:
    assert default_name(prompt, 1) == name


@given(st.text(max_size=400), st.integers(0, 2**63 - 1))
def test_every_name_is_a_plain_file_name(prompt: str, seed: int) -> None:
    name = default_name(prompt, seed, ".webp")
    assert len(name.encode()) <= MAX_NAME_BYTES - 10
    assert name.endswith(f"-{seed}.webp")
    assert Path(name).name == name
    assert name[0] not in ".-"
    assert unicodedata.category(name[0])[0] != "M"
    assert name == unicodedata.normalize("NFC", name)


def test_words_are_cut_before_a_letter_with_its_accents() -> None:
    letter = "\u0915\u093f"  # a consonant and its vowel sign, three bytes each
    assert words_of(letter * 20, max_bytes=15) == letter * 2
    assert words_of("\u732b" * 20, max_bytes=10) == "\u732b" * 3


def test_what_is_there_stays(tmp_path: Path) -> None:
    names = [write_new(tmp_path / "a-1.png", str(i).encode()).name for i in range(3)]
    assert names == ["a-1.png", "a-1-2.png", "a-1-3.png"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"0", b"1", b"2"]
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    assert write_new(tmp_path / "b.png", b"").name == "b-2.png"
    assert not (tmp_path / "nowhere").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(file_names.os, "link", refuse)
    assert [write_new(tmp_path / "a.png", bytes([i])).name for i in range(3)] == ["a.png", "a-2.png", "a-3.png"]
    assert (tmp_path / "a-2.png").read_bytes() == b"\1"


def test_many_at_once_get_a_name_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda i: write_new(tmp_path / "a.png", str(i).encode()), range(40)))
    assert len(set(paths)) == 40
    assert sorted(int(path.read_bytes()) for path in paths) == list(range(40))


def test_two_processes_get_a_name_each(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from bitvar.pipeline.file_names import write_new\n"
    code += "[write_new(Path(sys.argv[1]) / 'a.png', sys.argv[2].encode()) for _ in range(50)]"
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(i)]) for i in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"0"] * 50 + [b"1"] * 50


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_names, "flush", fail)
    with pytest.raises(OSError, match="No space"):
        write_new(tmp_path / "a.png", b"x")
    assert list(tmp_path.iterdir()) == []


def names(where: str | None, *images: tuple[str, int]) -> list[str]:
    return [str(target.path) for target in targets_of(where, images)]


def test_outputs_are_files_patterns_or_folders(tmp_path: Path) -> None:
    two = [("A cat!", 3), ("a dog", 4)]
    assert names("x.png", two[0]) == ["x.png"]
    assert names("x.png", *two) == ["x-1.png", "x-2.png"]
    assert names("x-{seed}.webp", *two) == ["x-3.webp", "x-4.webp"]
    assert names("{index}/{prompt}_{seed}.png", *two) == ["1/a-cat_3.png", "2/a-dog_4.png"]
    assert names("{other}{0}.png", two[0]) == ["{other}{0}.png"]
    assert names(None, *two) == ["a-cat-3.png", "a-dog-4.png"]
    assert names("new/", *two) == ["new/a-cat-3.png", "new/a-dog-4.png"]
    assert names(str(tmp_path), two[0]) == [str(tmp_path / "a-cat-3.png")]
    assert [target.named for target in targets_of(tmp_path, two)] == [False, False]
    assert [target.named for target in targets_of("{seed}.png", two)] == [True, True]


def test_patterns_that_give_one_name_twice_are_refused() -> None:
    with pytest.raises(UsageError, match="same name"):
        targets_of("{prompt}.png", [("a cat", 1), ("a cat", 2)])
    with pytest.raises(UsageError, match="too long"):
        targets_of("x" * 256 + ".png", [("a cat", 1)])
