"""The rules of GenEval 2 and DPG-Bench, with answers given by hand."""

from pathlib import Path

import pytest
from PIL import Image

from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalItem, EvalPrompt, GeneratedImage, JudgeInfo
from bitvar.evaluation.benchmarks.dpg import DpgBenchmark, Question, read_questions, score_answers
from bitvar.evaluation.benchmarks.geneval2 import GenEval2Benchmark, GenEval2Layout, geometric_mean, spellings
from tests.support.field import DPG_HEADER, GENEVAL2_ROWS, dpg_questions, prompts_file


def items_of(folder: Path, prompts: tuple[EvalPrompt, ...], count: int = 1) -> list[EvalItem]:
    path = folder / "image.png"
    Image.new("RGB", (16, 16), "white").save(path)
    return [EvalItem(GeneratedImage(prompt, i, path), prompt) for prompt in prompts for i in range(count)]


def test_spellings_of_counts_and_of_yes() -> None:
    assert spellings("How many dogs are there?", "two") == ["two", "Two", " two", " Two", "2", " 2"]
    assert spellings("How many dogs are there?", "eleven")[-2:] == ["other", " other"]
    assert spellings("Is it red?", "Yes") == ["Yes", "yes", " yes", " Yes"]


def test_the_geometric_mean_of_answers() -> None:
    assert geometric_mean([0.5, 0.125]) == pytest.approx(0.25)
    assert geometric_mean([0.5, 0.0]) == 0


def test_soft_tifa_by_atoms_and_by_skill(tmp_path: Path) -> None:
    prompts = GenEval2Layout().read_prompts(prompts_file(tmp_path / "d.jsonl", GENEVAL2_ROWS)).prompts
    asked: list[str] = []

    def probability(image: Image.Image, question: str, answers: list[str]) -> float:
        asked.append(question)
        return 0.25 if question.startswith("How many") else 1.0

    benchmark = GenEval2Benchmark(prompts, probability, JudgeInfo("hand"))
    table = benchmark.summarise(list(benchmark.score(items_of(tmp_path, prompts))))
    assert len(asked) == 5
    assert {row.skill: row.score for row in table.rows} == {
        "3 atoms (GM)": 0.75,  # 0.5 and 1
        "4 atoms (GM)": 1.0,
        "attribute (AM)": 1.0,
        "count (AM)": 0.25,
        "object (AM)": 1.0,
        "position (AM)": 1.0,
        "Soft-TIFA AM": pytest.approx((0.625 + 1 + 1) / 3, abs=1e-6),
        "Soft-TIFA GM": pytest.approx((0.5 + 1 + 1) / 3, abs=1e-6),
    }


CHAIN = [Question(1, "a", "entity", ()), Question(2, "b", "entity", (1,)), Question(3, "c", "entity", (2,))]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({1: True, 2: True, 3: True}, 1.0),
        ({1: False, 2: True, 3: True}, 0.0),  # the second falls with the first, and the third with the second
        ({1: True, 2: False, 3: True}, 1 / 3),
        ({1: True, 2: True, 3: False}, 2 / 3),
    ],
    ids=["all", "not the first", "not the second", "not the third"],
)
def test_an_answer_counts_only_with_its_parents(answers: dict[int, bool], expected: float) -> None:
    assert score_answers(CHAIN, answers) == pytest.approx(expected)


def test_a_parent_that_is_asked_later_counts_as_answered() -> None:
    """The published scorer walks through the questions once."""
    questions = [Question(1, "a", "x", (2,)), Question(2, "b", "x", (3,)), Question(3, "c", "x", ())]
    assert score_answers(questions, {1: True, 2: True, 3: False}) == pytest.approx(1 / 3)


def test_dpg_scores_images_and_categories(tmp_path: Path) -> None:
    prompts = (EvalPrompt("0", "a dog", "all", "prompt"), EvalPrompt("1", "a cat", "all", "prompt"))
    questions = read_questions(dpg_questions(tmp_path / "q.csv", ["0", "1"]))
    assert questions["0"][2] == Question(3, "Is it 3?", "relation - spatial", (2, 1))
    benchmark = DpgBenchmark(
        prompts, questions, lambda image, question: "no" if "2" in question else "yes", JudgeInfo("hand"), grid=False
    )
    table = benchmark.summarise(list(benchmark.score(items_of(tmp_path, prompts))))
    assert {row.skill: row.score for row in table.rows} == {
        "attribute": 0.0, "entity": 1.0, "global": 1.0, "relation": 1.0, "overall": 0.5,
    }  # fmt: skip


def test_dpg_asks_about_each_image_of_a_grid(tmp_path: Path) -> None:
    grid = Image.new("RGB", (16, 16))
    for i in range(4):
        grid.paste((60 * i, 0, 0), (8 * (i % 2), 8 * (i // 2), 8 * (i % 2) + 8, 8 * (i // 2) + 8))
    grid.save(tmp_path / "0.png")
    prompt, reds = EvalPrompt("0", "a dog", "all", "prompt"), []

    def answer(image: Image.Image, question: str) -> str:
        assert image.size == (8, 8)
        reds.append(image.getchannel("R").getpixel((4, 4)))
        return "yes"

    benchmark = DpgBenchmark((prompt,), {"0": CHAIN[:1]}, answer, JudgeInfo("hand"))
    list(benchmark.score([EvalItem(GeneratedImage(prompt, i, tmp_path / "0.png"), prompt) for i in range(4)]))
    assert reds == [0, 60, 120, 180]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,text\n0,a\n", "no questions of DPG-Bench"),
        (f"{DPG_HEADER}\n", "it has no rows"),
        (f"{DPG_HEADER}\n0,t,k,one,0,a,b,entity (x),Is it?\n", "bad value"),
        (f"{DPG_HEADER}\n0,t\n", "no questions of DPG-Bench"),
    ],
    ids=["other columns", "no rows", "no number", "a short row"],
)
def test_bad_questions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_questions(tmp_path / "q.csv")
    with pytest.raises(UsageError, match="Can't read the questions"):
        read_questions(tmp_path / "none.csv")


def test_questions_must_cover_the_prompts() -> None:
    prompts = (EvalPrompt("0", "a", "all", "prompt"), EvalPrompt("7", "b", "all", "prompt"))
    with pytest.raises(UsageError, match="1 of 2 prompts have none: 7"):
        DpgBenchmark(prompts, {"0": CHAIN}, lambda image, question: "yes", JudgeInfo("x"))
