"""`bitvar edit`, and the options of `bitvar generate` that mix prompts and seeds."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitvar.cli import main as cli
from bitvar.cli.mixing import read_mix, read_mixed_seed
from bitvar.editing.masks import box_mask
from bitvar.errors import UsageError
from bitvar.pipeline import InfinityPipeline
from bitvar.pipeline.record import read_record
from tests.support.tiny import rough_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    rough_pipeline(folder).save_pretrained(folder / "rough")
    return folder / "rough"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> Any:
    """The command with a rough tiny model, in a folder with an image of its own, a photo and a mask."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["bitvar", *map(str, arguments), "--model", str(model)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        assert int(stop.value.code or 0) == code, captured.err
        assert "Traceback" not in captured.err
        return captured.out + captured.err

    call("generate", "a red dog", "--seed", 3, "-o", "own.png")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save("photo.png")
    box_mask((40, 30), (10, 10, 12, 8)).save("mask.png")
    return call


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_what_two_prompts_disagree_on_is_changed_by_default(run: Any, model: Path) -> None:
    said = run("edit", "a blue cat", "-i", "own.png", "--seed", 1, "-o", "b.png")
    assert "Changing what differs from 'a red dog'" in said
    edit = read_record(Path("b.png")).edit
    assert edit is not None and (edit.method, edit.source_prompt) == ("localized", "a red dog")
    pipe = InfinityPipeline.from_pretrained(model)
    same = pipe.edit("a blue cat", image="own.png", source_prompt="a red dog", seed=1).images[0]
    assert np.array_equal(pixels("b.png"), np.asarray(same))


@pytest.mark.parametrize(
    ("options", "method", "kept"),
    [
        (("--strength", 0.5), "redraw", 2),
        (("--keep-scales", 1), "redraw", 1),
        (("--vary", "details"), "redraw", 2),
        (("--vary", "layout"), "redraw", 1),
        (("--method", "inversion"), "inversion", 0),
        (("--method", "bit-test", "--preset", "preserve"), "bit-test", 1),
        (("--source-prompt", "two"), "localized", 0),
        (("--box", "2,2,8,8"), "redraw", 0),
        (("--box", "2,2,8,8", "--method", "tilt"), "tilt", 0),
        (("--box", "2,2,8,8", "--remove"), "redraw", 2),
    ],
    ids=str,
)
def test_options_choose_the_method(run: Any, options: tuple[Any, ...], method: str, kept: int) -> None:
    run("edit", "a blue cat", "-i", "own.png", "-o", "b.png", *options)
    edit = read_record(Path("b.png")).edit
    assert edit is not None and (edit.method, edit.kept_scales) == (method, kept)


def test_a_variation_uses_the_images_own_prompt(run: Any) -> None:
    assert "Using the image's own prompt: 'a red dog'" in run("edit", "-i", "own.png", "--vary", "details", "-n", 2)
    assert len(list(Path().glob("a-red-dog-*.png"))) == 2
    assert "Drawing without a prompt." in run("edit", "-i", "photo.png", "--vary", "details", "-o", "b.png")
    assert read_record(Path("b.png")).prompt == ""


def test_exact_edits_write_the_images_size(run: Any) -> None:
    run("edit", "a blue cat", "-i", "photo.png", "--mask", "mask.png", "--exact", "--seed", 1, "-o", "b.png")
    outside = np.asarray(Image.open("mask.png")) == 0
    assert np.array_equal(pixels("b.png")[outside], pixels("photo.png")[outside])
    assert not np.array_equal(pixels("b.png"), pixels("photo.png"))
    assert read_record(Path("b.png")).file_size == (40, 30)
    run("edit", "a blue cat", "-i", "photo.png", "--mask", "mask.png", "--seed", 1, "-o", "c.png")
    assert pixels("c.png").shape == (16, 16, 3)


def test_an_extended_image_keeps_its_pixels(run: Any) -> None:
    run("edit", "a blue cat", "-i", "photo.png", "--extend", "0,4,20,0", "--seed", 1, "-o", "b.png")
    assert pixels("b.png").shape == (34, 60, 3)
    assert np.array_equal(pixels("b.png")[4:, :40], pixels("photo.png"))


def test_an_inverted_mask_changes_the_rest(run: Any) -> None:
    run("edit", "a dog", "-i", "photo.png", "--mask", "mask.png", "--invert", "--exact", "-o", "b.png")
    inside = np.asarray(Image.open("mask.png")) == 255
    assert np.array_equal(pixels("b.png")[inside], pixels("photo.png")[inside])


