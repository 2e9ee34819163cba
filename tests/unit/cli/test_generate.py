"""`bitvar generate`: file names, formats, sizes, going on from a file, sheets, and prompts from a file."""

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps, PngImagePlugin

from bitvar.cli import main as cli
from bitvar.cli.unknown_words import note_unknown_words
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline, reproduce
from bitvar.pipeline.record import read_record
from bitvar.runtime.int8_linear import Int8Linear
from bitvar.sampling.quality import PRESETS
from bitvar.weights.hub import EMBEDDED_MODEL
from bitvar.weights.vocabulary import load_vocabulary
from tests.support.command import Result, run_command
from tests.support.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> Any:
    """`bitvar generate` with the tiny model, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any, with_model: bool = True) -> Result:
        extra = ["--model", str(model)] if with_model else []
        return run_command(monkeypatch, capsys, "generate", *arguments, *extra)

    return call


def here() -> set[str]:
    return {path.name for path in Path().iterdir()}


def opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def edited(path: str, **changes: Any) -> None:
    """The file again, with other settings inside."""
    values = json.loads(read_record(Path(path)).json_text()) | changes
    info = PngImagePlugin.PngInfo()
    info.add_itxt("bitvar", json.dumps(values))
    Image.new("RGB", (8, 8)).save("edited.png", pnginfo=info)


# names


def test_files_that_nobody_named_are_never_overwritten(run: Any) -> None:
    for arguments in (("\u732b", "--seed", 1), ("\u72ac", "--seed", 1), ("\u72ac", "--seed", 1, "--guidance", 3)):
        assert run(*arguments).code == 0
    assert here() == {"\u732b-1.png", "\u72ac-1.png", "\u72ac-1-2.png"}
    assert read_record(Path("\u72ac-1-2.png")).guidance_scale == 3
    result = run("a dog", "--seed", 7, "--num-images", 2, "--json")
    assert [file["path"] for file in json.loads(result.out)["files"]] == ["a-dog-7.png", "a-dog-8.png"]
    assert run("a dog", "--seed", 7, "-o", "new/").code == 0
    assert run("a dog", "--seed", 7, "-o", "new").code == 0
    assert {path.name for path in Path("new").iterdir()} == {"a-dog-7.png", "a-dog-7-2.png"}


def test_a_named_file_is_replaced(run: Any) -> None:
    for seed in (1, 2):
        assert run("a dog", "--seed", seed, "-o", "a.png").code == 0
    assert here() == {"a.png"}
    assert read_record(Path("a.png")).seed == 2


def test_previews_of_an_earlier_call_stay(run: Any) -> None:
    for seed in (1, 2):
        assert run("a dog", "--seed", seed, "-o", "a.png", "--previews", "steps").code == 0
    assert {path.name for path in Path("steps").iterdir()} == {
        *(f"scale-0{k}-1.png" for k in (1, 2, 3)), *(f"scale-0{k}-1-2.png" for k in (1, 2, 3)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("a.gif", ".png, .webp, .jpg, .jpeg"),
        ("a", "none of .png"),
        ("", "names no file"),
        ("a.png/b.png", "not a writable folder"),
        ("{prompt}.png", "same name"),
        ("-", "run into one another"),
        ("x" * 300 + ".png", "too long"),
    ],
)
def test_outputs_that_can_not_be_written_are_refused_first(run: Any, output: str, words: str) -> None:
    Path("a.png").write_bytes(b"")
    result = run("a dog", "--num-images", 2, "-o", output)
    assert (result.code, here()) == (2, {"a.png"}), result.err
    assert words in result.err
    assert "scale 1" not in result.err


# formats


def test_every_format_carries_its_settings(run: Any) -> None:
    for name in ("a.png", "a.webp", "a.jpg", "A.JPEG"):
        assert run("a red dog", "--seed", 3, "-o", name).code == 0
        assert run("--from", name, "-o", f"again-{name}").code == 0
        assert Path(name).read_bytes() == Path(f"again-{name}").read_bytes()
    assert opened("a.webp").convert("RGB").tobytes() == opened("a.png").tobytes()
    assert [opened(name).format for name in ("a.png", "a.webp", "a.jpg")] == ["PNG", "WEBP", "JPEG"]


@pytest.mark.parametrize("output", ["-", "/dev/stdout"])
@pytest.mark.parametrize("options", [(), ("--json",), ("--grid", "--num-images", 3)], ids=str)
def test_standard_output_is_the_image_alone(
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    model: Path,
    output: str,
    options: tuple[Any, ...],
) -> None:
    arguments = ("a red dog", "--seed", "3", "-o", output, "--model", model, *options)
    monkeypatch.setattr(sys, "argv", ["bitvar", "generate", *map(str, arguments)])
    with pytest.raises(SystemExit):
        cli.main()
    captured = capfdbinary.readouterr()
    with Image.open(io.BytesIO(captured.out)) as image:
        assert image.format == "PNG"
    assert b"seed" in captured.err


# sizes


def test_a_size_that_is_not_drawn_is_said_before(run: Any) -> None:
    result = run("a dog", "--size", "20x16", "-o", "a.png")
    assert result.code == 0
    note = result.err[: result.err.index("scale 1")]
    assert "asked for 20x16; the model draws 16x16" in note
    assert "add --exact-size" in note
    record = read_record(Path("a.png"))
    assert (record.width, record.height, record.requested_width, record.requested_height) == (16, 16, 20, 16)
    assert opened("a.png").size == (16, 16)
    assert "Note" not in run("a dog", "--size", "16x8", "-o", "b.png").err


@pytest.mark.parametrize(
    ("arguments", "size"),
    [(("--size", "20x16"), (20, 16)), (("--aspect", "16:9"), (21, 12)), (("--size", "128x32"), (128, 32))],
    ids=str,
)
def test_exact_sizes_are_resized_and_made_again(run: Any, arguments: tuple[str, ...], size: tuple[int, int]) -> None:
    assert run("a dog", "--seed", 1, *arguments, "--exact-size", "-o", "a.png").code == 0
    record = read_record(Path("a.png"))
    assert run("a dog", "--seed", 1, "--size", f"{record.width}x{record.height}", "-o", "plain.png").code == 0
    image = opened("a.png")
    assert image.size == size
    assert image.tobytes() == ImageOps.fit(opened("plain.png"), size, method=Image.Resampling.LANCZOS).tobytes()
    assert run("--from", "a.png", "-o", "b.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert run("--from", "a.png", "--no-exact-size", "--enlarge", 2, "-o", "c.png").code == 0
    assert opened("c.png").size == (2 * record.width, 2 * record.height)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--aspect", "1:5e-324"), ("--aspect", "nan:1"), ("--aspect", "0:1"), ("--aspect", "1:1000"),
        ("--aspect", "inf:1"),
        ("--aspect", "1x1"), ("--aspect", "-1:1"), ("--aspect", ""), ("--size", "0x5"), ("--size", "1e9x1"),
        ("--size", "nanx5"), ("--size", "16x16x16"), ("--size", "99999x99999"), ("--size", "16.5x16"),
        ("--size", "\uff11\uff16x16"), ("--exact-size",), ("--size", "16384x16384", "--exact-size", "--enlarge", "16"),
        ("--size", "128x128"), ("--seed", str(2**63)), ("--negative", "a cat", "--guidance", "1"),
        ("--size", "16384x16", "--exact-size", "-o", "a.webp"), ("--negative", "a\udcff", "--guidance", "3"),
        ("--negative", "a" * 30_000, "--guidance", "3"),
        ("--revision", "main"), ("--guidance", "1,,2"),
        ("--num-images", "64", "--grid", "--enlarge", "16", "--size", "4000x4000", "--exact-size"),
    ],
    ids=str,
)  # fmt: skip
def test_what_can_not_be_drawn_is_refused_in_three_lines(run: Any, arguments: tuple[str, ...]) -> None:
    result = run("a dog", *arguments)
    assert (result.code, here()) == (2, set()), result.err
    assert "why:" in result.err
    assert "do:" in result.err
    assert "scale 1" not in result.err


def test_an_empty_negative_prompt_means_none(run: Any) -> None:
    assert run("a dog", "--seed", 1, "-o", "plain.png").code == 0
    for negative in ("", "  "):
        assert run("a dog", "--seed", 1, "--negative", negative, "-o", "a.png").code == 0
        assert Path("a.png").read_bytes() == Path("plain.png").read_bytes()
    assert run("a dog", "--seed", 1, "--negative", "a cat", "-o", "b.png").code == 0
    assert run("--from", "b.png", "--negative", "", "-o", "a.png").code == 0
    assert Path("a.png").read_bytes() == Path("plain.png").read_bytes()


# going on from a file


def test_each_of_several_files_records_its_own_seed(run: Any) -> None:
    assert run("a red dog", "--num-images", 3, "--seed", 3, "-o", "a.png").code == 0
    assert [read_record(Path(f"a-{i}.png")).seed for i in (1, 2, 3)] == [3, 4, 5]
    assert run("a red dog", "--seed", 4, "-o", "alone.png").code == 0
    assert Path("alone.png").read_bytes() == Path("a-2.png").read_bytes()


def test_records_of_a_batch_are_still_made_again(run: Any) -> None:
    assert run("a red dog", "--seed", 4, "-o", "a.png").code == 0
    edited("a.png", seed=3, batch_index=1, batch_size=3)
    assert run("--from", "edited.png", "-o", "b.png").code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_records_of_version_0_1_0_are_drawn_with_a_note(run: Any) -> None:
    assert run("a red dog", "--seed", 4, "-o", "a.png").code == 0
    edited("a.png", format=1, model="tiny@000000000000")
    result = run("--from", "edited.png", "-o", "b.png")
    assert result.code == 0, result.err
    assert "drew other random numbers" in result.err
    assert "made with model 'tiny@000000000000'" in result.err
    edited("a.png", format=1, model="large@000000000000")
    assert run("--from", "edited.png", "-o", "c.png").code == 2


@pytest.mark.parametrize(
    ("options", "same", "said"),
    [
        (("--seed", 7), ("a red dog", "--seed", 7), "seeds: 3 -> 7"),
        (("a cat",), ("a cat", "--seed", 3), "prompt: 'a red dog' -> 'a cat'"),
        (("--guidance", "1,2,3"), ("a red dog", "--seed", 3, "--guidance", "1,2,3"), "guidance scale: 2 -> 1, 2, 3"),
        (("--temperature", 0.5), ("a red dog", "--seed", 3, "--temperature", 0.5), "temperature: 1 -> 0.5"),
        (("--top-k", 1), ("a red dog", "--seed", 3, "--top-k", 1), "top k: 0 -> 1"),
        (("--top-p", 0.9), ("a red dog", "--seed", 3, "--top-p", 0.9), "top p: 0 -> 0.9"),
        (
            ("--negative", "a cat"),
            ("a red dog", "--seed", 3, "--negative", "a cat"),
            "negative prompt: none -> 'a cat'",
        ),
        (("--size", "16x8"), ("a red dog", "--seed", 3, "--size", "16x8"), "size: 16x16 -> 16x8"),
        (("--enlarge", 4), ("a red dog", "--seed", 3, "--enlarge", 4), "enlarge: 1 -> 4"),
        (("--grid",), ("a red dog", "--seed", 3, "--grid"), "sheet: no -> yes"),
        (("--num-images", 3, "--grid"), ("a red dog", "--seed", 3, "--num-images", 3, "--grid"), "seeds: 3 -> 3, 4, 5"),
        (("--dtype", "bf16"), ("a red dog", "--seed", 3, "--dtype", "bf16"), "precision 'float32'"),
    ],
    ids=str,
)
def test_every_option_changes_what_a_file_says(
    run: Any, options: tuple[Any, ...], same: tuple[Any, ...], said: str
) -> None:
    assert run("a red dog", "--seed", 3, "-o", "a.png").code == 0
    result = run("--from", "a.png", *options, "-o", "b.png")
    assert result.code == 0, result.err
    assert said in result.err
    assert run(*same, "-o", "c.png").code == 0
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes()


def test_several_images_and_previews_go_on_from_a_file(run: Any) -> None:
    assert run("a red dog", "--seed", 3, "-o", "a.png").code == 0
    assert run("--from", "a.png", "--num-images", 2, "--previews", "steps", "-o", "b.png").code == 0
    assert Path("b-1.png").read_bytes() == Path("a.png").read_bytes()
    assert read_record(Path("b-2.png")).seed == 4
    assert len(list(Path("steps").iterdir())) == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": 5}, {"prompt": None}, {"enlarge": "x"}, {"enlarge": -3}, {"enlarge": 200}, {"batch_size": 1_000_000},
        {"batch_index": 5, "batch_size": 2}, {"width": 128}, {"width": 12, "height": 12}, {"guidance_scale": [1, 2]},
        {"temperature": "nan"}, {"model_source": "../evil"}, {"lora": "x"}, {"unknown": 1}, {"seed": 2**70},
        {"negative_prompt": "a cat", "guidance_scale": 1},
    ],
    ids=str,
)  # fmt: skip
def test_edited_settings_draw_nothing(run: Any, changes: dict[str, Any]) -> None:
    assert run("a dog", "-o", "a.png").code == 0
    edited("a.png", **changes)
    result = run("--from", "edited.png", "-o", "b.png")
    assert (result.code, Path("b.png").exists()) == (2, False), result.err
    assert "why:" in result.err or "Unknown key" in result.err


def test_pipes_are_not_read_as_images(run: Any) -> None:
    os.mkfifo("pipe.png")
    assert run("--from", "pipe.png").code == 2
    assert run("--from", "/dev/zero").code == 2


def test_nothing_is_fetched_because_a_file_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append(options)
        raise huggingface_hub.errors.LocalEntryNotFoundError("nothing in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert run("a dog", "-o", "a.png").code == 0
    edited("a.png", model_source="evil/repo")
    result = run("--from", "edited.png", "-o", "b.png", with_model=False)
    assert result.code == 2
    assert "add --model evil/repo" in result.err
    adapter = {"name": "style", "weight": 1.0, "source": "evil/lora", "sha256": "0" * 64, "fused": False}
    edited("a.png", lora=[adapter])
    result = run("--from", "edited.png", "-o", "b.png")
    assert result.code == 2
    assert "add --lora evil/lora" in result.err
    assert len(asked) == 2
    assert all(options == {"local_files_only": True} for options in asked)


def test_a_model_in_the_hubs_cache_is_used(run: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "cached_snapshot", lambda name: model if name == "someone/tiny" else None)
    assert run("a dog", "-o", "a.png", "--seed", 1).code == 0
    edited("a.png", model_source="someone/tiny")
    assert run("--from", "edited.png", "-o", "b.png", with_model=False).code == 0
    assert opened("b.png").tobytes() == opened("a.png").tobytes()
    assert read_record(Path("b.png")).model_source == "someone/tiny"


@pytest.mark.parametrize("prompt", ["\udcff", "a dog\ud800", "a" * 30_000], ids=lambda prompt: ascii(prompt)[:20])
def test_prompts_that_are_no_text_are_refused(run: Any, prompt: str) -> None:
    for arguments in ((prompt,), (prompt, "-o", "{prompt}.png")):
        result = run(*arguments)
        assert (result.code, here()) == (2, set()), result.err
        assert "scale 1" not in result.err


# sheets


def test_a_sheet_tells_its_size_and_seeds(run: Any) -> None:
    result = run("a red dog", "--num-images", 4, "--seed", 3, "--grid", "-o", "a.png")
    assert "36x36  seeds 3, 4, 5, 6" in result.out
    assert re.fullmatch(r"loaded in \d+\.\d s, drawn in \d+\.\d s", result.err.splitlines()[-1])
    assert opened("a.png").size == (36, 36)
    result = run("--from", "a.png", "-o", "b.png", "--json")
    file = json.loads(result.out)["files"][0]
    assert (file["width"], file["height"], file["seeds"], file["drawn_width"]) == (36, 36, [3, 4, 5, 6], 16)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert run("--from", "a.png", "--no-grid", "-o", "c.png").code == 0
    assert [read_record(Path(f"c-{i}.png")).seed for i in range(1, 5)] == [3, 4, 5, 6]


# prompts from a file


def test_prompts_of_a_text_file_are_drawn_one_by_one(run: Any) -> None:
    Path("list.txt").write_bytes(b"\xef\xbb\xbf# mine\r\n\r\na dog\r\n  a red cat  \r\n")
    result = run("--prompts", "list.txt", "--seed", 5, "-o", "out", "--json")
    assert result.code == 0, result.err
    assert [file["path"] for file in json.loads(result.out)["files"]] == ["out/a-dog-5.png", "out/a-red-cat-5.png"]
    assert result.err.count("scale 3/3") == 1  # together
    assert run("a red cat", "--seed", 5, "-o", "alone.png").code == 0
    assert Path("alone.png").read_bytes() == Path("out/a-red-cat-5.png").read_bytes()


def test_prompts_of_json_lines_have_settings_of_their_own(run: Any) -> None:
    rows = [
        {"prompt": "a dog", "seed": 1},
        {"prompt": "a cat", "seed": 2, "size": "16x8", "guidance": [1, 2, 3]},
        {"prompt": "a red dog", "negative": "a cat", "num_images": 2},
        {"prompt": "a dog", "size": "20x20", "exact_size": True, "enlarge": 2, "temperature": 0},
    ]
    Path("list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    result = run("--prompts", "list.jsonl", "--seed", 9, "-o", "{index}-{seed}.webp")
    assert result.code == 0, result.err
    assert here() == {"list.jsonl", "1-1.webp", "2-2.webp", "3-9.webp", "4-10.webp", "5-9.webp"}
    assert result.err.count("batch ") == 4
    assert opened("5-9.webp").size == (40, 40)
    assert run("a cat", "--seed", 2, "--size", "16x8", "--guidance", "1,2,3", "-o", "alone.webp").code == 0
    assert Path("alone.webp").read_bytes() == Path("2-2.webp").read_bytes()


def test_prompts_from_standard_input(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("a dog\na cat\n", '{"prompt": "a dog"}\n{"prompt": "a cat"}\n'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run("--prompts", "-", "--grid", "--num-images", 2, "--seed", 1, "-o", "sheets/").code == 0
    assert {path.name for path in Path("sheets").iterdir()} == {
        "a-dog-1.png", "a-dog-1-2.png", "a-cat-1.png", "a-cat-1-2.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"prompt": "a dog"}\n{"prompt": 5}\nnot json\n{"prompt": "a", "sead": 1}\n', "line 2: "),
        ("a.jsonl", '{"prompt": "a dog"}\n[1]\n', "line 2: It is not a JSON object"),
        ("a.jsonl", '{"prompt": "a dog", "seed": -1}', "line 1: "),
        ("a.jsonl", '{"prompt": "a dog", "size": "big"}', "line 1: Can't read the size"),
        ("a.jsonl", '{"prompt": "a dog"}\n{"prompt": "a dog", "guidance": [1, 2]}', "line 2: "),
        ("a.jsonl", '{"prompt": "a dog", "guidance": 1e999}', "line 1: "),
        ("a.jsonl", "[" * 100_000, "line 1: It is not JSON (nested too deeply)"),
        ("a.jsonl", '{"seed": 1}', "line 1: "),
        ("a.txt", "a dog\n" + "a dog " * 20, "line 2: The prompt is too long"),
        ("a.txt", "# nothing\n\n", "no prompts"),
        ("a.json", '[{"prompt": "a dog"}]', "one JSON text"),
        ("a.txt", "", "no prompts"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_lines_are_named_before_anything_is_drawn(run: Any, name: str, text: str, words: str) -> None:
    Path(name).write_text(text)
    result = run("--prompts", name, "-o", "out/")
    assert (result.code, here()) == (2, {name}), result.err
    assert words in result.err
    assert "scale 1" not in result.err


def test_prompts_files_that_can_not_be_read(run: Any) -> None:
    Path("a.txt").write_bytes(b"a dog\n\xff\n")
    assert "line 2 is not UTF-8" in run("--prompts", "a.txt").err
    for arguments in (("--prompts", "none.txt"), ("--prompts", "."), ("--prompts", "a.txt", "a dog")):
        assert run(*arguments).code == 2
    assert run("--prompts", "a.txt", "--previews", "steps").code == 2
    assert run("--prompts", "a.txt", "--from", "a.png").code == 2
    assert here() == {"a.txt"}


# the model's name, and what it was taught


def test_the_embedded_model_goes_by_its_name_and_says_what_it_was_never_taught(run: Any) -> None:
    result = run("a violin", "--seed", 1, "--model", "icons", "--json", with_model=False)
    assert result.code == 0, result.err
    assert result.err.count("never taught") == 1
    assert "'violin'" in result.err
    assert json.loads(result.out)["files"][0]["model_source"] is None
    assert run("a violin", "--seed", 1, "-o", "a.png", with_model=False).code == 0
    assert Path("a.png").read_bytes() == Path("a-violin-1.png").read_bytes()
    assert "never taught" not in run("a red apple, 3D emoji", "-o", "b.png", with_model=False).err


def test_unknown_words_are_named_once() -> None:
    vocabulary = load_vocabulary(EMBEDDED_MODEL)
    text = note_unknown_words(["my grandmother", "a Grandmother and a violin", "a red apple"], vocabulary, "icons")
    assert text is not None
    assert text.count("randmother") == 1
    assert "`bitvar models info icons`" in text
    assert "\n" not in text
    assert note_unknown_words(["a red apple"], vocabulary, "icons") is None


def test_a_model_without_a_vocabulary_notes_no_unknown_words(run: Any, model: Path) -> None:
    assert load_vocabulary(model) is None
    assert note_unknown_words(["my grandmother"], None, "tiny") is None
    assert "never taught" not in run("my grandmother", "-o", "a.png").err


@pytest.mark.parametrize("name", ["icon", "missing/dir/x", "nothing"])
def test_models_that_are_not_there(run: Any, name: str) -> None:
    assert run("a dog", "--model", name, with_model=False).code == 2
    assert here() == set()


# from Python


@pytest.mark.parametrize("form", ["pil", "np", "pt"])
def test_a_saved_output_is_made_again_by_the_command(run: Any, model: Path, form: Any) -> None:
    pipe = InfinityPipeline.from_pretrained(model, device="cpu")
    out = pipe("a red dog", seed=3, num_images_per_prompt=2, output_type=form)
    assert out.save("x-{seed}.png") == [Path("x-3.png"), Path("x-4.png")]
    assert out.save("x.webp") == [Path("x-1.webp"), Path("x-2.webp")]
    assert run("--from", "x-4.png", "-o", "again.png").code == 0
    assert Path("again.png").read_bytes() == Path("x-4.png").read_bytes()
    assert run("a red dog", "--seed", 4, "-o", "plain.png").code == 0
    assert Path("plain.png").read_bytes() == Path("x-4.png").read_bytes()


def test_a_saved_output_overwrites_only_what_was_named(run: Any, model: Path) -> None:
    pipe = InfinityPipeline.from_pretrained(model, device="cpu")
    out = pipe("a red dog", seed=3, width=16, height=20)
    assert (out.metadata[0]["requested_width"], out.metadata[0]["height"], out.metadata[0]["requested_height"]) == (
        16,
        16,
        20,
    )
    for name in ("a-red-dog-3.png", "a-red-dog-3-2.png"):
        assert out.save("out/") == [Path("out") / name]
    for _ in range(2):
        assert out.save(Path("x.jpg")) == [Path("x.jpg")]
    assert here() == {"out", "x.jpg"}
    with pytest.raises(UsageError, match="none of"):
        out.save("x.tiff")
    with pytest.raises(UsageError, match="holds no images"):
        pipe("a dog", output_type="bits").save("x.png")


# Backgrounds


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that draws opacity."""
    folder = tmp_path_factory.mktemp("clear")
    tiny_pipeline(folder, image_channels=4).save_pretrained(folder / "clear")
    return folder / "clear"


