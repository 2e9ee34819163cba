"""`bitvar generate --prompts FILE --out DIR`: a run that resumes, and that several processes share."""

import hashlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import typer

from bitvar.bulk import LEDGER, DrawingHooks, WorkItem, WorkResult, generate_work
from bitvar.bulk.cluster import ClusterOptions, generate_on_cluster
from bitvar.bulk.settings import claim_folder, read_base_seed
from bitvar.bulk.work import address_of, check_items, drawn_by
from bitvar.cli.echo import say
from bitvar.cli.image_output import check_writable
from bitvar.cli.prompt_job import JobSettings, PromptJob, options_of, quality_name, seeds_from
from bitvar.errors import UsageError
from bitvar.pipeline.file_names import FIELDS, default_name, targets_of
from bitvar.pipeline.image_files import FORMATS, check_background, check_size, format_of
from bitvar.pipeline.request import GenerationRequest
from bitvar.rewriting import Rewritten, read_rewrites, write_rewrites

if TYPE_CHECKING:
    from bitvar.pipeline import InfinityPipeline

REWRITES: Final = "rewrites.jsonl"
"""Name of the file with rewritten prompts, in the folder of a run."""

DIGITS: Final = 8
"""Digits of the address in the name of an image whose plain name another image wants as well."""


@dataclass(frozen=True)
class RunOptions:
    """Where the images of a run go, and how.

    Attributes:
        folder: Folder of the run.
        pattern: Names in the folder, as for `-o`; None for names made from prompt and seed.
        batch_size: Most images to draw together.
        cluster: Actors of a Ray cluster that draw; None to draw in this process.
    """

    folder: Path
    pattern: str | None
    batch_size: int
    cluster: ClusterOptions | None = None

    @classmethod
    def read(
        cls,
        out: str | None,
        output: str | None,
        batch_size: int | None,
        ray: tuple[int | None, str | None],
        *,
        prompts: str | None,
        grid: bool | None,
    ) -> "RunOptions | None":
        """Read the options; None without `--out`. `ray` has the number of actors and the address of the cluster.

        Raises:
            UsageError: Options exclude each other.
        """
        actors, address = ray
        if out is None:
            for name, value in (("--batch-size", batch_size), ("--ray-actors", actors), ("--ray-address", address)):
                if value is not None:
                    raise UsageError(f"{name} needs --out.", "it belongs to a run over a prompts file", "add --out DIR")
            return None
        if address is not None and actors is None:
            raise UsageError("--ray-address needs --ray-actors.", "nothing would be drawn there", "add --ray-actors 2")
        if prompts is None:
            why = "it is the folder of a run over a prompts file"
            raise UsageError("--out needs --prompts.", why, "give --prompts FILE, or name the image's file with -o")
        if grid:
            why = "each image of a run has a file of its own"
            raise UsageError("--grid and --out were given.", why, "leave one of them out")
        if output is not None and (output == "" or Path(output).is_absolute() or ".." in Path(output).parts):
            why = "with --out, it is a pattern of names inside that folder"
            fix = 'give one such as -o "{prompt}-{seed}.webp", or leave it out'
            raise UsageError(f"Can't use -o {output!r}.", why, fix)
        _require_known_fields(output or "")
        if out == "":
            raise UsageError("--out is empty, so it names no folder.", fix="give a folder; . is the current one")
        folder = Path(out)
        check_writable(folder, folder)
        return cls(folder, output, batch_size or 16, None if actors is None else ClusterOptions(actors, address))


