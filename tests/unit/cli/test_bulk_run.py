"""`bitvar generate --prompts FILE --out DIR`: runs that resume, grow and are shared, and prompts in tables."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitvar.bulk import LEDGER, read_ledger
from bitvar.cli.ranks import Rank
from bitvar.pipeline.record import read_record
from tests.support.command import Result, run_command
from tests.support.drawing import visible_files
from tests.support.tiny import rough_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    rough_pipeline(folder).save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> Any:
    """`bitvar generate` with the tiny model, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> Result:
        return run_command(monkeypatch, capsys, "generate", *arguments, "--model", model)

    return call


def images() -> dict[str, bytes]:
    return {name: data for name, data in visible_files(Path("out")).items() if name != "run.json"}


def test_the_same_command_goes_on(run: Any) -> None:
    Path("list.txt").write_text("a dog\na red cat\na dog\n")
    command = ("--prompts", "list.txt", "--out", "out", "-n", 2, "--json")
    counts = run(*command).json()
    assert (counts["images"], counts["drawn"], counts["already_there"]) == (6, 6, 0)
    before = images()
    assert len(before) == 6  # the same prompt twice has seeds of its own
    for name in list(before)[:2]:
        Path("out", name).unlink()
    counts = run(*command).json()
    assert (counts["drawn"], counts["already_there"]) == (2, 4)
    assert images() == before
    lines = read_ledger(Path("out"))
    assert [line.prompt for line in lines] == ["a dog"] * 2 + ["a red cat"] * 2 + ["a dog"] * 2
    assert [line.note for line in lines] == [{"line": number} for number in (1, 1, 2, 2, 3, 3)]


def test_an_image_of_a_run_is_the_one_that_is_drawn_alone(run: Any) -> None:
    Path("list.jsonl").write_text(
        '{"prompt": "a dog", "seed": 3, "guidance": 3}\n{"prompt": "a cat", "seed": 4, "guidance": 3}\n'
    )
    run("--prompts", "list.jsonl", "--out", "out", "--batch-size", 2, "--json").json()
    assert run("a cat", "--seed", 4, "--guidance", 3, "-o", "alone.png").code == 0
    assert images()["a-cat-4.png"] == Path("alone.png").read_bytes()
    assert run("--from", "out/a-cat-4.png", "-o", "again.png").code == 0
    assert images()["a-cat-4.png"] == Path("again.png").read_bytes()


def test_prompts_and_images_may_be_added(run: Any) -> None:
    Path("list.txt").write_text("a dog\na cat\n")
    run("--prompts", "list.txt", "--out", "out", "--json").json()
    before = images()
    Path("list.txt").write_text("two dog\na cat\na dog\n")
    counts = run("--prompts", "list.txt", "--out", "out", "-n", 2, "--json").json()
    assert (counts["images"], counts["drawn"], counts["already_there"]) == (6, 4, 2)
    assert {name: images()[name] for name in before} == before
    assert [line.note["line"] for line in read_ledger(Path("out"))] == [1, 1, 2, 2, 3, 3]
    Path("list.txt").write_text("a cat\n")
    assert run("--prompts", "list.txt", "--out", "out", "--json").json()["drawn"] == 0
    assert len(read_ledger(Path("out"))) == 6  # nothing is forgotten


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--guidance", 3), "guidance scale was 2.0, now 3.0"),
        (("--guidance", 2, "--seed", 0), "seed was not given, now 0"),
        (("--guidance", 2, "--dtype", "bf16"), 'dtype was "float32", now "bfloat16"'),
        (("--guidance", 2, "-o", "{index}.png"), 'names was not given, now "{index}.png"'),
        ((), "guidance scale was 2.0, now not given"),
    ],
    ids=["guidance", "seed", "dtype", "names", "left-out"],
)
def test_other_settings_are_refused_with_the_differences(run: Any, options: tuple[Any, ...], words: str) -> None:
    Path("list.txt").write_text("a dog\n")
    assert run("--prompts", "list.txt", "--out", "out", "--guidance", 2).code == 0
    before = visible_files(Path())
    result = run("--prompts", "list.txt", "--out", "out", *options)
    assert result.code == 2
    assert "out has images of other settings" in result.err and words in result.err
    assert visible_files(Path()) == before