@pytest.mark.parametrize(
    ("background", "modes"),
    [
        (None, ("RGBA", "RGBA", "RGB")),
        ("auto", ("RGBA", "RGBA", "RGB")),
        ("transparent", ("RGBA", "RGBA", None)),
        ("opaque", ("RGB", "RGB", "RGB")),
    ],
)
def test_files_of_every_background(
    run: Any, clear: Path, background: str | None, modes: tuple[str | None, ...]
) -> None:
    options = [] if background is None else ["--background", background]
    for name, mode in zip(("a.png", "a.webp", "a.jpg"), modes, strict=True):
        done = run("a red dog", "--seed", 3, *options, "-o", name, "--model", clear, with_model=False)
        assert done.code == (2 if mode is None else 0)
        if mode is None:
            assert "PNG and WebP do" in done.err and name not in here()
            continue
        assert opened(name).mode == mode
        assert read_record(Path(name)).background == (background or "auto")
        again = run("--from", name, "-o", f"again{Path(name).suffix}", "--model", clear, with_model=False)
        assert again.code == 0 and Path(f"again{Path(name).suffix}").read_bytes() == Path(name).read_bytes()


def test_a_recorded_background_can_be_changed(run: Any, clear: Path) -> None:
    model = ("--model", clear)
    assert run("a red dog", "--seed", 3, "--background", "opaque", "-o", "a.png", *model, with_model=False).code == 0
    done = run("--from", "a.png", "--background", "transparent", "-o", "b.png", *model, with_model=False)
    assert done.code == 0 and "background: 'opaque' -> 'transparent'" in done.err
    assert opened("b.png").mode == "RGBA"


