"""Both stages of published benchmarks on a tiny model: what is drawn, what resumes, what a report says."""

import json
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bitvar.bulk import read_ledger
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import EvalItem, JudgeInfo, Score, Table
from bitvar.evaluation.benchmarks.generating import FieldSettings, GenerateChoices, generate_benchmark
from bitvar.evaluation.benchmarks.imagereward import ImageRewardLayout
from bitvar.evaluation.benchmarks.preference import PreferenceBenchmark
from bitvar.evaluation.benchmarks.scoring import ImageFolder, OwnBenchmark, score_benchmark, scores_folder
from bitvar.evaluation.generation.intervals import by_skill
from bitvar.pipeline import InfinityPipeline
from tests.support.drawing import visible_files
from tests.support.field import prompts_file
from tests.support.tiny import rough_pipeline

LAYOUT = ImageRewardLayout()
PROMPTS = ["a red dog", "a green cat", "two blue dogs"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> InfinityPipeline:
    return rough_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [{"id": f"p{i}", "prompt": text} for i, text in enumerate(PROMPTS)]
    return prompts_file(tmp_path / "prompts.json", rows, as_list=True)


def draw(pipeline: InfinityPipeline, prompts: Path, folder: Path, **choices: Any) -> FieldSettings:
    given = GenerateChoices(**{"images_per_prompt": 2, "batch_size": 2, **choices})
    return generate_benchmark(pipeline, LAYOUT, LAYOUT.read_prompts(prompts), folder, given)


class Lengths(PreferenceBenchmark):
    """Scores an image by the length of its prompt; counts the images and stops after some."""

    def __init__(self, prompts: Path, *, stop_after: int = 10**9, sha256: str = "ab" * 32) -> None:
        self.scored, self.stop_after = 0, stop_after
        super().__init__(
            "imagereward", LAYOUT.read_prompts(prompts).prompts, self._lengths, JudgeInfo("lengths", sha256)
        )

    def _lengths(self, images: Sequence[Any], texts: Sequence[str]) -> list[float]:
        if self.scored >= self.stop_after:
            raise KeyboardInterrupt
        self.scored += len(images)
        return [float(len(text)) for text in texts]


def score(scorer: Any, prompts: Path, folder: Path, **more: Any) -> dict[str, Any]:
    opened = ImageFolder.open(folder, LAYOUT)
    output = more.pop("output", None) or scores_folder(opened, "transformers", scorer.judge)
    return score_benchmark(scorer, LAYOUT, LAYOUT.read_prompts(prompts), opened, output, **more)


def test_images_are_drawn_once_and_carry_their_prompts(
    pipeline: InfinityPipeline, prompts: Path, tmp_path: Path
) -> None:
    settings = draw(pipeline, prompts, tmp_path / "out", seed=5, options={"guidance_scale": 3.0})
    before = visible_files(tmp_path / "out")
    assert draw(pipeline, prompts, tmp_path / "out", seed=5, options={"guidance_scale": 3.0}) == settings
    assert visible_files(tmp_path / "out") == before
    lines = read_ledger(tmp_path / "out/raw")
    assert [line.file for line in lines] == [f"images/p{i}_{n}.png" for i in range(3) for n in range(2)]
    assert [line.prompt for line in lines[::2]] == PROMPTS
    assert lines[1].note == {"prompt_id": "p0", "number": 1}
    assert len({line.seed for line in lines}) == 6
    assert settings.request == {"params": {"guidance_scale": 3.0}}
    assert (settings.images_per_prompt, settings.variants, settings.cut_prompts) == (2, ("raw",), 0)


def test_an_image_depends_on_neither_the_limit_nor_the_number(
    pipeline: InfinityPipeline, prompts: Path, tmp_path: Path
) -> None:
    draw(pipeline, prompts, tmp_path / "all")
    draw(pipeline, prompts, tmp_path / "one", limit=1, images_per_prompt=1)
    one = tmp_path / "one/raw/images/p0_0.png"
    assert one.read_bytes() == (tmp_path / "all/raw/images/p0_0.png").read_bytes()


def test_another_command_in_the_folder_is_refused(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    draw(pipeline, prompts, tmp_path / "out")
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        draw(pipeline, prompts, tmp_path / "out", seed=1)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/raw").write_text("mine")
    with pytest.raises(UsageError, match="files that no evaluation wrote: raw"):
        draw(pipeline, prompts, tmp_path / "taken")


def test_long_prompts_are_refused_or_cut_and_counted(pipeline: InfinityPipeline, tmp_path: Path) -> None:
    rows = [{"id": "p0", "prompt": "a red dog. " + "a cat on a dog " * 20}, {"id": "p1", "prompt": "a dog"}]
    given = prompts_file(tmp_path / "long.json", rows, as_list=True)
    with pytest.raises(UsageError, match="1 of 2 have up to 106 tokens, and this model reads 16"):
        draw(pipeline, given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert draw(pipeline, given, tmp_path / "out", cut_prompts=True).cut_prompts == 1
    line = read_ledger(tmp_path / "out/raw")[0]
    assert rows[0]["prompt"].startswith(line.prompt) and line.note["original_prompt"] == rows[0]["prompt"]


def test_raw_and_rewritten_prompts_are_both_drawn_and_scored(
    pipeline: InfinityPipeline, prompts: Path, tmp_path: Path
) -> None:
    rewrites = {text: f"{text} on a square" for text in PROMPTS}
    settings = draw(pipeline, prompts, tmp_path / "out", rewrites=rewrites)
    assert settings.variants == ("raw", "rewritten") and settings.rewrites_sha256
    assert read_ledger(tmp_path / "out/rewritten")[0].prompt == "a red dog on a square"
    report = score(Lengths(prompts), prompts, tmp_path / "out")
    assert list(report["variants"]) == ["raw", "rewritten"]
    overall = [values["overall"] for values in report["variants"].values()]
    assert overall == [pytest.approx(sum(map(len, PROMPTS)) / 3)] * 2  # both are scored by the benchmark's prompt


def test_a_prompt_without_a_rewritten_one_is_refused(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is none for 'two blue dogs'"):
        draw(pipeline, prompts, tmp_path / "out", rewrites={text: text for text in PROMPTS[:2]})
    with pytest.raises(UsageError, match="no rewrites are given"):
        draw(pipeline, prompts, tmp_path / "out", variants=("rewritten",))


def test_a_report_says_what_its_numbers_depend_on(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    settings = draw(pipeline, prompts, tmp_path / "out")
    report = score(Lengths(prompts), prompts, tmp_path / "out")
    assert report["scorer"] == {"name": "lengths", "sha256": "ab" * 32}
    assert report["images"] == settings.model_dump(mode="json")
    assert report["prompts"]["sha256"] == settings.prompts_sha256
    assert report["variants"]["raw"]["complete"] is True
    assert report["variants"]["raw"]["images"] == 6
    path = tmp_path / "out/scores" / f"transformers-{'ab' * 4}" / "report.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(report))


def test_scoring_resumes_after_an_interrupt(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    draw(pipeline, prompts, tmp_path / "out", images_per_prompt=6)
    scorer = Lengths(prompts, stop_after=8)
    with pytest.raises(KeyboardInterrupt):
        score(scorer, prompts, tmp_path / "out")
    file = next((tmp_path / "out/scores").glob("*/raw.jsonl"))
    with file.open("a") as torn:
        torn.write('{"id": "p1", "se')
    again = Lengths(prompts)
    report = score(again, prompts, tmp_path / "out")
    assert (scorer.scored, again.scored) == (8, 10)
    assert report["variants"]["raw"]["images"] == 18
    assert len(file.read_text().splitlines()) == 18
    assert Lengths(prompts).scored == 0


def test_a_changed_image_is_scored_again(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    draw(pipeline, prompts, tmp_path / "out")
    score(Lengths(prompts), prompts, tmp_path / "out")
    images = tmp_path / "out/raw/images"
    (images / "p0_0.png").write_bytes((images / "p1_0.png").read_bytes())
    again = Lengths(prompts)
    score(again, prompts, tmp_path / "out")
    assert again.scored == 1


def test_images_made_elsewhere_are_scored_into_another_folder(
    pipeline: InfinityPipeline, prompts: Path, tmp_path: Path
) -> None:
    draw(pipeline, prompts, tmp_path / "out")
    theirs = tmp_path / "out/raw/images"
    with pytest.raises(UsageError, match="Say where to write"):
        score(Lengths(prompts), prompts, theirs)
    report = score(Lengths(prompts), prompts, theirs, output=tmp_path / "scores")
    assert report["images"] is None and list(report["variants"]) == ["given"]


def test_what_cannot_be_scored_is_refused(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    draw(pipeline, prompts, tmp_path / "out")
    (tmp_path / "out/raw/images/p2_1.png").unlink()
    with pytest.raises(UsageError, match="5 of 6 images"):
        score(Lengths(prompts), prompts, tmp_path / "out")
    draw(pipeline, prompts, tmp_path / "out")  # as the error says
    score(Lengths(prompts), prompts, tmp_path / "out")
    other = prompts_file(tmp_path / "other.json", [{"id": f"p{i}", "prompt": "a cat"} for i in range(3)], as_list=True)
    with pytest.raises(UsageError, match="prompts have changed"):
        score(Lengths(other), other, tmp_path / "out")
    for place, message in ((tmp_path / "none", "no such folder"), (prompts, "it is a file")):
        with pytest.raises(UsageError, match=message):
            ImageFolder.open(place, LAYOUT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images to score"):
        score(Lengths(prompts), prompts, tmp_path / "empty", output=tmp_path / "s")


def test_two_scorers_keep_their_scores_apart(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    draw(pipeline, prompts, tmp_path / "out")
    for digest in ("ab" * 32, "cd" * 32):
        score(Lengths(prompts, sha256=digest), prompts, tmp_path / "out")
    assert len(list((tmp_path / "out/scores").iterdir())) == 2
    with pytest.raises(UsageError, match="scorer_sha256 was"):
        first = next((tmp_path / "out/scores").glob("*-abab*"))
        score(Lengths(prompts, sha256="ef" * 32), prompts, tmp_path / "out", output=first)


class Judge:
    """Decides by the number of the image."""

    name = "imagereward"
    judge = JudgeInfo("numbers")

    def __init__(self, prompts: Path) -> None:
        self._prompts = LAYOUT.read_prompts(prompts).prompts

    def prompts(self) -> Sequence[Any]:
        return self._prompts

    def score(self, items: Sequence[EvalItem]) -> Iterator[Score]:
        for item in items:
            yield item.judged(item.image.seed == 0, ["second"] if item.image.seed else [])

    def summarise(self, scores: Sequence[Score]) -> Table:
        return by_skill(scores)


def test_decisions_become_shares(pipeline: InfinityPipeline, prompts: Path, tmp_path: Path) -> None:
    draw(pipeline, prompts, tmp_path / "out")
    report = score(Judge(prompts), prompts, tmp_path / "out")
    assert (report["unit"], report["variants"]["raw"]["overall"]) == ("%", 0.5)


def kill_ten_times(pipeline: InfinityPipeline, prompts: Path, folder: Path, choices: dict[str, Any]) -> None:
    """Begin the first stage until ten children were killed in it. Children that are too quick leave work again."""
    moments, kills = random.Random(0), 0
    while kills < 10:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside torch's threads, which sleep
            child = os.fork()
        if child == 0:
            try:
                draw(pipeline, prompts, folder, **choices)
            finally:
                os._exit(0)
        time.sleep(moments.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        kills += killed
        if not killed:
            for path in list(folder.glob("*/images/*.png"))[::2]:
                path.unlink()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_ten_kills_end_with_the_same_files(
    pipeline: InfinityPipeline, prompts: Path, tmp_path: Path, count: int
) -> None:
    choices: dict[str, Any] = {"images_per_prompt": count}
    if count > 2:
        choices["rewrites"] = {text: f"{text} on a circle" for text in PROMPTS}
    draw(pipeline, prompts, tmp_path / "whole", **choices)
    kill_ten_times(pipeline, prompts, tmp_path / "killed", choices)
    draw(pipeline, prompts, tmp_path / "killed", **choices)
    assert visible_files(tmp_path / "killed") == visible_files(tmp_path / "whole")
    lines = [line.file for line in read_ledger(tmp_path / "killed/raw")]
    assert lines == [f"images/p{i}_{n}.png" for i in range(3) for n in range(count)]


def test_a_published_scorer_is_paired_with_the_images(
    pipeline: InfinityPipeline, prompts: Path, tmp_path: Path
) -> None:
    import sys

    from bitvar.evaluation.benchmarks.imagereward import own_scorer

    draw(pipeline, prompts, tmp_path / "out")
    package = tmp_path / "site" / "ImageReward.py"
    package.parent.mkdir()
    package.write_text(
        "class Scorer:\n    def score(self, prompt, image):\n        return len(prompt) + int(image[-5])\n"
        "def load(name):\n    assert name == 'ImageReward-v1.0'\n    return Scorer()\n"
    )
    prefix = ["env", f"PYTHONPATH={package.parent}", sys.executable]

    def make(images: Path, found: Any, work: Path) -> Any:
        return own_scorer(found, work, prefix=prefix)

    own = OwnBenchmark("imagereward", JudgeInfo("own"), make, by_skill)
    report = score(own, prompts, tmp_path / "out", output=tmp_path / "scores")
    assert report["variants"]["raw"]["overall"] == pytest.approx(sum(map(len, PROMPTS)) / 3 + 0.5)
    package.write_text("raise SystemExit(7)\n")
    again = score(own, prompts, tmp_path / "out", output=tmp_path / "scores", collect=True)
    assert again["variants"] == report["variants"]
    with pytest.raises(UsageError, match="exit code 7"):
        score(own, prompts, tmp_path / "out", output=tmp_path / "scores")
    with pytest.raises(UsageError, match="Can't read the results"):
        score(own, prompts, tmp_path / "out", output=tmp_path / "scores", collect=True)