def draw_run(
    run: RunOptions,
    jobs: Sequence[PromptJob],
    pipeline: "InfinityPipeline",
    *,
    shared: Mapping[str, Any],
    hooks: DrawingHooks,
    provenance: Mapping[str, Any],
    load: "Callable[[], InfinityPipeline]",
) -> WorkResult:
    """Draw jobs that are resolved into the folder of a run.

    Args:
        run: Where the images go.
        jobs: A job for each line.
        pipeline: Model to draw with; for a cluster, the same model on this machine.
        shared: Settings that all images share, as JSON values by the names of their options.
        hooks: Watermark and control.
        provenance: Values of the records that say where the model comes from.
        load: Function that loads the model in an actor of a cluster.

    Raises:
        UsageError: The folder has images of other settings, or something is in the way of an image.
    """
    drawing = drawn_by(pipeline, hooks)
    if run.cluster is not None:  # its device and precision are known there alone
        drawing = {**drawing, "device": "Ray", "dtype": None, "optimizations": None}
    base_seed = read_base_seed(run.folder)
    base_seed = secrets.randbelow(2**32) if base_seed is None else base_seed
    items = work_items(jobs, run.pattern, base_seed, drawing=drawing, provenance=provenance)  # refuses before it writes
    own = {**drawing, **shared, "model": pipeline.model_name, "names": run.pattern}
    claimed = claim_folder(run.folder, own, base_seed=base_seed)
    if claimed != base_seed:  # another process began at the same moment
        items = work_items(jobs, run.pattern, claimed, drawing=drawing, provenance=provenance)
    if repeated := sum(len(job.seeds) for job in jobs) - len(items):
        count = "1 image repeats another" if repeated == 1 else f"{repeated} images repeat others"
        say(f"Note: {count} in prompt, seed and settings; each is drawn once.", err=True)
    options: dict[str, Any] = {"batch_size": run.batch_size, "hooks": hooks, "log": lambda text: say(text, err=True)}
    options["accepted"] = lambda: keep_rewrites(run.folder / REWRITES, jobs)  # a run that is refused changes nothing
    with _telling_how_to_go_on(run.folder):
        if run.cluster is not None:
            return generate_on_cluster(load, items, run.folder, cluster=run.cluster, **options)
        return generate_work(pipeline, items, run.folder, **options)


@contextmanager
def _telling_how_to_go_on(folder: Path) -> Iterator[None]:
    """Tell a user who stops the run how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"The images in {folder} are kept; the same command goes on from there.", err=True)
        raise


def _require_known_fields(pattern: str) -> None:
    unknown = [field for field in re.findall(r"\{\w*\}", pattern) if field not in FIELDS]
    if unknown:
        why = f"{unknown[0]} is no field of a pattern"
        raise UsageError(f"Can't use -o {pattern!r}.", why, f"the fields are {', '.join(FIELDS)}")


def work_items(
    jobs: Sequence[PromptJob],
    pattern: str | None,
    base_seed: int,
    *,
    drawing: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> list[WorkItem]:
    """Make a work item for each image of jobs that are resolved.

    Args:
        jobs: A job for each line.
        pattern: Names of files, as for `-o`; None for names made from prompt and seed.
        base_seed: Number from which seeds are derived for lines that have none.
        drawing: What `drawn_by` returns.
        provenance: Values of the records that say where the model comes from.

    Raises:
        UsageError: Two images would get the same name, or a name can't hold what was asked for.
    """
    seeded = _with_seeds(jobs, base_seed)
    items = [item for job in seeded for item in _items_of(job, provenance)]
    sizes = [job.file_size for job in seeded for _ in job.seeds]
    if pattern is not None:
        targets = targets_of(pattern, [(_given_prompt(item), item.seed) for item in items])
        files = [item.file or target.path.as_posix() for item, target in zip(items, targets, strict=True)]
    else:
        files = _distinct_names(items, drawing)
    for item, file, size in zip(items, files, sizes, strict=True):
        check_background(item.request.background, format_of(Path(file)))
        check_size(size, format_of(Path(file)))
    named = _without_repeats([replace(item, file=file) for item, file in zip(items, files, strict=True)])
    check_items(named)
    return named


def report(run: RunOptions, result: WorkResult, model: str, *, load_seconds: float, as_json: bool) -> None:
    """Say on stdout what the folder holds now."""
    ledger = str(run.folder / LEDGER)
    elsewhere = len(result.lines) - result.drawn - result.already_there
    if as_json:
        counts = {"images": len(result.lines), "drawn": result.drawn, "drawn_by_others": elsewhere}
        seconds = {"load_seconds": round(load_seconds, 3), "draw_seconds": round(result.seconds, 3)}
        values = {"folder": str(run.folder), "ledger": ledger, **counts, "already_there": result.already_there}
        typer.echo(json.dumps({**values, "model": model, **seconds}))
        return
    others = f", {elsewhere} by other processes" if elsewhere else ""
    images = "1 image" if len(result.lines) == 1 else f"{len(result.lines)} images"
    say(f"{run.folder}  {images}: {result.drawn} drawn now{others}, {result.already_there} were there")
    say(f"{ledger}  lists them; loaded in {load_seconds:.1f} s, drawn in {result.seconds:.1f} s", err=True)


def shared_settings(settings: JobSettings) -> dict[str, Any]:
    """List the settings of the command line that a run's images share, as JSON values by the names of their options."""
    return {
        "seed": settings.seed,
        "negative": settings.negative,
        "size": settings.size and settings.size.text,
        "exact size": settings.exact_size,
        "enlarge": settings.enlarge,
        "background": settings.background,
        "quality": quality_name(settings.quality),
        "further prompts": [prompt.model_dump(mode="json") for prompt in settings.mix or ()],
        "second seed": settings.mixed_seed and settings.mixed_seed.model_dump(mode="json"),
        **{name.replace("_", " "): value for name, value in settings.sampling.items()},
    }