def test_impossible_backgrounds_are_refused_before_drawing(run: Any, clear: Path) -> None:
    done = run("a red dog", "--background", "transparent", "-o", "a.png")
    assert done.code == 2 and "no transparent images" in done.err
    done = run("a red dog", "--background", "green", "-o", "a.png")
    assert done.code == 2 and "green" in done.err and "transparent" in done.err
    done = run("a red dog", "--background", "transparent", "--grid", "--model", clear, with_model=False)
    assert done.code == 2 and "sheet can't be transparent" in done.err
    done = run("a dog", "--background", "transparent", "-o", "x-{index}.jpeg", "--model", clear, with_model=False)
    assert done.code == 2 and "as JPEG" in done.err
    assert here() == set()


def test_sheets_previews_and_exact_sizes_of_transparent_images(run: Any, clear: Path) -> None:
    model = ("--model", clear)
    done = run("a red dog", "-n", 3, "--grid", "--seed", 3, "-o", "a.png", *model, with_model=False)
    assert done.code == 0 and opened("a.png").mode == "RGB"
    done = run(
        *("a dog", "--seed", 3, "--size", "20x12", "--exact-size", "--enlarge", 2, "-o", "b.png"),
        *("--previews", "steps", *model),
        with_model=False,
    )
    assert done.code == 0 and (opened("b.png").mode, opened("b.png").size) == ("RGBA", (40, 24))
    assert {opened(str(path)).mode for path in Path("steps").iterdir()} == {"RGBA"}


