"""What `bitvar train` and `bitvar export` refuse before any work, as users meet it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.tiny import tiny_pipeline, tiny_text_encoder, toy_set
from tests.unit.cli.test_train import RECIPE, run

Run = Callable[..., tuple[str, str]]
QUIET = RECIPE.replace("cut_caption=0.3", "cut_caption=0").replace("steps: int = 4", "steps: int = 2")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, a finished model, and a captioned set of 16 pixels, as its schedule needs."""
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "recipe.py").write_text(QUIET)
    tiny_pipeline(folder).save_pretrained(folder / "tiny")
    toy_set(folder / "set")
    for path in (folder / "set" / "images").glob("*.png"):
        Image.open(path).resize((16, 16)).save(path)
    return folder


@pytest.fixture
def work(shared: Path, tmp_path: Path) -> Path:
    shutil.copytree(shared, tmp_path / "work")
    return tmp_path / "work"


def words(work: Path, *more: str) -> list[str]:
    parts = [
        "--tokenizer",
        str(work / "tiny" / "image_tokenizer"),
        "--text-encoder",
        str(work / "tiny" / "text_encoder"),
    ]
    given = [str(work / "recipe.py"), "--data", str(work / "set"), "--out", str(work / "run")]
    return ["bitvar", "train", *given, *parts, "--device", "cpu", "--workers", "0", *more]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda arguments, code=0: run(monkeypatch, capsys, arguments, code)


@pytest.fixture
def finished(shared: Path, tmp_path: Path, command: Run) -> Path:
    """As `work`, with a run that has ended, which the first test to ask for it makes for all."""
    kept = shared.with_name(f"{shared.name}-finished")
    if not kept.exists():
        shutil.copytree(shared, kept)
        _, err = command(words(kept))
        assert "encoding 12 images" in err
    shutil.copytree(kept, tmp_path / "work")
    return tmp_path / "work"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("part", ["image_tokenizer", "text_encoder"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_flipped_byte_in_a_frozen_part_is_refused(finished: Path, command: Run, part: str, alone: bool) -> None:
    work = finished
    exported = ["bitvar", "export", str(work / "run"), str(work / "model"), *words(work)[7:11]]
    command(exported)
    folder = work / "tiny" / part
    if alone and part == "image_tokenizer":
        from bitvar.weights.digests import write_manifest

        shutil.move(folder, work / "own")
        write_manifest(work / "own")
        folder = work / "own"
    flip(folder / "model.safetensors")
    given = [word if word != str(work / "tiny" / part) else str(folder) for word in words(work)]
    for again in (given, [*given, "--dry-run"], ["bitvar", "export", str(work / "run"), str(work / "b"), *given[7:11]]):
        _, err = command(again, code=3)
        assert "model.safetensors: sha256" in err
    assert not (work / "b").exists()


def test_a_flipped_byte_in_init_is_refused(work: Path, command: Run) -> None:
    flip(work / "tiny" / "transformer" / "model.safetensors")
    given = [*words(work), "--init", str(work / "tiny")]
    for again in (given, [*given, "--dry-run"]):
        assert "model.safetensors: sha256" in command(again, code=3)[1]


def other_tokenizer(work: Path) -> None:
    folder = work / "tiny" / "image_tokenizer"
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name] + 1}, folder / "model.safetensors")
    rewrite(work)


def other_encoder(work: Path) -> None:
    folder = work / "tiny" / "text_encoder"
    encoder = tiny_text_encoder(work / "more", seed=3)
    encoder.save(folder)
    rewrite(work)


def other_vocabulary(work: Path) -> None:
    path = work / "tiny" / "text_encoder" / "tokenizer.json"
    path.write_text(path.read_text().replace('"dog": 11', '"dog": 12').replace('"cat": 12', '"cat": 11'))
    rewrite(work)


def rewrite(work: Path) -> None:
    from bitvar.weights.digests import write_manifest

    (work / "tiny" / "SHA256SUMS.json").unlink()
    write_manifest(work / "tiny")


