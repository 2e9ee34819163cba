"""Evaluation of text-to-image models on a benchmark: images of every candidate, scores, metrics, sheet and report.

It works for any `Benchmark`. If a call is interrupted, the same call resumes it: images are kept batch by batch, and
scores candidate by candidate.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bitvar.config import Config, read_json
from bitvar.errors import UsageError
from bitvar.evaluation.benchmarks.base import (
    Benchmark,
    EvalItem,
    EvalPrompt,
    GeneratedImage,
    HasReferences,
    Score,
    prompts_digest,
)
from bitvar.evaluation.generation.images import (
    GenerationSettings,
    find_images,
    generate_blank_images,
    generate_images,
    images_digest,
    seconds_per_image,
)
from bitvar.evaluation.generation.items import matched, shuffled
from bitvar.evaluation.generation.metrics import Metric
from bitvar.evaluation.generation.scoring import read_scores, score_items
from bitvar.evaluation.generation.sheet import SheetRow, draw_rows, example_rows
from bitvar.evaluation.reconstruction.images import find_source
from bitvar.evaluation.run_folder import claimed, require_own
from bitvar.files import atomic_path, write_text
from bitvar.pipeline import InfinityPipeline

REPORT: Final = "report.json"
SHEET: Final = "sheet.png"
IMAGES: Final = "images"
JUDGEMENTS: Final = "judgements"
REAL: Final = "real"

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SUFFIXES: Final = ("-shuffled", "-blank")
_OWN_IMAGES: Final = ("real", "model", "images")


class NamedModel(Config):
    """A model by its label in reports, its name, and the digest of its folder."""

    label: str
    name: str
    sha256: str


class NamedImages(Config):
    """A folder of images by its label in reports, and the digest of its images (`images.images_digest`)."""

    label: str
    folder: str
    sha256: str


class EvaluationSettings(Config):
    """Everything that determines the results.

    Attributes:
        benchmark, prompts_sha256: Name of the benchmark, and the digest of all its prompts.
        judge, judge_sha256: Name and digest of its judge.
        data, data_sha256: Data set of the metrics and reference images, and the digest of its `samples.jsonl`; None
            if there is none.
        splits, limit: Splits to use, () for all; and maximum number of prompts per split and skill, None for all.
        models, images: Candidates; at least one in total.
        references: Whether real images, shuffled prompts and blank prompts are scored too.
        seeds: Number of images of each prompt.
        guidance, temperature: Sampling parameters of the models; None is each model's default.
        metrics: Names of the metrics.
        feature_network: Name of the network of the Frechet distance; None if it isn't measured.
        batch_size: Number of images generated at once.
        dtype, device: Precision and device of the models.
    """

    format: Literal[2] = 2
    benchmark: str
    prompts_sha256: str
    judge: str
    judge_sha256: str
    data: str | None = None
    data_sha256: str | None = None
    splits: tuple[str, ...] = ()
    limit: int | None = None
    models: tuple[NamedModel, ...] = ()
    images: tuple[NamedImages, ...] = ()
    references: bool = True
    seeds: int = 1
    guidance: float | None = None
    temperature: float | None = None
    metrics: tuple[str, ...] = ()
    feature_network: str | None = None
    batch_size: int = 8
    dtype: str
    device: str

    @classmethod
    def of(cls, benchmark: Benchmark, **values: Any) -> "EvaluationSettings":
        """Make the settings of a benchmark, filling in its name, prompts and judge."""
        return cls(
            benchmark=benchmark.name,
            prompts_sha256=prompts_digest(benchmark.prompts()),
            judge=benchmark.judge.name,
            judge_sha256=benchmark.judge.sha256,
            **values,
        )

    @property
    def generation(self) -> GenerationSettings:
        """Settings with which models generate images."""
        return GenerationSettings(self.batch_size, self.guidance, self.temperature)


@dataclass(frozen=True)
class Candidate:
    """Images under one label.

    Attributes:
        label: Label in the report.
        kind: "real", "model", "images", "shuffled" or "blank".
        items: Images with the prompts to score them by.
        facts: Further entries of the report.
    """

    label: str
    kind: str
    items: Sequence[EvalItem]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> list[GeneratedImage]:
        """Images that were made for their prompts; a baseline has none."""
        return [item.image for item in self.items] if self.kind in _OWN_IMAGES else []


def select_prompts(
    prompts: Sequence[EvalPrompt], *, splits: Sequence[str] = (), limit: int | None = None
) -> list[EvalPrompt]:
    """Select the prompts of some splits (all by default), the first `limit` of each skill in each."""
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for prompt in prompts:
        counts[prompt.split, prompt.skill] += 1
        within = limit is None or counts[prompt.split, prompt.skill] <= limit
        if within and (not splits or prompt.split in splits):
            chosen.append(prompt)
    return chosen


def require_label(label: str, others: Sequence[str]) -> None:
    """Refuse a label that is taken, or can't be the name of a folder.

    Raises:
        UsageError: if the label is refused.
    """
    fix = "name it: label=..."
    if not _LABEL.fullmatch(label):
        raise UsageError(f"Can't call a candidate {label!r}.", "use letters, digits and . _ + - only", fix)
    if label in (REAL, *others) or label.endswith(_SUFFIXES):
        why = "candidates need names that differ from each other's and from those of the references"
        raise UsageError(f"Can't call a candidate {label!r}.", why, fix)


def evaluate_generation(
    settings: EvaluationSettings,
    benchmark: Benchmark,
    models: Mapping[str, InfinityPipeline],
    out: Path,
    *,
    metrics: Sequence[Metric] = (),
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Generate and score images, or resume the same evaluation, and write `report.json`.

    Args:
        settings: Settings of the evaluation.
        benchmark: Benchmark of the settings.
        models: Models of the settings, by label, loaded as the settings say.
        out: Folder for images, judgements, the sheet and the report.
        metrics: Metrics of the settings.
        log: Called with each line of progress.

    Returns:
        The report (docs/evaluation.md).

    Raises:
        UsageError: for images that are missing or can't be used, or a folder with another evaluation in it.
    """
    require_own(out, (REPORT, SHEET, IMAGES, JUDGEMENTS))
    with claimed(out, settings, outputs=(REPORT, IMAGES, JUDGEMENTS)):
        path = out / REPORT
        if path.is_file():
            return read_json(path)
        entries: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        rows: dict[str, list[SheetRow]] = {}
        unit = ""
        for candidate in _candidates(settings, benchmark, models, out, log):
            label, scores = candidate.label, _score(candidate, benchmark, out, log)
            table = benchmark.summarise(scores)
            unit = table.unit
            results += [{"candidate": label, "kind": candidate.kind, **asdict(row)} for row in table.rows]
            values, more = _compute_metrics(candidate, metrics, log)
            if candidate.images:
                rows[label] = [*example_rows(label, scores, out), *more]
            entries.append(_entry(candidate, scores, values))
        # real images come last, since their errors are the judge's
        ordered = [row for label in sorted(rows, key=lambda label: label == REAL) for row in rows[label]]
        with atomic_path(out / SHEET) as temporary:
            draw_rows(ordered).save(temporary, format="PNG")
        report = {
            "format": 2,
            "settings": settings.model_dump(mode="json"),
            "judge": asdict(benchmark.judge),
            "unit": unit,
            "candidates": entries,
            "results": results,
        }
        write_text(path, json.dumps(report, indent=1) + "\n")
        return report