def test_lines_have_their_own_background(run: Any, clear: Path) -> None:
    lines = [{"prompt": "a dog", "background": "opaque"}, {"prompt": "a cat"}]
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    model = ("--model", clear)
    done = run("--prompts", "a.jsonl", "--background", "transparent", "-o", "x-{index}.png", *model, with_model=False)
    assert done.code == 0, done.err
    assert [opened(f"x-{i}.png").mode for i in (1, 2)] == ["RGB", "RGBA"]
    Path("b.jsonl").write_text('{"prompt": "a dog", "background": "green"}\n', encoding="utf-8")
    assert "line 1" in run("--prompts", "b.jsonl", *model, with_model=False).err


# optimizations


def test_fast_takes_words_and_names(run: Any) -> None:
    assert run("cat", "--seed", 1, "--fast", "off", "-o", "off.png").code == 0
    assert run("cat", "--seed", 1, "--fast", "exact", "-o", "exact.png").code == 0
    assert run("cat", "--seed", 1, "--fast", "packed, folded", "-o", "named.png").code == 0
    assert Path("named.png").read_bytes() == Path("exact.png").read_bytes()
    assert read_record(Path("exact.png")) == read_record(Path("off.png"))


@pytest.mark.parametrize(
    ("fast", "message"),
    [("pakced", "did you mean 'packed'"), ("", "optimization ''"), ("off,packed", "'off' was given")],
)
def test_fast_refuses_what_it_does_not_know(run: Any, fast: str, message: str) -> None:
    result = run("cat", "--fast", fast, "-o", "a.png")
    assert result.code == 2
    assert message in result.err
    assert here() == set()