def test_equal_names_of_different_images_get_their_addresses(run: Any) -> None:
    rows = [
        {"prompt": "a dog"},
        {"prompt": "a dog!"},
        {"prompt": "a dog", "guidance": 3},
        {"prompt": "a dog"},
        {"prompt": "a cat"},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = run("--prompts", "list.jsonl", "--seed", 1, "--out", "out", "--json")
    assert result.json()["images"] == 4  # a line that repeats another is the same image
    assert "Note: 1 image repeats another" in result.err
    names = sorted(images())
    assert names[0] == "a-cat-1.png"
    assert all(len(name) == len("a-dog-1-12345678.png") for name in names[1:]), names


def test_names_and_ids_of_lines(run: Any) -> None:
    rows = [
        {"prompt": "a dog", "file": "dogs/v1.5", "id": "d1"},
        {"prompt": "a cat", "file": "cat.webp", "id": 7, "num_images": 2},
        {"prompt": "two cat"},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run("--prompts", "list.jsonl", "--seed", 1, "--out", "out", "-o", "{index}-{seed}.jpg", "--json").json()
    assert sorted(images()) == ["4-1.jpg", "cat-1.webp", "cat-2.webp", "dogs/v1.5.png"]
    assert [line.note.get("id") for line in read_ledger(Path("out"))] == ["d1", 7, 7, None]
    assert run("--prompts", "list.jsonl", "-o", "elsewhere/").err.startswith("Names and ids of the lines")
    for bad in ("../x", ".bulk/x"):
        Path("bad.jsonl").write_text(json.dumps({"prompt": "a dog", "file": bad}))
        assert run("--prompts", "bad.jsonl", "--out", "new").code == 2
    Path("bad.jsonl").write_text('{"prompt": "a dog", "file": "x"}\n{"prompt": "a cat", "file": "x"}')
    assert "Two images would go to x.png" in run("--prompts", "bad.jsonl", "--out", "new").err
    assert not Path("new").exists()


def test_a_table_says_the_same_as_json_lines(run: Any) -> None:
    Path("list.csv").write_bytes(
        b"\xef\xbb\xbfid,Prompt ,seed,guidance,size,exact_size\r\n"
        b'a,"a dog, two\r\ncat",1,"1,2,3",16x16,\r\n'
        b"\r\n"
        b"b,a cat,2,,20x20,yes\r\n"
    )
    Path("list.tsv").write_text("prompt\tseed\ta dog\n".replace("a dog", "id") + "a dog, two\t1\tc\n")
    run("--prompts", "list.csv", "--out", "out", "--json").json()
    lines = read_ledger(Path("out"))
    assert [(line.prompt, line.seed, line.note["id"]) for line in lines] == [
        ("a dog, two\r\ncat", 1, "a"),
        ("a cat", 2, "b"),
    ]
    assert [line.note["line"] for line in lines] == [2, 5]
    assert lines[0].settings["guidance_scale"] == [1, 2, 3]
    assert read_record(Path("out", lines[1].file)).file_size == (20, 20)
    assert run("--prompts", "list.tsv", "--out", "out2").code == 0
    assert read_ledger(Path("out2"))[0].prompt == "a dog, two"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text,seed\na dog,1\n", "no header that can be used"),
        ("prompt,Prompt\na dog,1\n", "no header that can be used"),
        ("", "no header that can be used"),
        ("prompt\n\n", "has no prompts"),
        ("prompt,seed\na dog,1\na dog,x\n", "line 3: Bad value for 'seed' ('x' is not a whole number)"),
        ("prompt,guidance\na dog,high\n", "'high' is not a number"),
        ("prompt,exact_size\na dog,perhaps\n", "'perhaps' is not yes or no"),
        ("prompt,sead\na dog,1\n", "did you mean 'seed'"),
        ("prompt,seed\na dog, a cat,1\n", "line 2: It has too many cells"),
        ('prompt\n"a dog\n', "Can't read the table"),
        ("prompt,seed\n,5\n", "line 2: "),
    ],
    ids=["no-prompt", "twice", "empty", "blank", "seed", "guidance", "exact", "unknown", "cells", "quote", "missing"],
)
def test_bad_tables_are_named_before_anything_is_drawn(run: Any, text: str, words: str) -> None:
    Path("a.csv").write_text(text)
    result = run("--prompts", "a.csv", "--out", "out")
    assert result.code == 2 and words in result.err, result.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("a dog", "--out", "out"), "--out needs --prompts"),
        (("--prompts", "a.txt", "--out", "out", "--grid"), "--grid and --out"),
        (("--prompts", "a.txt", "--batch-size", 3), "--batch-size needs --out"),
        (("--prompts", "a.txt", "--out", "a.txt"), "Can't write a.txt"),
        (("--prompts", "a.txt", "--out", "out", "-o", "../{seed}.png"), "Can't use -o"),
        (("--prompts", "a.txt", "--out", "out", "-o", "{bogus}.png"), "the fields are {seed}, {prompt}, {index}"),
        (("--prompts", "a.txt", "--out", ""), "--out is empty"),
        (("--prompts", "a.txt", "--out", "out", "-o", "-"), "the suffix names the format"),
        (("--prompts", "a.txt", "--out", "out", "-o", "x-{prompt}.png", "-n", 2), "Two images would get the same name"),
        (("--prompts", "a.txt", "--out", "out", "-o", "{seed}.gif"), "the suffix names the format"),
    ],
    ids=["prompt", "grid", "batch", "file", "outside", "field", "nameless", "stdout", "names", "suffix"],
)
def test_options_that_do_not_go_together(run: Any, options: tuple[Any, ...], words: str) -> None:
    Path("a.txt").write_text("a dog\n")
    result = run(*options)
    assert result.code == 2 and words in result.err, result.err
    assert {path.name for path in Path().iterdir()} == {"a.txt"}