def _candidates(
    settings: EvaluationSettings,
    benchmark: Benchmark,
    models: Mapping[str, InfinityPipeline],
    out: Path,
    log: Callable[[str], None],
) -> Iterator[Candidate]:
    """Yield every candidate with its images generated. Those that are read from files come first, to fail early."""
    prompts = select_prompts(benchmark.prompts(), splits=settings.splits, limit=settings.limit)
    folders = {named.label: find_images(find_source(named.folder), prompts) for named in settings.images}
    for named in settings.images:
        if images_digest(folders[named.label]) != named.sha256:
            fix = "restore them, or start a new evaluation with another -o"
            raise UsageError(f"The images of {named.folder} have changed.", fix=fix)
    if settings.references and isinstance(benchmark, HasReferences):
        yield Candidate(REAL, "real", matched(benchmark.reference_images(prompts)))
    for label, images in folders.items():
        yield Candidate(label, "images", matched(images))
        if settings.references:
            yield Candidate(f"{label}-shuffled", "shuffled", shuffled(images), {"of": label})
    for label, pipeline in models.items():
        folder, generation = out / IMAGES / label, settings.generation
        images = generate_images(pipeline, prompts, folder, num_seeds=settings.seeds, settings=generation, log=log)
        speed = {
            **seconds_per_image(folder),
            "batch_size": settings.batch_size,
            "dtype": settings.dtype,
            "device": settings.device,
        }
        yield Candidate(label, "model", matched(images), {"speed": speed})
        if settings.references:
            yield Candidate(f"{label}-shuffled", "shuffled", shuffled(images), {"of": label})
            blank_folder = out / IMAGES / f"{label}-blank"
            blank = generate_blank_images(pipeline, prompts, blank_folder, settings=generation, log=log)
            yield Candidate(f"{label}-blank", "blank", matched(blank), {"of": label})


def _score(candidate: Candidate, benchmark: Benchmark, out: Path, log: Callable[[str], None]) -> list[Score]:
    path = out / JUDGEMENTS / f"{candidate.label}.jsonl"
    if not path.is_file():
        log(f"judging {len(candidate.items)} images of {candidate.label}")
        score_items(benchmark, candidate.items, path, root=out)
    return read_scores(path)


def _compute_metrics(
    candidate: Candidate, metrics: Sequence[Metric], log: Callable[[str], None]
) -> tuple[dict[str, Mapping[str, Any]], list[SheetRow]]:
    values: dict[str, Mapping[str, Any]] = {}
    rows: list[SheetRow] = []
    for metric in metrics if candidate.images else ():
        log(f"measuring {metric.name} of {candidate.label}")
        result = metric(candidate.images)
        values[metric.name] = result.values
        rows += [SheetRow(f"{candidate.label}: {row.heading}", row.cells) for row in result.rows]
    return values, rows


def _entry(candidate: Candidate, scores: Sequence[Score], values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "candidate": candidate.label,
        "kind": candidate.kind,
        "images": len({score.image for score in scores}),
        **candidate.facts,
        "metrics": dict(values),
    }
