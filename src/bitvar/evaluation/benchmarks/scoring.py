"""The second stage of a published benchmark: score the folder that the first stage wrote, or one made elsewhere.

Scores are kept image by image, so an interrupted run resumes. Each report carries the settings of the images and the
name and digest of the scorer. This file knows no particular benchmark, and draws nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bitvar.config import Config
from bitvar.data.writing import json_lines
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import Benchmark, EvalItem, GeneratedImage, JudgeInfo, Score, Table
from bitvar.evaluation.benchmarks.generating import FieldSettings
from bitvar.evaluation.benchmarks.layout import IMAGES, Layout
from bitvar.evaluation.benchmarks.own_scorer import OwnScorer
from bitvar.evaluation.benchmarks.prompt_sets import PromptSet
from bitvar.evaluation.run_folder import SETTINGS, claimed, require_own
from bitvar.files import write_text

REPORT: Final = "report.json"
SCORES: Final = "scores"
GIVEN: Final = "given"
"""Name of the only variant of a folder that was made elsewhere."""

_Key = tuple[str, int]  # id of the prompt, and number of the image
_CHUNK: Final = 32  # images between two lines of progress


class ScoreSettings(Config):
    """Everything that determines the scores of a folder, besides the images.

    Attributes:
        benchmark: Name of the benchmark.
        scorer, scorer_sha256: Name of what scores, and the digest of all that decides its scores.
        prompts_sha256: Digest of the prompts that images are scored by.
    """

    format: Literal[1] = 1
    benchmark: str
    scorer: str
    scorer_sha256: str
    prompts_sha256: str


@dataclass(frozen=True)
class ImageFolder:
    """Images of a benchmark on disk.

    Attributes:
        root: Folder that was named.
        variants: Folder with the benchmark's layout by the name of the variant.
        settings: Settings of the first stage; None for images made elsewhere.
    """

    root: Path
    variants: Mapping[str, Path]
    settings: FieldSettings | None

    @classmethod
    def open(cls, root: Path, layout: Layout) -> "ImageFolder":
        """Recognise a folder that the first stage wrote, or take it as one in the benchmark's layout.

        Raises:
            UsageError: for a folder that isn't there, or holds another benchmark.
        """
        if not root.is_dir():
            why = "it is a file" if root.exists() else "there is no such folder"
            raise UsageError(f"Can't score {root}.", why, "give the folder that `generate` wrote")
        if not (root / SETTINGS).is_file():
            return cls(root, {GIVEN: root}, None)
        settings = FieldSettings.load(root / SETTINGS)
        if settings.benchmark != layout.name:
            fix = f"score it with `bitvar evaluate {settings.benchmark} score`"
            raise UsageError(f"{root} holds another benchmark.", f"it is one of {settings.benchmark}", fix)
        variants = {name: root / name / IMAGES for name in settings.variants if (root / name / IMAGES).is_dir()}
        if not variants:
            raise UsageError(f"{root} has no images yet.", "`generate` has not finished any", "let it finish first")
        return cls(root, variants, settings)


MakeOwnScorer = Callable[[Path, Sequence[GeneratedImage], Path], OwnScorer]
"""Makes a published scorer's command from a folder in the benchmark's layout, its images, and a folder for files."""


@dataclass(frozen=True)
class OwnBenchmark:
    """A published scorer, and how its scores are summed up.

    Attributes:
        name: Name of the benchmark.
        judge: The scorer, for reports.
        make: Function that makes its command.
        summarise: Function that sums up scores.
    """

    name: str
    judge: JudgeInfo
    make: MakeOwnScorer
    summarise: Callable[[Sequence[Score]], Table]


def find_images(folder: ImageFolder, layout: Layout, prompts: PromptSet) -> dict[str, list[GeneratedImage]]:
    """Find the images of every variant.

    Raises:
        UsageError: if there is none, or an image of a finished first stage is missing.
    """
    limit = None if folder.settings is None else folder.settings.limit
    chosen = prompts.choose(limit)
    found = {name: layout.find(images, chosen) for name, images in folder.variants.items()}
    for name, images in found.items():
        place = folder.variants[name]
        if not images:
            why = f"no file in it has a name of {layout.title}"
            raise UsageError(f"{place} has no images to score.", why, "check the folder, and --prompts")
        wanted = None if folder.settings is None else len(chosen) * folder.settings.images_per_prompt
        if wanted is not None and len(images) != wanted:
            why = f"it has {len(images)} of {wanted} images"
            raise UsageError(f"{place} is not complete.", why, "run `generate` again: it draws what is missing")
    if folder.settings is not None and folder.settings.prompts_sha256 != prompts.sha256:
        why = "the images were made for other prompts than these"
        raise UsageError("The prompts have changed.", why, "give --prompts the file that `generate` had")
    return found


def score_benchmark(
    scorer: Benchmark | OwnBenchmark,
    layout: Layout,
    prompts: PromptSet,
    folder: ImageFolder,
    output: Path,
    *,
    collect: bool = False,
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score every variant of a folder, and write and return the report. The same call resumes.

    Args:
        scorer: Benchmark with its scorer, or a published scorer.
        layout: Layout of the benchmark.
        prompts: All its prompts.
        folder: Images.
        output: Folder of the scores; one scorer's each.
        collect: Whether to read the results of a published scorer that ran already, instead of running it.
        log: Function that receives lines of progress.

    Raises:
        UsageError: if images are missing or can't be read, or the output folder holds something else.
    """
    found = find_images(folder, layout, prompts)
    settings = ScoreSettings(
        benchmark=layout.name,
        scorer=scorer.judge.name,
        scorer_sha256=scorer.judge.sha256,
        prompts_sha256=prompts.sha256,
    )
    files = {name: output / f"{name}.jsonl" for name in found}
    require_own(output, (REPORT, *(path.name for path in files.values())))
    tables: dict[str, Table] = {}
    with claimed(output, settings, outputs=[REPORT, *(path.name for path in files.values())]):
        for name, images in found.items():
            if isinstance(scorer, OwnBenchmark):
                own = scorer.make(folder.variants[name].absolute(), images, (output / f"{name}-own").absolute())
                log(f"{name}: {own.command}")
                scores = own.collect(images) if collect else own.run(images)
                write_text(files[name], json_lines(_line(score, folder.root) for score in scores))
            else:
                scores = _scored(scorer, images, files[name], folder.root, name, log)
            tables[name] = scorer.summarise(scores)
        report = _report(settings, layout, prompts, folder, found, tables)
        write_text(output / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def scores_folder(folder: ImageFolder, kind: str, judge: JudgeInfo) -> Path:
    """Return the folder for a scorer's scores beside the images that the first stage wrote.

    Args:
        folder: Images.
        kind: Kind of the scorer, "transformers" or "own".
        judge: The scorer.

    Raises:
        UsageError: for images made elsewhere, whose folder nothing is written to.
    """
    if folder.settings is None:
        why = f"nothing is written to {folder.root}, since it was made elsewhere"
        raise UsageError("Say where to write the scores.", why, "add -o FOLDER")
    return folder.root / SCORES / (f"{kind}-{judge.sha256[:8]}" if judge.sha256 else kind)


def _scored(
    benchmark: Benchmark,
    images: Sequence[GeneratedImage],
    path: Path,
    root: Path,
    name: str,
    log: Callable[[str], None],
) -> list[Score]:
    """Score images that have no line with their digest yet, and keep a line for each."""
    files = {image.path: hashlib.sha256(image.path.read_bytes()).hexdigest() for image in images}
    digests = {(image.prompt.id, image.seed): files[image.path] for image in images}
    done: dict[_Key, Score] = {}
    for row in _rows(path):
        if digests.get((row["id"], row["seed"])) == row.pop("sha256", None):
            done[row["id"], row["seed"]] = Score.from_row(row)
    write_text(path, json_lines(_line(score, root, digests) for score in done.values()))
    rest = [image for image in images if (image.prompt.id, image.seed) not in done]
    for start in range(0, len(rest), _CHUNK):
        chunk = rest[start : start + _CHUNK]
        with path.open("a", encoding="utf-8") as file:
            for score in benchmark.score([EvalItem(image, image.prompt) for image in chunk]):
                done[score.id, score.seed] = score
                file.write(json.dumps(_line(score, root, digests)) + "\n")
                file.flush()
        log(f"{name}: scored {len(done)} of {len(images)} images")
    scores = [done[image.prompt.id, image.seed] for image in images]
    write_text(path, json_lines(_line(score, root, digests) for score in scores))
    return scores


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a file that may not be there, or end in the middle of a line."""
    if not path.is_file():
        return
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the line that was being written when the process was killed
        if isinstance(row, dict) and {"id", "seed", "image", "score"} <= set(row):
            yield row


def _line(score: Score, root: Path, digests: Mapping[_Key, str] | None = None) -> dict[str, Any]:
    path = Path(score.image)
    row = score.to_row() | {"image": str(path.relative_to(root)) if path.is_relative_to(root) else score.image}
    return row if digests is None else row | {"sha256": digests[score.id, score.seed]}


def _report(
    settings: ScoreSettings,
    layout: Layout,
    prompts: PromptSet,
    folder: ImageFolder,
    images: Mapping[str, Sequence[GeneratedImage]],
    tables: Mapping[str, Table],
) -> dict[str, Any]:
    variants = {}
    for name, table in tables.items():
        used = len({image.prompt.id for image in images[name]})
        rows = [asdict(row) for row in table.rows]
        variants[name] = {
            "images": len(images[name]),
            "prompts": used,
            "complete": used == len(prompts.prompts),
            "overall": rows[-1]["score"],
            "results": rows,
        }
    return {
        "format": 1,
        "benchmark": layout.title,
        "scorer": {"name": settings.scorer, "sha256": settings.scorer_sha256},
        "unit": next(iter(tables.values())).unit,
        "prompts": {"source": prompts.source, "sha256": prompts.sha256, "count": len(prompts.prompts)},
        "images": None if folder.settings is None else folder.settings.model_dump(mode="json"),
        "variants": variants,
    }
