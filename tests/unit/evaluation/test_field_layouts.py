"""The prompts of published benchmarks, and the exact names and contents of the folders that their scorers read."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.dpg import DpgLayout, cut
from bitvar.evaluation.benchmarks.fid import FidLayout
from bitvar.evaluation.benchmarks.geneval import GenEvalLayout
from bitvar.evaluation.benchmarks.geneval2 import GenEval2Layout
from bitvar.evaluation.benchmarks.hpsv2 import STYLES, HpsV2Layout
from bitvar.evaluation.benchmarks.hpsv3 import HpsV3Layout
from bitvar.evaluation.benchmarks.imagereward import ImageRewardLayout
from bitvar.evaluation.benchmarks.layout import Layout
from tests.support.field import GENEVAL2_ROWS, prompts_file
from tests.support.tiny import toy_set


def draw(
    layout: Layout, folder: Path, given: Path | None = None, *, limit: int | None = 1, count: int | None = None
) -> list[str]:
    """Write an image of its own colour for each drawing, finish, and list the files."""
    prompts = layout.read_prompts(given).choose(limit)
    count = count or layout.images_per_prompt
    for number, drawing in enumerate(layout.drawings(prompts, count)):
        path = folder / drawing.file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 10, 20)).save(path, quality=95)
    layout.finish(folder, prompts, count)
    layout.finish(folder, prompts, count)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_geneval_has_its_553_prompts_in_six_skills() -> None:
    prompts = GenEvalLayout().read_prompts(None).prompts
    skills = {
        skill: sum(prompt.skill == skill for prompt in prompts) for skill in dict.fromkeys(p.skill for p in prompts)
    }
    assert skills == {
        "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100,
    }  # fmt: skip
    assert (prompts[0].id, prompts[0].text, prompts[-1].id) == ("00000", "a photo of a bench", "00552")


def test_geneval_folders_have_metadata_and_samples(tmp_path: Path) -> None:
    files = draw(GenEvalLayout(), tmp_path, count=2)
    assert files[:3] == [
        "images/00000/metadata.jsonl", "images/00000/samples/0000.png", "images/00000/samples/0001.png",
    ]  # fmt: skip
    assert {file.split("/")[1] for file in files} == {"00000", "00080", "00179", "00259", "00353", "00453"}
    metadata = json.loads((tmp_path / "images/00000/metadata.jsonl").read_text())
    assert metadata == {
        "tag": "single_object",
        "include": [{"class": "bench", "count": 1}],
        "prompt": "a photo of a bench",
    }
    found = GenEvalLayout().find(tmp_path / "images", GenEvalLayout().read_prompts(None).prompts)
    assert [(image.prompt.id, image.seed) for image in found[:3]] == [("00000", 0), ("00000", 1), ("00080", 0)]


def test_geneval_finds_samples_with_five_digits(tmp_path: Path) -> None:
    """As the published generator writes them."""
    samples = tmp_path / "00001" / "samples"
    samples.mkdir(parents=True)
    for name in ("00000.png", "00001.png", "notes.png", "0002.jpg"):
        Image.new("RGB", (8, 8)).save(samples / name)
    found = GenEvalLayout().find(tmp_path, GenEvalLayout().read_prompts(None).prompts)
    assert [(image.prompt.id, image.seed) for image in found] == [("00001", 0), ("00001", 1)]


def test_geneval2_has_one_image_a_prompt_and_a_file_of_paths(tmp_path: Path) -> None:
    given = prompts_file(tmp_path / "data.jsonl", GENEVAL2_ROWS)
    files = draw(GenEval2Layout(), tmp_path / "raw", given, limit=None)
    assert files == ["image_paths.json", "images/00000.png", "images/00001.png", "images/00002.png"]
    paths = json.loads((tmp_path / "raw/image_paths.json").read_text())
    assert paths["two dogs"] == str(tmp_path / "raw/images/00000.png")
    assert list(paths) == [row["prompt"] for row in GENEVAL2_ROWS]


def test_dpg_joins_four_images_row_by_row(tmp_path: Path) -> None:
    assert len(DpgLayout().read_prompts(None).prompts) == 1065
    files = draw(DpgLayout(), tmp_path)
    assert files == ["images/0.png", *(f"samples/0_{i}.png" for i in range(4))]
    grid = np.asarray(Image.open(tmp_path / "images/0.png"))
    assert grid.shape == (16, 16, 3)
    assert grid[::8, ::8, 0].tolist() == [[0, 1], [2, 3]]
    assert [np.asarray(cut(Image.fromarray(grid), i))[0, 0, 0] for i in range(4)] == [0, 1, 2, 3]


def test_a_newer_image_makes_its_grid_again(tmp_path: Path) -> None:
    draw(DpgLayout(), tmp_path)
    Image.new("RGB", (8, 8), (99, 0, 0)).save(tmp_path / "samples/0_3.png")
    DpgLayout().finish(tmp_path, DpgLayout().read_prompts(None).choose(1), 4)
    assert np.asarray(Image.open(tmp_path / "images/0.png"))[12, 12, 0] == 99


def test_dpg_takes_one_image_or_four(tmp_path: Path) -> None:
    assert draw(DpgLayout(1), tmp_path, count=1) == ["images/0.png"]
    with pytest.raises(UsageError, match="can't take 3 images"):
        DpgLayout().drawings(DpgLayout().read_prompts(None).choose(1), 3)


def test_hpsv2_has_a_folder_a_style(tmp_path: Path) -> None:
    for style in STYLES:
        prompts_file(tmp_path / "p" / f"{style}.json", ["a dog", "a cat"], as_list=True)
    files = draw(HpsV2Layout(), tmp_path / "raw", tmp_path / "p", limit=None)
    assert files == [
        f"images/{style}/0000{i}.jpg" for style in ("anime", "concept-art", "paintings", "photo") for i in (0, 1)
    ]
    found = HpsV2Layout().find(tmp_path / "raw/images", HpsV2Layout().read_prompts(tmp_path / "p").prompts)
    assert [image.prompt.id for image in found[:3]] == ["anime-00000", "anime-00001", "concept-art-00000"]


def test_hpsv3_has_its_prompt_beside_each_image(tmp_path: Path) -> None:
    rows = [{"prompt": "a dog", "category": "Animals"}, {"prompt": "hills", "category": "Natural Scenery"}]
    given = prompts_file(tmp_path / "p.jsonl", [*rows, {"prompt": "a cat", "category": "Animals"}])
    files = draw(HpsV3Layout(), tmp_path / "raw", given, limit=None)
    assert files == [
        f"images/{name}.{kind}"
        for name in ("animals/00000", "animals/00001", "natural-scenery/00000") for kind in ("png", "txt")
    ]  # fmt: skip
    assert (tmp_path / "raw/images/animals/00001.txt").read_text() == "a cat"


def test_imagereward_numbers_images_after_the_prompts_id(tmp_path: Path) -> None:
    layout = ImageRewardLayout()
    assert len(layout.read_prompts(None).prompts) == 100
    files = draw(layout, tmp_path)
    assert sorted(files) == sorted(f"images/005695-0057_{i}.png" for i in range(10))
    found = layout.find(tmp_path / "images", layout.read_prompts(None).prompts)
    assert [image.seed for image in found] == list(range(10))


def test_fid_draws_the_first_captions_of_a_split(tmp_path: Path) -> None:
    files = draw(FidLayout("val"), tmp_path / "raw", toy_set(tmp_path / "set"), limit=None)
    assert files == ["images/000000.png", "images/000001.png", "images/000002.png"]
    prompts = FidLayout("val").read_prompts(tmp_path / "set").prompts
    assert prompts[1].text == "a green circle 1"


def test_a_sidecar_is_never_replaced(tmp_path: Path) -> None:
    draw(GenEvalLayout(), tmp_path, count=1)
    (tmp_path / "images/00000/metadata.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="in the way"):
        GenEvalLayout().finish(tmp_path, GenEvalLayout().read_prompts(None).choose(1), 1)


@pytest.mark.parametrize("layout", [GenEval2Layout(), HpsV2Layout(), HpsV3Layout()], ids=lambda layout: layout.name)
def test_prompts_that_are_not_in_the_package_are_asked_for(layout: Layout) -> None:
    with pytest.raises(UsageError, match="--prompts") as error:
        layout.read_prompts(None)
    assert "git clone" in str(error.value) or "hf download" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no prompts"),
        ("not json\n", "line 1 of"),
        ("[1]\n", "no JSON object"),
        ('{"prompt": "a"}\n', "'include' in entry 1"),
        ('{"tag": "x", "include": [{"class": "dog"}], "prompt": "a"}\n', "'count' in entry 1"),
        ('{"tag": "x", "include": [7], "prompt": "a"}\n', "'class' in entry 1"),
        ('{"tag": "x", "include": [], "prompt": " "}\n', "'prompt' in entry 1"),
    ],
    ids=["empty", "no json", "a list", "no field", "half a field", "a number", "a blank"],
)
def test_a_bad_prompt_file_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(UsageError, match=message):
        GenEvalLayout().read_prompts(tmp_path / "bad.jsonl")


def test_a_missing_prompt_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UsageError, match="Can't read the prompts"):
            GenEvalLayout().read_prompts(path)


def test_every_folder_of_prompts_names_source_and_licence() -> None:
    from bitvar.evaluation.benchmarks.prompt_sets import PACKAGED

    folders = sorted(path for path in PACKAGED.iterdir() if path.is_dir())
    assert [folder.name for folder in folders] == ["dpg", "geneval", "imagereward"]
    for folder in folders:
        text = (folder / "SOURCE.md").read_text()
        assert "https://github.com/" in text and ("MIT" in text or "Apache" in text)