def other_caption(work: Path) -> None:
    path = work / "set" / "samples.jsonl"
    path.write_text(path.read_text().replace("a red circle 0", "a blue circle 0", 1))


def other_image(work: Path) -> None:
    path = work / "set" / "images" / "train-0.png"
    before = path.stat()
    Image.new("RGB", (16, 16), "black").save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_tokenizer, "--tokenizer"),
        (other_encoder, "--text-encoder"),
        (other_vocabulary, "--text-encoder"),
        (other_caption, "data (samples.jsonl)"),
        (other_image, "data (images)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_resumed_run_with_other_inputs_is_refused_by_name(
    finished: Path, command: Run, change: Callable[[Path], None], named: str
) -> None:
    work = finished
    _, again = command(words(work))
    assert "encoding" not in again
    features = (work / "run" / "features-train.safetensors").read_bytes()
    change(work)
    _, err = command(words(work), code=2)
    assert f"{named} was sha256 " in err.splitlines()[-2]
    assert (work / "run" / "features-train.safetensors").read_bytes() == features


@pytest.mark.parametrize("dry", [False, True])
def test_images_of_the_wrong_size_are_refused_with_the_command(work: Path, command: Run, dry: bool) -> None:
    path = work / "set" / "images" / "train-5.png"
    Image.new("RGB", (20, 16)).save(path)
    _, err = command(words(work, *["--dry-run"] * dry), code=2)
    assert "this model trains on 16x16" in err
    assert "11 of 16x16, 1 of 20x16" in err
    assert str(path) in err
    assert "--size 16" in err
    assert "encoding" not in err


def test_a_truncated_image_is_named_before_anything_is_encoded(work: Path, command: Run) -> None:
    path = work / "set" / "images" / "train-7.png"
    Image.effect_noise((16, 16), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-60])
    _, err = command(words(work), code=2)
    assert str(path) in err
    assert "encoding" not in err