def keep_rewrites(path: Path, jobs: Sequence[PromptJob]) -> None:
    """Add the rewritten prompts of jobs to the file that records them, from which `--rewrites` draws them again."""
    rewrites = {
        job.original_prompt: Rewritten(job.original_prompt, job.prompt, job.rewritten_by or "")
        for job in jobs
        if job.original_prompt is not None
    }
    if rewrites:
        write_rewrites(path, ({**read_rewrites(path), **rewrites} if path.is_file() else rewrites).values())


def require_no_names(jobs: Sequence[PromptJob], source: str) -> None:
    """Refuse names of files and ids in the lines of a prompts file that is drawn without `--out`.

    Raises:
        UsageError: A line has one.
    """
    for job in jobs:
        if job.file is not None or job.id is not None:
            why = f"line {job.line} has one, and they belong to the folder of a run"
            raise UsageError(
                f"Names and ids of the lines in {source} need --out.", why, "give --out DIR in place of -o"
            )


def _with_seeds(jobs: Sequence[PromptJob], base_seed: int) -> list[PromptJob]:
    """Give seeds to the jobs that have none: by the prompt, and by how often it came before in the list.

    So a line keeps its seeds when others are added, and lines of one prompt differ.
    """
    counts: Counter[str] = Counter()

    def seeded(job: PromptJob) -> PromptJob:
        if not job.seed_is_open:
            return job
        counts[job.given_prompt] += 1
        text = f"{base_seed} {counts[job.given_prompt]} {job.given_prompt}"
        first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return replace(job, seeds=seeds_from(first, len(job.seeds)))

    return [seeded(job) for job in jobs]


def _items_of(job: PromptJob, provenance: Mapping[str, Any]) -> list[WorkItem]:
    request = GenerationRequest.from_options(job.prompt, options_of(job), source="the options")
    note = {"line": job.line} | ({} if job.id is None else {"id": job.id})
    files = [""] * len(job.seeds) if job.file is None else _numbered(job.file, len(job.seeds))
    return [
        WorkItem(file, request, seed, note=note, record={**job.recorded, **provenance})
        for file, seed in zip(files, job.seeds, strict=True)
    ]


def _numbered(file: str, count: int) -> list[str]:
    """The names of a line's images: the line's own, with numbers if there are several."""
    path = PurePosixPath(file if file.lower().endswith(tuple(FORMATS)) else f"{file}.png")
    if count == 1:
        return [str(path)]
    return [str(path.with_name(f"{path.stem}-{i + 1}{path.suffix}")) for i in range(count)]


def _distinct_names(items: Sequence[WorkItem], drawing: Mapping[str, Any]) -> list[str]:
    """Name the images that have no name; different ones that would share one get the beginning of their address too."""
    plain = [item.file or default_name(_given_prompt(item), item.seed) for item in items]
    counts = Counter(name.casefold() for name in plain)
    addresses = [
        address_of(item, drawing) if counts[name.casefold()] > 1 else ""
        for item, name in zip(items, plain, strict=True)
    ]
    sharing: dict[str, set[str]] = {}
    for name, address in zip(plain, addresses, strict=True):
        sharing.setdefault(name.casefold(), set()).add(address)
    return [
        default_name(_given_prompt(item), item.seed, f"-{address[:DIGITS]}.png")
        if len(sharing[name.casefold()]) > 1 and not item.file
        else name
        for item, name, address in zip(items, plain, addresses, strict=True)
    ]


def _given_prompt(item: WorkItem) -> str:
    return item.record["original_prompt"] or item.prompt


def _without_repeats(items: Sequence[WorkItem]) -> list[WorkItem]:
    """Leave out lines that repeat another in everything: they are one image."""
    different: dict[str, WorkItem] = {}
    for item in items:
        first = different.setdefault(item.file, item)
        if (first.request, first.seed, first.record) != (item.request, item.seed, item.record):
            why = "their prompts, seeds or settings differ"
            raise UsageError(f"Two images would go to {item.file}.", why, "give the lines different names")
    return list(different.values())
