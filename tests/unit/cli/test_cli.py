"""The command line: exit codes, messages, settings inside images, and nothing half-written."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitvar.cli import doctor
from bitvar.cli import main as cli
from bitvar.pipeline.record import read_record
from bitvar.weights.hub import EMBEDDED_MODEL
from tests.support.tiny import tiny_pipeline

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    return folder / "tiny"


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def bitvar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["bitvar", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return run


def test_writes_an_image_with_its_settings(bitvar: Any, model: Path, tmp_path: Path) -> None:
    result = bitvar("generate", "a red dog", "-o", tmp_path / "a.png", "--model", model, "--seed", 3, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["files"][0]["path"] == str(tmp_path / "a.png")
    assert report["files"][0]["seed"] == 3
    assert 0 < report["draw_seconds"] < report["load_seconds"] + report["draw_seconds"]
    settings = read_record(tmp_path / "a.png")
    assert settings.prompt == "a red dog"
    assert "100% of tokens" in result.err


def test_a_prompt_without_quotes_is_told_to_have_them(bitvar: Any) -> None:
    result = bitvar("generate", "a", "red", "apple")
    assert result.code == 2
    assert "put the prompt in quotes, or see `" in result.err
    assert "quotes" not in bitvar("doctor", "now").err


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--num-images", 3, "--guidance", "1,2,3", "--temperature", "0.9"),
        ("--size", "8x16", "--negative", "a cat", "--top-p", "0.9"),
        ("--num-images", 4, "--grid", "--dtype", "bf16"),
        ("--aspect", "1:2", "--top-k", "1"),
        ("-n", 2, "--enlarge", 3),
    ],
    ids=str,
)
def test_from_makes_the_same_bytes_again(bitvar: Any, model: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    common = ("generate", "a red dog on a cat", "-o", tmp_path / "a.png", "--model", model, "--seed", 5)
    assert bitvar(*common, *options).code == 0
    for made in sorted(tmp_path.glob("a*.png")):
        result = bitvar("generate", "--from", made, "-o", tmp_path / "again.png", "--model", model)
        assert result.code == 0, result.err
        assert (tmp_path / "again.png").read_bytes() == made.read_bytes()


def test_enlarge_writes_the_same_image_larger(bitvar: Any, model: Path, tmp_path: Path) -> None:
    for name, options in (("small", ()), ("large", ("--enlarge", 4, "--json"))):
        result = bitvar("generate", "a dog", "-o", tmp_path / f"{name}.png", "--model", model, "--seed", 3, *options)
        assert result.code == 0, result.err
    small, large = (Image.open(tmp_path / f"{name}.png") for name in ("small", "large"))
    assert large.size == (4 * small.width, 4 * small.height)
    assert large.tobytes() == small.resize(large.size, Image.Resampling.LANCZOS).tobytes()


def test_previews_show_every_scale(bitvar: Any, model: Path, tmp_path: Path) -> None:
    result = bitvar("generate", "a dog", "-o", tmp_path / "a.png", "--model", model, "--previews", tmp_path / "steps")
    assert result.code == 0, result.err
    steps = sorted((tmp_path / "steps").iterdir())
    assert [step.name for step in steps] == ["scale-01-1.png", "scale-02-1.png", "scale-03-1.png"]
    assert Image.open(steps[-1]).tobytes() == Image.open(tmp_path / "a.png").tobytes()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("generate", " "), 2, "prompt is empty"),
        (("generate",), 2, "no prompt"),
        (("generate", "a dog " * 20), 2, "too long"),
        (("generate", "a dog", "--sead", "3"), 2, "--seed"),
        (("genrate", "a dog"), 2, "generate"),
        (("generate", "a dog", "--size", "4096x4096"), 2, "or add --exact-size"),
        (("generate", "a dog", "--size", "big"), 2, "Can't read the size"),
        (("generate", "a dog", "--size", "16x16", "--aspect", "1:1"), 2, "a size already sets the aspect ratio"),
        (("generate", "a dog", "--guidance", "strong"), 2, "Can't read --guidance"),
        (("generate", "a dog", "--guidance", "1,2"), 2, "3 scales"),
        (("generate", "a dog", "--guidance", "-1"), 2, "between"),
        (("generate", "a dog", "--temperature", "nan"), 2, "temperature"),
        (("generate", "a dog", "--device", "abacus"), 2, "no device"),
        (("generate", "a dog", "--dtype", "fp7"), 2, "Unknown dtype"),
        (("generate", "a dog", "-o", "image.gif"), 2, ".webp, .jpg"),
        (("generate", "--from", "nowhere.png"), 2, "no nowhere.png"),
        (("bench", "generate", "--preset", "126M"), 2, "'125M'"),
        (("train", "nowhere.py", "--data", "x", "--out", "y"), 2, "no recipe"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_input(
    bitvar: Any,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with_model = ("--model", model) if arguments[0] == "generate" and "--from" not in arguments else ()
    result = bitvar(*arguments, *with_model)
    assert result.code == code, result.err
    assert words in result.err
    assert "why:" in result.err or words in result.err.splitlines()[0] or result.err.startswith("Unknown ")
    assert "do:" in result.err
    assert list(tmp_path.iterdir()) == []


def test_altered_weights_exit_3_naming_file_and_digests(bitvar: Any, model: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    path = broken / "transformer" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = bitvar("generate", "a dog", "--model", broken, "-o", tmp_path / "a.png")
    assert result.code == 3
    assert "transformer/model.safetensors" in result.err
    assert "sha256" in result.err
    assert not (tmp_path / "a.png").exists()


def test_another_model_is_refused_by_from(bitvar: Any, model: Path, tmp_path: Path) -> None:
    assert bitvar("generate", "a dog", "--model", model, "-o", tmp_path / "a.png").code == 0
    other = tmp_path / "other"
    tiny_pipeline(tmp_path, depth=1).save_pretrained(other)
    result = bitvar("generate", "--from", tmp_path / "a.png", "--model", other, "-o", tmp_path / "b.png")
    assert result.code == 2
    assert "not the model that made the image" in result.err


def test_edited_images_are_refused(bitvar: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    for name in ("plain.png", "broken.png"):
        assert bitvar("generate", "--from", tmp_path / name).code == 2


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "permission denied"),
        (KeyboardInterrupt(), 130, "Cancelled"),
        (MemoryError(), 4, "--dtype bf16"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 4, "--dtype bf16"),
    ],
    ids=repr,
)
def test_failures_while_writing_leave_nothing(
    bitvar: Any,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
    words: str,
) -> None:
    (tmp_path / "a.png").write_bytes(b"the old one")

    def fail(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:4])
        raise failure

    monkeypatch.setattr(Path, "write_bytes", fail)
    result = bitvar("generate", "a dog", "--model", model, "-o", tmp_path / "a.png")
    assert result.code == code, result.err
    assert words in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"the old one"


def test_help_needs_no_torch() -> None:
    code = "import sys; sys.argv = ['bitvar', '--help']\nfrom bitvar.cli.main import main\n"
    code += "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'too much imported'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_doctor_says_what_to_run(bitvar: Any) -> None:
    result = bitvar("doctor", "--json")
    facts = json.loads(result.out)
    assert facts["next"].startswith("bitvar generate")
    assert {path.parent.name for path in EMBEDDED_MODEL.parent.glob("*/SHA256SUMS.json")} == set(doctor.PRETRAINED)
    assert result.code == (0 if facts["embedded models"] == "present" else 3)


def test_bench_reports_every_part(bitvar: Any, model: Path) -> None:
    result = bitvar("bench", "generate", "--model", model, "--runs", 1, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert {"load_s", "text_s", "scale_1_s", "scale_3_s", "decode_s", "total_s", "peak_memory_mb"} <= report.keys()


def test_bench_generate_takes_the_models_own_guidance(bitvar: Any, model: Path) -> None:
    own = json.loads((model / "model_index.json").read_text())["defaults"]["guidance_scale"]
    for options, guidance in (((), own), (("--guidance", 1), 1.0)):
        result = bitvar("bench", "generate", "--model", model, "--runs", 1, "--json", *options)
        assert json.loads(result.out)["guidance"] == guidance


@pytest.mark.parametrize(
    ("recipe", "rate"),
    [
        ("icons/transformer.py", "tokens_per_second"),
        ("icons/tokenizer.py", "megapixels_per_second"),
        ("general/finish.py", "megapixels_per_second"),  # a distance by a network
    ],
)
def test_bench_train_times_a_step_of_a_recipe(bitvar: Any, recipe: str, rate: str) -> None:
    result = bitvar(
        "bench", "train", "--recipe", RECIPES / recipe, "--batch", 2, "--runs", 1, "--dtype", "bf16", "--json"
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["batch"] == 2 and report["precision"] == "bf16"
    assert report["samples_per_second"] == pytest.approx(2 / report["step_s"], rel=0.01)
    assert report[rate] > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "What shall be timed?"),
        (("--recipe", "icons/transformer.py", "--preset", "125M"), "What shall be timed?"),
        (("--preset", "126M"), "'125M'"),
        (("--preset", "125M", "--pixels", 300), "no schedule of 300 px"),
        (("--recipe", RECIPES / "icons" / "tokenizer.py", "--attention", "flex"), "takes no --attention"),
    ],
    ids=str,
)
def test_bench_train_refuses(bitvar: Any, options: tuple[Any, ...], says: str) -> None:
    result = bitvar("bench", "train", *options)
    assert result.code == 2
    assert says in result.err


# bitvar data


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(20):
        Image.new("RGB", (40, 30), (10 * i, 0, 0)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a red square {i}")
    return folder


def test_data_check_counts_what_is_there(bitvar: Any, own_images: Path) -> None:
    result = bitvar("data", "check", own_images)
    assert result.code == 0, result.err
    assert "20 samples accepted, 0 rejected (0.0%)" in result.out
    assert "shorter side, pixels: min 30, median 30, p99 30, max 30" in result.out
    assert "words per caption: min 4" in result.out
    assert "0.75 20" in result.out


def test_data_check_names_what_is_bad(bitvar: Any, own_images: Path, tmp_path: Path) -> None:
    for i in range(5):
        (own_images / f"{i:02d}.png").write_bytes(b"not an image")
    (own_images / "19.txt").unlink()
    before = sorted(own_images.iterdir())
    report = tmp_path / "report.jsonl"
    result = bitvar("data", "check", own_images, "--report", report)
    assert result.code == 2
    assert "14 samples accepted, 6 rejected (30.0%)" in result.out
    assert "not-an-image: 5" in result.out
    assert result.out.count("it is not PNG, JPEG, WebP") == 3
    assert "why: not-an-image 5, no-caption 1" in result.err
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [row["name"] for row in rows] == ["00.png", "01.png", "02.png", "03.png", "04.png", "19.png"]
    assert sorted(own_images.iterdir()) == before
    result = bitvar("data", "check", own_images, "--max-bad-fraction", "0.5", "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert (found["accepted"], found["rejected"]) == (14, {"not-an-image": 5, "no-caption": 1})
    assert found["samples"] == rows
    assert found["ratios"] == {"0.75": 14}


def test_data_import_makes_a_set(bitvar: Any, own_images: Path, tmp_path: Path) -> None:
    (own_images / "07.png").unlink()
    result = bitvar("data", "import", own_images, tmp_path / "set", "--size", "32x24", "--max-bad-fraction", "0.1")
    assert result.code == 0, result.err
    assert "rejected 1: listed in" in result.err
    assert "19 images of 32x24 pixels: 18 train, 1 val" in result.out
    with Image.open(tmp_path / "set" / "images" / "000" / "000000.png") as first:
        assert first.size == (32, 24)
    assert bitvar("data", "check", tmp_path / "set").code == 0


def test_data_import_counts_what_it_wrote_as_json(bitvar: Any, own_images: Path, tmp_path: Path) -> None:
    result = bitvar("data", "import", own_images, tmp_path / "set", "--size", "32x24", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["accepted"], found["rejected"], found["size"]) == (20, {}, [32, 24])
    assert found["splits"] == {"train": 19, "val": 1}


def test_data_index_answers_without_its_images(bitvar: Any, own_images: Path, tmp_path: Path) -> None:
    (own_images / "07.png").write_bytes(b"not an image")
    common = ("--max-bad-fraction", "0.1", "--validation", "0.2")
    result = bitvar("data", "index", own_images, tmp_path / "index", *common)
    assert result.code == 0, result.err
    assert f"rejected 1: listed in {tmp_path / 'index' / 'rejected.jsonl'}" in result.err
    assert "19 samples accepted, 1 rejected (5.0%)" in result.out
    before = bitvar("data", "stats", own_images, "--json")
    facts = json.loads(before.out)
    assert (facts["accepted"], facts["splits"]) == (19, {"": 19})
    for path in own_images.iterdir():
        path.unlink()
    result = bitvar("data", "stats", tmp_path / "index", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found.pop("splits").keys() == {"train", "val"}
    assert found == {name: value for name, value in facts.items() if name != "splits"}
    text = bitvar("data", "stats", tmp_path / "index").out
    assert "words per caption: min 4" in text
    assert "nearest ratio (height / width): 0.75 19" in text
    assert "split: train" in text


def test_data_check_verifies_an_index(bitvar: Any, own_images: Path, tmp_path: Path) -> None:
    result = bitvar("data", "index", own_images, tmp_path / "index", "--content-hash", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["accepted"] == 20
    assert bitvar("data", "check", tmp_path / "index").code == 0
    Image.new("RGB", (40, 30), "blue").save(own_images / "03.png")
    Image.new("RGB", (40, 30), "blue").save(own_images / "04.png")
    result = bitvar("data", "check", tmp_path / "index", "--json")
    assert result.code == 2
    assert {sample["name"]: sample["reason"] for sample in json.loads(result.out)["samples"]} == {
        "03.png": "altered", "04.png": "altered",
    }  # fmt: skip
    texts = tmp_path / "index" / "texts.bin"
    texts.write_bytes(texts.read_bytes().replace(b"red", b"hot"))
    result = bitvar("data", "check", tmp_path / "index")
    assert result.code == 2
    assert "texts.bin has been altered" in result.err


def test_data_check_shows_names_of_any_bytes(bitvar: Any, own_images: Path) -> None:
    (own_images / "caf\udce9\x1b.png").write_bytes(b"")
    result = bitvar("data", "check", own_images)
    assert result.code == 2
    assert r"caf\udce9\x1b.png: there is no" in result.out


def test_data_import_reads_an_index(bitvar: Any, own_images: Path, tmp_path: Path) -> None:
    assert bitvar("data", "index", own_images, tmp_path / "index", "--validation", "0.2").code == 0
    splits = json.loads(bitvar("data", "stats", tmp_path / "index", "--json").out)["splits"]
    assert bitvar("data", "import", tmp_path / "index", tmp_path / "set", "--size", "32").code == 0
    assert json.loads(bitvar("data", "stats", tmp_path / "set", "--json").out)["splits"] == splits


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "nowhere"), "There is no"),
        (("stats", "nowhere"), "There is no"),
        (("import", "mine", "set", "--split", "train"), "--split can't be used here"),
        (("import", "mine", "set", "--caption-column", "text"), "not a data set hf:NAME"),
        (("index", "nowhere", "set"), "There is no"),
        (("index", "mine", "mine"), "it is inside"),
        (("index", "mine", "mine/index"), "it is inside"),
        (("index", "mine", "set", "--content-hsah"), "--content-hash"),
        (("import", "nowhere", "set"), "There is no"),
        (("import", "mine", "set", "--size", "4"), "8 to 4096"),
        (("import", "mine", "set", "--size", "64x"), "Can't read the size"),
        (("import", "mine", "set", "--validation", "2"), "--validation"),
        (("check", "mine", "--max-bad", "2"), "--max-bad-fraction"),
    ],
    ids=str,
)
def test_data_bad_input(
    bitvar: Any, own_images: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(own_images.parent)
    result = bitvar("data", *arguments)
    assert result.code == 2
    assert words in result.err
    assert [path.name for path in own_images.parent.iterdir()] == ["mine"]


def test_output_that_nobody_reads_is_no_error() -> None:
    """As in `bitvar ... | head -1`."""
    command = [sys.executable, "-m", "bitvar.cli.main", "train", "recipes/icons/transformer.py", "--dry-run"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0
    process.stderr.close()