@pytest.mark.parametrize("spoil", ["cut", "zeros", "empty", "tail"])
def test_a_damaged_feature_cache_is_made_again_and_said(finished: Path, command: Run, spoil: str) -> None:
    work = finished
    cache = work / "run" / "features-train.safetensors"
    data = cache.read_bytes()
    tensors = {name: tensor.clone() for name, tensor in load_file(cache).items()}  # not mapped: the file is spoilt now
    spoilt = {"cut": data[:-100], "zeros": bytes(len(data)), "empty": b"", "tail": data[:-1] + bytes([data[-1] ^ 1])}
    cache.write_bytes(spoilt[spoil])
    _, err = command(words(work))
    assert f"{cache} is damaged" in err
    made = load_file(cache)
    assert made.keys() == tensors.keys()
    assert all(torch.equal(made[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("name", ["", "a/b", "-x", "\udcff", "x" * 300])
def test_a_bad_name_is_refused_before_any_work(work: Path, command: Run, name: str) -> None:
    for arguments in (
        words(work, f"--name={name}"),
        ["bitvar", "export", str(work), str(work / "d"), f"--name={name}"],
    ):
        _, err = command(arguments, code=2)
        assert "can't be used" in err
    assert not (work / "run").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--nproc", "3"], "3 ranks can't share a batch of 4"),
        (["--micro-batch", "3"], "can't share a batch of 4"),
        (["--attention", "fast"], "Unknown attention"),
        (["--tracker", "x"], "Unknown tracker"),
        (["--shards", "2"], "--shards needs several processes"),
        (["--set", "model.bits=8"], "its bits is 8"),
        (["--set", "model.text_width=8"], "set model.text_width=64"),
        (["--set", "model.schedules=[]"], "no schedule"),
        (["--set", "num_scales=9"], "num_scales is larger than the number of scales"),
        (["--set", "model.max_scales=2"], "set model.max_scales=3"),
        (["--set", "model.budgets=[\"9M\"]"], "9M"),
        (["--set", "cut_caption=0.5"], "can't be cut"),
        (["--data", "/nowhere"], "There is no data in /nowhere"),
        (["--tokenizer", "/nowhere"], "/nowhere"),
        (["--recipe-arg", "adapters=2"], "Adapters need a model to --init from"),
    ],
    ids=str,
)  # fmt: skip
def test_a_dry_run_refuses_what_the_run_refuses(work: Path, command: Run, more: list[str], message: str) -> None:
    _, err = command(words(work, *more, "--dry-run"), code=2)
    assert message in err
    assert err.count("\n") <= 4
    _, err = command(words(work, *more), code=2)
    assert message in err
    assert not (work / "run" / "checkpoints").exists()


def test_a_dry_run_knows_the_run_s_checkpoints_and_writes_nothing(work: Path, command: Run) -> None:
    out, _ = command(words(work, "--dry-run"))
    assert json.loads(out)["kind"] == "transformer"
    assert not (work / "run").exists()
    command(words(work))
    _, err = command(words(work, "--dry-run", "--set", "optimization.steps=5"), code=2)
    assert "optimization.steps was 2, now 5" in err
    assert "--extend" in err
    command(words(work, "--set", "intervals.log=2"))
    out, err = command(words(work, "--set", "optimization.steps=5", "--extend"))
    assert "extended from 2 to 5 steps" in err
    assert out.strip() == str(work / "run" / "model")
    assert json.loads((work / "run" / "model" / "model_index.json").read_text())["name"] == "run"


def test_sheets_show_the_run_s_own_captions(work: Path, command: Run) -> None:
    _, err = command(words(work, "--set", "intervals.sample=1"))
    assert "12 training images" in err
    sheets = sorted(path.name for path in (work / "run" / "samples").iterdir())
    assert sheets == ["prompts.txt", "step-00000000.png", "step-00000001.png", "step-00000002.png"]
    prompts = (work / "run" / "samples" / "prompts.txt").read_text().splitlines()
    rows = [json.loads(line) for line in (work / "set" / "samples.jsonl").read_text().splitlines()]
    assert sorted(prompts) == sorted(row["captions"][0] for row in rows if row["split"] == "val")


def test_long_captions_are_cut_and_counted(work: Path, command: Run) -> None:
    path = work / "set" / "samples.jsonl"
    path.write_text(
        path.read_text().replace("a red circle 0", "a red circle on a square. " + "a red dog and a cat " * 20)
    )
    _, err = command(words(work))
    assert "captions were cut to the 16 tokens the model reads" in err


def test_the_best_is_exported(work: Path, command: Run) -> None:
    command(words(work, "--set", "intervals.validation=1"))
    given = words(work)[7:11]
    out, _ = command(["bitvar", "export", str(work / "run"), str(work / "best"), "--best", *given])
    assert out.strip() == str(work / "best")
    _, err = command(["bitvar", "export", str(work / "run"), str(work / "b"), "--best", "--step", "2", *given], code=2)
    assert "Which checkpoint?" in err


def test_a_broken_configuration_of_a_frozen_part_is_the_weights_fault(work: Path, command: Run) -> None:
    path = work / "tiny" / "image_tokenizer" / "config.json"
    path.write_text(path.read_text()[:-9])
    for again in (words(work), words(work, "--dry-run")):
        assert "config.json: sha256" in command(again, code=3)[1]
    assert not (work / "run").exists()


@pytest.mark.parametrize("spoil", ["nan", "size"])
def test_what_a_run_begins_from_is_looked_at_before_anything_is_encoded(work: Path, command: Run, spoil: str) -> None:
    path = work / "tiny" / "transformer" / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] * float("nan") if spoil == "nan" else torch.zeros(3)
    save_file(tensors, path)
    rewrite(work)
    _, err = command(words(work, "--init", str(work / "tiny")), code=3)
    assert "encoding" not in err
    assert not (work / "run").exists()