def test_the_result_as_json_names_the_edit(run: Any) -> None:
    said = run("edit", "a dog", "-i", "photo.png", "--strength", 0.5, "-o", "b.png", "--json")
    row = json.loads(next(line for line in said.splitlines() if line.startswith("{")))["files"][0]
    assert row["edit"]["kept_scales"] == 2 and row["path"] == "b.png"
    assert row["edit"]["image_sha256"] == hashlib.sha256(Path("photo.png").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("a dog",), "no image to edit"),
        (("a dog", "-i", "none.png"), "none.png"),
        (("a dog", "-i", "own.png", "--remove"), "doesn't say what"),
        (("a dog", "-i", "own.png", "--remove", "--box", "1,1,4,4", "--strength", 0.5), "--remove and --strength"),
        (("a dog", "-i", "own.png", "--vary", "colour"), "variation 'colour'"),
        (("a dog", "-i", "own.png", "--mask", "mask.png"), "mask doesn't fit"),
        (("a dog", "-i", "own.png", "--mask", "mask.png", "--box", "1,1,2,2"), "--mask and --box"),
        (("a dog", "-i", "own.png", "--mask", "own.png", "--mask-is", "black"), "--mask-is 'black'"),
        (("a dog", "-i", "own.png", "--box", "1,2,3"), "Can't read --box"),
        (("a dog", "-i", "own.png", "--box", "10,10,20,20"), "doesn't lie in the image"),
        (("a dog", "-i", "own.png", "--invert"), "nothing to invert"),
        (("a dog", "-i", "own.png", "--exact", "--strength", 0.5), "give a mask"),
        (("a dog", "-i", "photo.png", "--method", "inversion"), "source_prompt"),
        (("a dog", "-i", "own.png", "--upscale"), "can't be upscaled"),
        (("a dog", "-i", "own.png", "--method", "magic"), "method"),
        (("a red dog", "-i", "own.png", "--exact"), "Nothing would change"),
        (("a dog", "-i", "own.png", "--extend", "0,0,8,0", "--invert"), "nothing to invert"),
        (("a dog", "-i", "own.png", "--strength", 0.5, "-o", "own.png"), "own.png would be replaced"),
    ],
    ids=str,
)
def test_bad_edits_are_refused(run: Any, arguments: tuple[Any, ...], expected: str) -> None:
    assert expected in run("edit", *arguments, code=2)
    assert not list(Path().glob("a-dog*"))


def test_an_exact_edit_as_jpeg_is_noted(run: Any) -> None:
    said = run("edit", "a dog", "-i", "photo.png", "--mask", "mask.png", "--exact", "-o", "b.jpg")
    assert "JPEG changes every pixel" in said


def test_the_prompt_of_a_mixture_does_not_describe_it(run: Any) -> None:
    run("generate", "a red dog", "--towards", "0.5:two", "-o", "mixed.png")
    said = run("edit", "a blue cat", "-i", "mixed.png", "-o", "b.png")
    assert "Changing what differs" not in said
    edit = read_record(Path("b.png")).edit
    assert edit is not None and edit.method == "redraw"


def test_an_edited_image_is_not_made_again_from_its_settings(run: Any) -> None:
    run("edit", "a dog", "-i", "own.png", "--strength", 0.5, "-o", "b.png")
    said = run("generate", "--from", "b.png", code=2)
    assert "was edited from another image" in said and "bitvar edit" in said


# Mixed prompts and seeds


@pytest.mark.parametrize(
    "options",
    [
        ("--region", "0.5,0,0.5,1:a blue cat"),
        ("--switch", "2:a blue cat", "--towards", "0.5:two"),
        ("--towards", "0,0.5,1:a blue cat"),
        ("--towards-seed", "9:0.5"),
    ],
    ids=str,
)
def test_mixed_images_are_made_again_from_their_settings(run: Any, options: tuple[str, ...]) -> None:
    run("generate", "a red dog", "--seed", 3, "-o", "b.png", *options)
    run("generate", "--from", "b.png", "-o", "c.png")
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes()
    assert not np.array_equal(pixels("b.png"), pixels("own.png"))


def test_changed_mixtures_are_named(run: Any) -> None:
    said = run("generate", "--from", "own.png", "--switch", "2:two", "--towards-seed", "9", "-o", "b.png")
    assert "further prompts: none -> 'two'" in said and "second seed: none -> 9" in said


@pytest.mark.parametrize(
    "given",
    [
        (["a"], [], []), (["1,2:a"], [], []), (["0,0,1,1:"], [], []), (["0,0,2,1:a"], [], []),
        ([], ["0:a"], []), ([], ["x:a"], []), ([], [], ["2:a"]), ([], [], ["a"]),
    ],
    ids=str,
)  # fmt: skip
def test_mixtures_that_can_not_be_read_are_refused(given: Any) -> None:
    with pytest.raises(UsageError):
        read_mix(*given)


@pytest.mark.parametrize("text", ["", "x", "-1", "7:2", "7:x"])
def test_seeds_that_can_not_be_read_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_mixed_seed(text)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (([], ["0:a"], []), "counted from 1"),
        (([], [], ["2:a"]), "less than or equal to 1"),
        ((["0,0,1,0:a"], [], []), "box is empty"),
    ],
    ids=str,
)
def test_reasons_are_given(given: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        read_mix(*given)


def test_scales_are_counted_from_1() -> None:
    mix = read_mix([], ["2:a dog"], ["0.25:a cat"])
    assert mix is not None and (mix[0].first_scale, mix[0].prompt, mix[1].weight) == (1, "a dog", 0.25)
    assert read_mix([], [], []) is None and read_mixed_seed(None) is None


# Instructions


def test_an_instruction_is_recorded_with_its_image(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "white").save("a.png")
    monkeypatch.setattr(
        sys, "argv", ["bitvar", "instruct", "make the background blue", "-i", "a.png", "--seed", "1", "-o", "b.png"]
    )
    for code, out in ((0, "b.png"), (2, "a.png")):
        monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], out])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert int(stop.value.code or 0) == code, capsys.readouterr().err
    record = read_record(Path("b.png"))
    assert record.edit is not None and record.edit.method == "instruct" and record.lora
    assert record.prompt == "make the background blue" and record.file_size == (64, 64)
    blue = pixels("b.png").astype(int).mean(axis=(0, 1))
    assert blue[2] > blue[0] + 30, "the small editor in the package does what it is told"