@pytest.mark.skipif(not Int8Linear.available(), reason="this processor has no VNNI")
def test_a_lossy_optimization_is_recorded_and_repeated(run: Any) -> None:
    for fast, names in (("exact,int8", ("packed", "folded", "int8")), ("int8", ("int8",))):
        assert run("cat", "--seed", 1, "--fast", fast, "-o", "a.png").code == 0
        assert read_record(Path("a.png")).optimizations == names
        result = run("--from", "a.png", "-o", "b.png")
        assert "optimizations" not in result.err
        assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
        Path("a.png").rename(f"{fast}.png")
        Path("b.png").unlink()
    Path("int8.png").rename("a.png")
    result = run("--from", "a.png", "--fast", "auto", "-o", "c.png")
    assert "made with optimizations: int8; now: none; details may differ" in result.err
    assert read_record(Path("c.png")).optimizations == ()
    edited("a.png", optimizations=["int1"])
    assert "optimization 'int1'" in run("--from", "edited.png", "-o", "d.png").err


# Quality


def test_quality_is_recorded_and_repeated(run: Any) -> None:
    assert run("a red dog", "--seed", 3, "--quality", "varied", "-o", "a.png").code == 0
    assert read_record(Path("a.png")).quality == PRESETS["varied"]
    done = run("--from", "a.png", "-o", "b.png")
    assert done.code == 0 and "Changed" not in done.err
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_recorded_quality_can_be_changed(run: Any) -> None:
    assert run("a red dog", "--seed", 3, "--quality", "varied", "--temperature", 1.5, "-o", "a.png").code == 0
    done = run("--from", "a.png", "--quality", "faithful", "-o", "b.png")
    assert done.code == 0 and "quality: 'varied' -> 'faithful'" in done.err
    record = read_record(Path("b.png"))
    assert record.quality == PRESETS["faithful"]
    assert record.temperature == PRESETS["faithful"].temperature, "the preset's, not the file's"
    assert run("--from", "a.png", "--quality", "faithful", "--temperature", 1.5, "-o", "c.png").code == 0
    assert read_record(Path("c.png")).temperature == 1.5
    done = run("--from", "a.png", "--quality", "none", "-o", "d.png")
    assert done.code == 0 and "quality: 'varied' -> none" in done.err
    assert read_record(Path("d.png")).quality is None


def test_lines_have_their_own_quality(run: Any) -> None:
    lines = [{"prompt": "a dog", "quality": "none"}, {"prompt": "a cat"}, {"prompt": "a dog", "quality": "sharp"}]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert run("--prompts", "a.jsonl", "--quality", "varied", "-o", "x-{index}.png").code == 0
    found = [read_record(Path(f"x-{i}.png")).quality for i in (1, 2, 3)]
    assert found == [None, PRESETS["varied"], PRESETS["sharp"]]


def test_an_unknown_quality_is_refused(run: Any) -> None:
    done = run("a dog", "--quality", "varied!", "-o", "a.png")
    assert done.code == 2 and "did you mean 'varied'" in done.err and not here()
    Path("a.jsonl").write_text('{"prompt": "a dog", "quality": "best"}\n', encoding="utf-8")
    done = run("--prompts", "a.jsonl", "-o", "x-{index}.png")
    assert done.code == 2 and "line 1" in done.err
