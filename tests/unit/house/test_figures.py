"""Numbers that stand in several places are held against one file, docs/figures.json, and against one another."""

import json
import re
import runpy
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[3]
FIGURES: Final = runpy.run_path(str(ROOT / "scripts" / "icons" / "figures.py"))
KEPT: Final[dict[str, Any]] = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
PERFORMANCE: Final = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """A page with line breaks as spaces."""
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def mean_share(candidate: str, split: str) -> str:
    skill = "style" if split == "held_out_style" else "mean"
    return f"{100 * KEPT['scenes']['scores'][candidate][split][skill]['score']:.1f}"


@pytest.mark.parametrize("page", FIGURES["pages"](KEPT), ids=lambda page: f"{page.parent.name}-{page.name}")
def test_tables_are_those_of_the_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for table in FIGURES["pages"](KEPT)[page]:
        assert FIGURES["with_table"](text, table) == text, "run python scripts/icons/figures.py"


def test_every_copy_of_a_table_is_held() -> None:
    held = FIGURES["pages"](KEPT)
    headers = {table.partition("\n")[0] for tables in held.values() for table in tables}
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "src" / "bitvar" / "pretrained").glob("*/README.md"),
    ]
    for page in pages:
        lines = page.read_text(encoding="utf-8").splitlines()
        found = [header for header in headers if header in lines]
        assert len(found) == len(held.get(page, [])), page


def test_the_card_says_the_same_in_words() -> None:
    scales = KEPT["scales"]
    splits = ("val", "held_out_combination", "held_out_prompt")
    counts, losses = [scales[s]["samples"] for s in splits], [f"{scales[s]['loss']:.3f}" for s in splits]
    accuracy = [f"{100 * scales[s]['accuracy']:.1f} %" for s in splits]
    card = " ".join(FIGURES["CARD"].read_text(encoding="utf-8").split())
    assert f'"validation" has {counts[0]} fresh images' in card
    assert f"the held-out splits {counts[1]} and {counts[2]}" in card
    assert f"{losses[0]} validation, {losses[1]} and {losses[2]} held out" in card
    assert f"bit accuracy {accuracy[0]}, {accuracy[1]} and {accuracy[2]}" in card


def test_the_tokenizer_page_says_the_same_psnr_by_scale() -> None:
    *first, last = [f"{value:.1f}" for value in KEPT["scales"]["val"]["psnr_by_scale"]]
    assert f"`general` has {', '.join(first)} and {last} dB" in text_of("docs/tokenizer.md")


def test_the_newest_entry_of_the_log_about_scenes_says_their_means() -> None:
    entries = (ROOT / "docs" / "log.md").read_text(encoding="utf-8").split("\n## ")
    newest = next(entry for entry in entries if "\n| held out style |" in entry)
    for split in ("seen", "unseen", "paraphrase", "held_out_style"):
        row = next(line for line in newest.splitlines() if line.startswith(f"| {split.replace('_', ' ')} |"))
        assert row.split(" | ")[1] == mean_share("real", split)
        assert row.split(" | ")[-1].startswith(f"{mean_share('icons', split)} (")


def test_the_judges_card_says_its_figures() -> None:
    card = text_of("src/bitvar/pretrained/scene_judge/README.md")
    rates = ("true_positive_rate", "true_negative_rate")
    for skill, found in KEPT["scenes"]["judge"].items():
        accepted, rejected = (f"{100 * found[rate]:.1f}".removesuffix(".0") for rate in rates)
        assert f"{skill.replace('_', ' ')} {accepted} % and {rejected} %" in card


def test_the_readme_has_the_speeds_of_the_performance_page() -> None:
    """Ratios to the official code on each processor: in the tables of seconds, in the summary, and in the README."""
    measured = re.findall(r"^\| bitvar, (\w+) \|.*\*\*([\d., ()to]+)\*\* \|$", PERFORMANCE, re.MULTILINE)
    assert [precision for precision, _ in measured] == ["fp32", "bf16"] * 2
    for processor in (0, 1):
        fp32, bf16 = (ratio for _, ratio in measured[2 * processor : 2 * processor + 2])
        for text in (README, PERFORMANCE):
            assert re.search(rf"^\| .*AMD EPYC .* \| {re.escape(fp32)} \| {re.escape(bf16)} \|$", text, re.MULTILINE)
    for size, words in {"2B --dtype bf16`, 1024 px": "the 2B model at 1024 x 1024 takes", "8B": "the 8B model"}.items():
        row = next(line for line in PERFORMANCE.splitlines() if line.startswith(f"| `--preset {size}"))
        said = re.search(rf"{words} ([\d.]+) s", text_of("README.md"))
        assert said is not None
        assert abs(float(row.split("|")[4]) - float(said[1])) <= 0.00501


def test_copies_of_a_table_in_a_page_would_be_noticed() -> None:
    table = FIGURES["table"](["a", "b"], [["1", "2"]])
    assert (
        FIGURES["with_table"]("x\n\n| a | b |\n|---|---|\n| 3 | 4 |\n| 5 | 6 |\n\ny\n", table) == f"x\n\n{table}\n\ny\n"
    )
    for text in ("x\n", f"{table}\n\n{table}\n"):
        with pytest.raises(ValueError, match=r"\d tables"):
            FIGURES["with_table"](text, table)


def test_what_is_kept_of_reports() -> None:
    row = {"candidate": "icons", "split": "seen", "skill": "two", "score": 0.5, "low": 0.2, "high": 0.8, "prompts": 30}
    report = {
        "results": [row | {"images": 30}],
        "candidates": [{"candidate": "icons", "metrics": {"frechet": {"distance": 1.0}}}],
        "judge": {"accuracy": {"two": {"true_positive_rate": 1.0, "true_negative_rate": 0.5}}},
        "settings": {"dtype": "float32", "device": "cpu", "seeds": 1, "limit": None, "judge": "x"},
    }
    kept = FIGURES["keep_scenes"](report)
    assert kept["scores"]["icons"]["seen"]["two"]["score"] == 0.5
    assert kept["metrics"]["icons"]["frechet"]["distance"] == 1.0
    measured = {"samples": 3, "loss": 0.1, "loss/scale_0": 0.1234567, "accuracy": 0.9, "accuracy/scale_0": 0.9}
    measured |= {"psnr": 20.0, "psnr/scale_0": 20.0, "residual/scale_0": 1.0}
    scales = FIGURES["keep_scales"](dict.fromkeys(FIGURES["MEASURED"], measured))
    assert scales["val"]["loss_by_scale"] == [0.123457]
    assert scales["held_out_prompt"]["samples"] == 3


def test_images_in_the_gallery_are_as_many_as_are_said() -> None:
    sections = json.loads((ROOT / "docs" / "images" / "gallery.json").read_text(encoding="utf-8"))["sections"]
    count = sum(map(len, sections.values()))
    assert re.search(rf"shown the {count} images of the gallery", text_of("src/bitvar/pretrained/icons/README.md"))