@pytest.mark.parametrize(
    "line",
    [{"prompt": "a cat", "id": "\ud800"}, {"prompt": "a \ud800"}, {"prompt": "a cat", "file": "\udc80"}],
    ids=["id", "prompt", "file"],
)
def test_half_a_surrogate_pair_is_an_error_of_its_line(run: Any, line: dict[str, str]) -> None:
    Path("a.jsonl").write_text("\n".join(map(json.dumps, [{"prompt": "a dog"}, line])))
    result = run("--prompts", "a.jsonl", "--out", "out")
    assert result.code == 2 and "line 2: Bad value" in result.err and "surrogate" in result.err, result.err
    assert not Path("out").exists()


def test_a_folder_that_is_not_known_as_ours_is_left_alone(run: Any) -> None:
    Path("a.txt").write_text("a dog\n")
    Path("out").mkdir()
    Path("out", LEDGER).write_bytes(b"mine")
    result = run("--prompts", "a.txt", "--out", "out")
    assert result.code == 2 and "isn't a run of ours" in result.err
    assert [(path.name, path.read_bytes()) for path in Path("out").iterdir()] == [(LEDGER, b"mine")]
    assert run("--prompts", "a.txt", "--out", "new").code == 0
    Path("new", "run.json").unlink()
    before = visible_files(Path("new"))
    result = run("--prompts", "a.txt", "--out", "new")
    assert result.code == 2 and "run.json" in result.err
    assert visible_files(Path("new")) == before


def test_a_run_that_is_refused_keeps_its_rewrites(run: Any) -> None:
    Path("a.txt").write_text("a dog\n")
    for name, text in (("one.jsonl", "a red dog"), ("two.jsonl", "a blue dog")):
        Path(name).write_text(json.dumps({"prompt": "a dog", "rewritten": text, "model": "m"}) + "\n")
    command = ("--prompts", "a.txt", "--out", "out", "--seed", 1)
    first = run(*command, "--rewrites", "one.jsonl")
    assert first.code == 0, first.err
    before = visible_files(Path("out"))
    assert "rewrites.jsonl" in before
    result = run(*command, "--rewrites", "two.jsonl")
    assert result.code == 2 and "was made with other settings" in result.err, result.err
    assert visible_files(Path("out")) == before


def test_a_run_that_is_stopped_says_how_it_goes_on(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    Path("a.txt").write_text("a dog\n")
    with monkeypatch.context() as patch:
        patch.setattr("bitvar.cli.bulk_run.generate_work", stop)
        result = run("--prompts", "a.txt", "--out", "out")
    assert result.code == 130 and "The images in out are kept; the same command goes on from there." in result.err
    assert run("--prompts", "a.txt", "--out", "out").code == 0


def test_ranks_read_their_place_and_are_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Any
) -> None:
    assert Rank.read() == Rank()
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert Rank.read() == Rank(5, 1, 8)
    Path("a.txt").write_text("a dog\n")
    result = run("--prompts", "a.txt", "--out", "out")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert len(images()) == 1
    assert "torchrun needs a list" in run("a dog").err
    assert "can't share standard input" in run("--prompts", "-", "--out", "out").err


@pytest.mark.slow
def test_ranks_of_torchrun_share_the_work(run: Any, model: Path) -> None:
    Path("a.txt").write_text("a dog\na red cat\ntwo dog\na blue square\n" * 6)
    options = ["generate", "--prompts", "a.txt", "--model", str(model), "-n", "4", "--batch-size", "2", "--json"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bitvar"]
    done = subprocess.run(
        [*launch, *options, "--seed", "1", "--out", "out"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["images"] == 16  # equal prompts of equal seeds are one image
    assert counts["drawn"] > 0 and counts["drawn_by_others"] > 0
    assert len((Path("out") / LEDGER).read_text().splitlines()) == 16
    shared = images()
    assert run(*options[1:], "--seed", "1", "--out", "alone").code == 0
    assert {name: data for name, data in visible_files(Path("alone")).items() if name != "run.json"} == shared
