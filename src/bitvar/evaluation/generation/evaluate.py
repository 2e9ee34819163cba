"""The evaluation of scenes: images of every contender, verdicts, scores, other measures, the sheet and the report.

Killed, the same call goes on: images are kept batch by batch, verdicts contender by contender.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock, Timeout

from bitvar.config import Config, read_json
from bitvar.data.writing import json_lines
from bitvar.errors import UsageError
from bitvar.evaluation.generation.images import (
    Making,
    Shown,
    find_images,
    images_digest,
    make_blank_images,
    make_images,
    real_images,
    seconds_per_image,
)
from bitvar.evaluation.generation.intervals import score
from bitvar.evaluation.generation.metrics import Measure
from bitvar.evaluation.generation.scoring import (
    Case,
    Jury,
    Onlooker,
    own_cases,
    read_verdicts,
    shuffled_cases,
)
from bitvar.evaluation.generation.sheet import SheetRow, draw_rows, example_rows
from bitvar.evaluation.reconstruction.images import find_source
from bitvar.evaluation.run_folder import SETTINGS, require_own
from bitvar.files import atomic_path, write_text
from bitvar.icons.dataset.prompts import ScenePrompt, read_prompts
from bitvar.pipeline import InfinityPipeline

REPORT: Final = "report.json"
SHEET: Final = "sheet.png"
IMAGES: Final = "images"
VERDICTS: Final = "verdicts"
REAL: Final = "real"

_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SUFFIXES: Final = ("-shuffled", "-blank")


class NamedModel(Config):
    """A model as reports call it, and which it is (`pipeline.InfinityPipeline.model_name` and its folder's digest)."""

    label: str
    name: str
    sha256: str


class NamedImages(Config):
    """A folder of images as reports call it; its images by their digest (`images.images_digest`)."""

    label: str
    folder: str
    sha256: str


class ScenesSettings(Config):
    """What decides the figures.

    Attributes:
        prompts: digest of the prompts' file.
        data, data_sha256: the icon set, and its `samples.jsonl`.
        splits, limit: of the prompts: only these splits, and the first so many of each skill in each.
        models, images: the contenders, one or more.
        references: whether the set's own images, shuffled prompts and blank prompts are judged beside.
        seeds: images that a model makes of a prompt.
        guidance, temperature: of the models; None is their own.
        judge, judge_sha256: its name, and which one.
        measures: names of the others.
        feature_network: of the Frechet distance.
        batch_size: images made at once.
        dtype, device: of the models.
    """

    format: Literal[1] = 1
    prompts: str
    data: str
    data_sha256: str
    splits: tuple[str, ...]
    limit: int | None
    models: tuple[NamedModel, ...]
    images: tuple[NamedImages, ...]
    references: bool
    seeds: int
    guidance: float | None
    temperature: float | None
    judge: str
    judge_sha256: str
    measures: tuple[str, ...]
    feature_network: str
    batch_size: int
    dtype: str
    device: str

    @property
    def making(self) -> Making:
        """How images are made."""
        return Making(self.batch_size, self.guidance, self.temperature)


@dataclass(frozen=True)
class Contender:
    """Images under one label.

    Attributes:
        label: of the report.
        kind: "real", "model", "images", "shuffled" or "blank".
        cases: what is judged.
        facts: for the report.
    """

    label: str
    kind: str
    cases: Sequence[Case]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> list[Shown]:
        """Its images by their own prompts; those of shuffled and blank prompts are no images of a prompt."""
        return [case.shown for case in self.cases] if self.kind in ("real", "model", "images") else []


def select_prompts(splits: Sequence[str], limit: int | None) -> list[ScenePrompt]:
    """The prompts of these splits, the first `limit` of each skill in each."""
    counts: Counter[tuple[str, str]] = Counter()
    chosen = []
    for prompt in read_prompts():
        counts[prompt.split, prompt.skill] += 1
        if prompt.split in splits and (limit is None or counts[prompt.split, prompt.skill] <= limit):
            chosen.append(prompt)
    return chosen


def require_label(label: str, others: Sequence[str]) -> None:
    """Refuse a label that is taken, or can't be the name of a folder.

    Raises:
        UsageError: says why.
    """
    todo = "name it: label=..."
    if not _LABEL.fullmatch(label):
        raise UsageError(f"Can't call a contender {label!r}.", "letters, digits and . _ + - will do", todo)
    if label in (REAL, *others) or label.endswith(_SUFFIXES):
        why = "every contender needs a name of its own, which the references don't have"
        raise UsageError(f"Can't call a contender {label!r}.", why, todo)


def evaluate_scenes(
    settings: ScenesSettings,
    models: Mapping[str, InfinityPipeline],
    jury: Jury,
    out: Path,
    *,
    measures: Sequence[Measure] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Make and judge images, or go on where the same evaluation was stopped, and write `report.json`.

    Args:
        settings: what is measured.
        models: those of the settings, by label, loaded as they say.
        jury: the judge of the settings.
        out: folder for images, verdicts, the sheet and the report.
        measures: those of the settings.
        tell: is told what goes on, in lines.

    Returns:
        The report (docs/evaluation.md).

    Raises:
        UsageError: for images that are missing or can't be used, or a folder with another evaluation in it.
    """
    require_own(out, (REPORT, SHEET, IMAGES, VERDICTS))
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            _claim_folder(out, settings)
            path = out / REPORT
            if path.is_file():
                return read_json(path)
            entries, results, onlooker = [], [], Onlooker(jury, out)
            rows: dict[str, list[SheetRow]] = {}
            for contender in _contenders(settings, models, out, tell):
                label, verdicts = contender.label, _judge(contender, onlooker, out, tell)
                results += [{"contender": label, "kind": contender.kind, **row} for row in score(verdicts)]
                found, more = _measure(contender, measures, tell)
                if contender.shown:
                    rows[label] = [*example_rows(label, verdicts, out), *more]
                entries.append(_entry(contender, verdicts, found))
            # the real ones last: what the judge gets wrong
            ordered = [row for label in sorted(rows, key=lambda label: label == REAL) for row in rows[label]]
            with atomic_path(out / SHEET) as temporary:
                draw_rows(ordered).save(temporary, format="PNG")
            report = _report(settings, jury, entries, results)
            write_text(path, json.dumps(report, indent=1) + "\n")
            return report
    except Timeout:
        why, todo = "two at once would mix their images", "wait for it, or choose another folder with -o"
        raise UsageError(f"Another process is evaluating in {out}.", why, todo) from None


def _claim_folder(out: Path, settings: ScenesSettings) -> None:
    """Refuse a folder in which something else has been evaluated, or begun to be."""
    path, there = out / SETTINGS, [name for name in (REPORT, IMAGES, VERDICTS) if (out / name).exists()]
    if not there:
        write_text(path, settings.dump())
        return
    if not path.is_file():
        why = f"it has {' and '.join(there)}, but no {SETTINGS}"
        raise UsageError(f"{out} holds something else.", why, "choose another folder with -o")
    before, now = ScenesSettings.load(path).model_dump(mode="json"), settings.model_dump(mode="json")
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        why = "; ".join(f"{name} was {json.dumps(before[name])}, now {json.dumps(now[name])}" for name in changed)
        raise UsageError(f"{out} holds another evaluation.", why, "choose another folder with -o")


def _contenders(
    settings: ScenesSettings, models: Mapping[str, InfinityPipeline], out: Path, tell: Callable[[str], None]
) -> Iterator[Contender]:
    """Everything that is judged, its images made: first what takes no time and may be missing."""
    prompts = select_prompts(settings.splits, settings.limit)
    folders = {named.label: find_images(find_source(named.folder), prompts) for named in settings.images}
    for named in settings.images:
        if images_digest(folders[named.label]) != named.sha256:
            why = "they are not those that the evaluation began with"
            raise UsageError(f"The images of {named.folder} have changed.", why, "begin anew with another -o")
    if settings.references:
        yield Contender(REAL, "real", own_cases(real_images(find_source(settings.data), prompts)))
    for label, shown in folders.items():
        yield Contender(label, "images", own_cases(shown))
        if settings.references:
            yield Contender(f"{label}-shuffled", "shuffled", shuffled_cases(shown), {"of": label})
    for label, pipeline in models.items():
        folder = out / IMAGES / label
        shown = make_images(pipeline, prompts, folder, num_seeds=settings.seeds, making=settings.making, tell=tell)
        speed = {
            **seconds_per_image(folder),
            "batch_size": settings.batch_size,
            "dtype": settings.dtype,
            "device": settings.device,
        }
        yield Contender(label, "model", own_cases(shown), {"speed": speed})
        if settings.references:
            yield Contender(f"{label}-shuffled", "shuffled", shuffled_cases(shown), {"of": label})
            blank = make_blank_images(
                pipeline, prompts, out / IMAGES / f"{label}-blank", making=settings.making, tell=tell
            )
            yield Contender(f"{label}-blank", "blank", own_cases(blank), {"of": label})


def _judge(contender: Contender, onlooker: Onlooker, out: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    path = out / VERDICTS / f"{contender.label}.jsonl"
    if not path.is_file():
        tell(f"judging {len(contender.cases)} images of {contender.label}")
        path.parent.mkdir(exist_ok=True)
        write_text(path, json_lines(onlooker.judge(contender.cases)))
    return read_verdicts(path)


def _measure(
    contender: Contender, measures: Sequence[Measure], tell: Callable[[str], None]
) -> tuple[dict[str, Mapping[str, Any]], list[SheetRow]]:
    figures: dict[str, Mapping[str, Any]] = {}
    rows: list[SheetRow] = []
    for measure in measures if contender.shown else ():
        tell(f"measuring {measure.name} of {contender.label}")
        finding = measure(contender.shown)
        figures[measure.name] = finding.figures
        rows += [SheetRow(f"{contender.label}: {row.heading}", row.cells) for row in finding.rows]
    return figures, rows


def _entry(
    contender: Contender, verdicts: Sequence[Mapping[str, Any]], figures: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    images = len({line["image"] for line in verdicts})
    return {
        "contender": contender.label,
        "kind": contender.kind,
        "images": images,
        **contender.facts,
        "measures": dict(figures),
    }


def _report(
    settings: ScenesSettings, jury: Jury, entries: list[dict[str, Any]], results: list[dict[str, Any]]
) -> dict[str, Any]:
    judge = {
        "name": jury.name,
        "sha256": jury.sha256,
        "accuracy": {skill: dict(found) for skill, found in jury.accuracy.items()},
        "figures": dict(jury.figures),
    }
    return {
        "format": 1,
        "settings": settings.model_dump(mode="json"),
        "judge": judge,
        "contenders": entries,
        "results": results,
    }
